"""Which variables are secrets, how they are kept out of a plan, and text without them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.errors import ClusterError, SweepError
from ratematch.inputs.clusterfile import parse_cluster
from ratematch.plan import cluster as clusters
from ratematch.plan import experiment as experiments
from ratematch.plan.maskedyaml import mask_yaml
from ratematch.plan.secret import MASK, Masker, is_secret
from ratematch.plan.sweep import Sweep
from tests.support.sweeptext import GOOD, expanded, parse

CANARY = "hf_canary4711"
HEAD = "name: rack\ngpu: gb200\ngpus_per_node: 4\nnodes: 18\n"


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        *("WANDB_API_KEY", "DB_PASSWORD", "PGPASSWORD", "HFTOKEN", "db_pwd", "dbPassword", "apiKey"),
        *("SECRET", "MY_SECRET_2"),
        *("GIT_AUTH", "HTTP_AUTHORIZATION", "CLIENT_CREDENTIALS", "HF_TOKEN_READ", "token", "NGC_APIKEY"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name, "x1y2z3w4")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TOKENIZER", "deepseek"),
        ("KEYBOARD", "us"),
        ("MONKEY", "banana"),
        ("AUTHOR", "somebody"),
        ("NCCL_IB_PKEY", "0x8001"),
        ("TRTLLM_DEEP_EP_TOKEN_LIMIT", "9999"),
        ("SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK", "1024"),
        ("HF_TOKEN_PATH", "/home/me/.token"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/home/me/.aws"),
        ("SSH_AUTH_SOCK", "/run/agent"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json"),
        ("DISABLE_AUTH", "1"),
        ("USE_AUTH_TOKEN", "true"),
        ("CACHE_KEY", "3"),
        ("EOS_TOKEN", "</s>"),
        ("PWD", "/scratch"),
        ("HF_TOKEN", ""),
    ],
)
def test_names_of_no_secret(name: str, value: str) -> None:
    assert not is_secret(name, value)


# ---------------------------------------------------------------------------------------------------- in files


def read_profile(*lines: str) -> clusters.Cluster:
    return parse_cluster(HEAD + "".join(f"{line}\n" for line in lines), "rack.yaml")


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        (["environment: {HF_TOKEN: hf_canary4711, A: b}"], {"HF_TOKEN": CANARY}),
        (["environment: {PLAIN: !secret hf_canary4711}"], {"PLAIN": CANARY}),
        (["environment: {PIN: !secret 12345678}"], {"PIN": "12345678"}),
        (["environment: !secret {ONE: hf_canary4711, TWO: hf_canary4712}"], {"ONE": CANARY, "TWO": "hf_canary4712"}),
        (["environment: {HF_TOKEN: !secret env:MINE}"], {"HF_TOKEN": CANARY}),
        (["environment: {A_TOKEN: &t hf_canary4711, B_TOKEN: *t}"], {"A_TOKEN": CANARY, "B_TOKEN": CANARY}),
        (["environment: {MINE: '***'}"], {"MINE": CANARY}),
    ],
)
def test_a_secret_is_not_in_the_profile(lines: list[str], values: Mapping[str, str]) -> None:
    cluster = read_profile(*lines)
    assert {name: cluster.environment[name] for name in values} == dict.fromkeys(values, MASK)
    assert cluster.secrets.values({"MINE": CANARY}) == values
    written = json.dumps(clusters.to_json(cluster)) + repr(cluster) + repr(cluster.secrets)
    assert not any(value in written for value in values.values())
    assert clusters.from_json(clusters.to_json(cluster)).environment == cluster.environment


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["environment: {HF_TOKEN: hf}"], "rack.yaml:5: environment.HF_TOKEN: a secret has at least 4 characters"),
        (['environment: {HF_TOKEN: "hf_canary\\n4711"}'], "a secret is one line of printable characters"),
        (["environment: {DB_PASSWORD: 4711}"], "rack.yaml:5: environment.DB_PASSWORD: a secret must be text"),
        (["environment: {HF_TOKEN: !secret 'env:'}"], "names no variable"),
        (["command: [serve, --api-key, !secret hf_canary4711]"], "rack.yaml:5: command[2]: only the value of an env"),
        (["command: [serve, --api-key, hf_canary4711]"], "rack.yaml:5: command[2]: a secret would be an argument"),
        (["launcher: [env, HF_TOKEN=hf_canary4711]"], "rack.yaml:5: launcher[1]: a secret would be an argument"),
        (["slurm: {srun: [--api-key=hf_canary4711]}"], "rack.yaml:5: slurm.srun[0]: a secret would be"),
        (["slurm: {sbatch: ['--export=ALL,HF_TOKEN=hf_canary4711']}"], "rack.yaml:5: slurm.sbatch[0]: a secret"),
        (["slurm: {sbatch: [--export=HF_TOKEN=hf_canary4711]}"], "rack.yaml:5: slurm.sbatch[0]: a secret"),
        (["about: !secret hf_canary4711"], "rack.yaml:5: about: only the value of an environment variable"),
    ],
)
def test_what_cannot_be_kept_secret_is_refused_without_showing_it(lines: list[str], why: str) -> None:
    with pytest.raises(ClusterError) as caught:
        read_profile(*lines)
    assert why in str(caught.value) and "canary" not in str(caught.value) and "4711" not in str(caught.value)


def with_secret(value: str, stage: str = "gen") -> Sweep:
    return parse(GOOD, f"{stage}.environment.HF_TOKEN={value}")


def test_an_experiment_has_the_name_of_a_secret_and_its_id_does_not_depend_on_the_value() -> None:
    one, other = with_secret(CANARY), with_secret("!secret env:ELSEWHERE")
    ids = [[each.id for each in expanded(sweep).experiments] for sweep in (one, other, parse(GOOD))]
    assert ids[0] == ids[1]
    assert ids[0][0] == ids[2][0] and ids[0][1] != ids[2][1], "of gen alone"
    assert one.secrets.values({}) == {"HF_TOKEN": CANARY} and other.secrets.values({}) == {}
    assert other.secrets.source("HF_TOKEN") == "ELSEWHERE"
    written = repr(one) + json.dumps([experiments.to_json(each) for each in expanded(one).experiments])
    assert CANARY not in written and MASK in written


def test_ids_without_secrets_are_what_they_were() -> None:
    assert expanded(parse(GOOD, "gen.environment.A=b")).experiments[1].id == "448412bd80"


@pytest.mark.parametrize(
    "override",
    [
        "gen.options.api_key=hf_canary4711",
        "gen.options.nested={hf-token: hf_canary4711}",
        "gen.axes={mapping: [TEP4], options.api_key: [hf_canary4711]}",
        "gen.options.list=[{password: hf_canary4711}]",
    ],
)
def test_an_option_is_no_place_for_a_secret(override: str) -> None:
    with pytest.raises(SweepError, match=r"^--set: gen\..*: a secret would be an argument") as caught:
        parse(GOOD, override)
    assert "4711" not in str(caught.value)


def test_what_is_marked_unchecked_is_no_secret() -> None:
    gen = parse(GOOD, "gen.options.odd_key=!unchecked hf_canary4711").stages[1]
    assert gen.options == {"odd_key": "hf_canary4711"}


def test_two_values_of_one_variable_are_refused() -> None:
    with pytest.raises(SweepError, match=r"ctx.environment.HF_TOKEN|gen.environment.HF_TOKEN") as caught:
        parse(GOOD, f"ctx.environment.HF_TOKEN={CANARY}", "gen.environment.HF_TOKEN=hf_other4711")
    assert "another value" in str(caught.value) and "4711" not in str(caught.value)
    same = parse(GOOD, f"ctx.environment.HF_TOKEN={CANARY}", f"gen.environment.HF_TOKEN={CANARY}")
    assert same.secrets.values({}) == {"HF_TOKEN": CANARY}


def test_a_stored_profile_of_an_earlier_version_is_read_without_its_secrets() -> None:
    old = clusters.to_json(replace(read_profile(), environment={"HF_TOKEN": CANARY, "A": "b"}))
    assert CANARY in json.dumps(old)
    assert clusters.from_json(old).environment == {"HF_TOKEN": MASK, "A": "b"}


# ------------------------------------------------------------------------------------------------------ text


def test_a_file_is_kept_as_it_was_typed_but_for_its_secrets() -> None:
    text = f"""\
about: kept  # a comment
ifb:
  environment: {{HF_TOKEN: &t {CANARY}, A: "b", PLAIN: !secret '{CANARY}'}}
gen:
  environment:
    OPENAI_API_KEY: *t
    NOTE: |
      kept
    DB_PASSWORD: >-
      {CANARY}
options: {{HF_TOKEN: 4}}
"""
    masked = mask_yaml(text)
    assert CANARY not in masked
    known, hidden = yaml.safe_load(text.replace("!secret", "")), yaml.safe_load(masked)
    assert hidden["gen"]["environment"] == {"OPENAI_API_KEY": MASK, "NOTE": "kept\n", "DB_PASSWORD": MASK}
    assert hidden["ifb"]["environment"] == {"HF_TOKEN": MASK, "A": "b", "PLAIN": MASK}
    assert hidden["about"] == known["about"] and hidden["options"] == known["options"] and "# a comment" in masked
    assert mask_yaml(masked) == masked and mask_yaml("a: [") == "a: ["


SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=383, exclude_categories=("Cc", "Cf")), min_size=8)


@settings(max_examples=40)
@given(SECRET, st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_masked_however_it_is_spelt(secret: str, before: str, after: str) -> None:
    masker = Masker((secret,))
    for text in (secret, json.dumps([secret]), repr([secret]), quote(secret, safe="")):
        masked = masker.text(f"{before} {text} {after}")
        assert secret not in masked and text not in masked and MASK in masked


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["hf_canary4711", "hf_", "can", "ary\n", "x", "\r", "secretive99"]), max_size=30),
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
)
def test_a_secret_that_comes_in_parts_is_masked_and_nothing_else_is_lost(words: list[str], sizes: list[int]) -> None:
    data = "".join(words).encode()
    masker = Masker(("hf_canary4711", "secretive99"))
    chunks, at, number = [], 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        chunks.append(data[at : at + size])
        at, number = at + size, number + 1
    assert b"".join(masker.lines(iter(chunks))) == masker.data(data)


def test_lines_come_through_at_once() -> None:
    parts = Masker(("hf_canary4711",)).lines(iter([b"ready\n", b"step 1\n", b"hf_can", b"dy\n"]))
    assert next(parts) == b"ready\n" and next(parts) == b"step 1\n" and b"".join(parts) == b"hf_candy\n"


def test_a_short_secret_is_a_word_and_a_cut_one_is_masked_too() -> None:
    short = Masker(("test",))
    assert short.text("test: a testing of 'test'") == "***: a testing of '***'"
    assert Masker((CANARY,)).text(f"HTTP 500: no access with {CANARY[:9]}") == "HTTP 500: no access with ***"
    assert Masker(()).text("as it is") == "as it is"
