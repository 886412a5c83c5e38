"""No prompt is sent twice unless somebody asks for it: between runs, between the rungs of a ladder, after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.loadgen.rungs import open_ladder
from ratematch.loadgen.send import SAME_PROMPTS
from ratematch.plan.workload import Workload, make_requests
from tests.loadgen.sse_server import DONE, Reply, Seen, event, full_stream, serve, token

BLOCK = 16
"""Tokens of the smallest KV block that servers use."""


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, ["load", *argv], catch_exceptions=False)


async def at_once(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(full_stream(reply.body))
    await reply.end()


def beginnings(bodies: list[dict[str, Any]]) -> set[tuple[int, ...]]:
    return {tuple(body["prompt"][:BLOCK]) for body in bodies}


def load(url: str, *argv: str) -> dict[str, Any]:
    result = call(url, "--model", "m", "--isl", "64", "--osl", "2", "--num-requests", "6", "--json", *argv)
    assert result.exit_code in (0, 3), result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def trace(folder: Path) -> str:
    file = folder / "trace.jsonl"
    rows = [{"timestamp": 30 * k, "input_length": 64, "output_length": 2, "hash_ids": [7, 8, 9, k]} for k in range(6)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


KINDS = {
    "random ids": (),
    "lengths that vary": ("--isl-ratio", "0.5"),
    "shared prefix": ("--prefix-share", "0.5", "--prefix-groups", "2"),
    "conversations": ("--turns", "2"),
    "open loop": ("--request-rate", "500"),
    "for a time": ("--duration", "0.05"),
    "trace": ("--dataset", "TRACE"),
    "replayed": ("--dataset", "TRACE", "--replay", "5"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_command_twice_sends_no_beginning_twice(kind: str, tmp_path: Path) -> None:
    argv = [trace(tmp_path) if word == "TRACE" else word for word in KINDS[kind]]
    loop = () if "--request-rate" in argv or "--replay" in argv else ("--concurrency", "2")
    with serve(at_once) as (url, seen):
        seeds = [load(url, *argv, *loop)["seed"]]
        first = beginnings(seen.bodies)
        seeds.append(load(url, *argv, *loop)["seed"])
        second = beginnings(seen.bodies[-6:])
    assert len(set(seeds)) == 2
    assert first and second and not first & second


def test_the_seed_is_printed_kept_and_typed_again_sends_the_same(tmp_path: Path) -> None:
    ladder = ("--concurrency", "1,2")
    with serve(at_once) as (url, seen):
        drawn = load(url, *ladder, "-o", str(tmp_path / "one"))
        sent = [body["prompt"] for body in seen.bodies]
        again = call(
            url,
            "--model",
            "m",
            "--isl",
            "64",
            "--osl",
            "2",
            "--num-requests",
            "6",
            *ladder,
            "--seed",
            str(drawn["seed"]),
        )
        repeated = [body["prompt"] for body in seen.bodies[len(sent) :]]
    assert sorted(sent) == sorted(repeated)
    assert f"seed {drawn['seed']}\n" in again.stdout and f"seed {drawn['seed']}\n" in again.stderr
    kept = json.loads((tmp_path / "one" / "c2-n6-w1" / "measurement.json").read_text())
    assert kept["seed"] == drawn["seed"] == drawn["loads"][0]["seed"]
    assert json.loads((tmp_path / "one" / "ladder.json").read_text())["seed"] == drawn["seed"]


def test_a_seed_that_is_given_sends_what_it_always_sent() -> None:
    with serve(at_once) as (url, seen):
        load(url, "--concurrency", "1,2", "--seed", "0", "--warmup", "0")
        load(url, "--concurrency", "1,2", "--seed", "0", "--warmup", "0")
    wanted = [
        spec.prompt.tolist()
        for first in (0, 6)
        for spec in make_requests(Workload(64, 2), 6, 32000, 0, first_seq=first)
    ]
    for begin in (0, 12):
        assert sorted(body["prompt"] for body in seen.bodies[begin : begin + 12]) == sorted(wanted)


def test_rungs_of_a_trace_share_no_block_among_themselves(tmp_path: Path) -> None:
    with serve(at_once) as (url, seen):
        load(url, "--dataset", trace(tmp_path), "--concurrency", "1,2,3", "--warmup", "0")
    rungs = [beginnings(seen.bodies[begin : begin + 6]) for begin in (0, 6, 12)]
    assert [len(rung) for rung in rungs] == [1, 1, 1], "within a rung the first block is shared, as the trace says"
    assert len(set.union(*rungs)) == 3


def test_a_ladder_typed_again_keeps_what_it_measured_and_goes_on_with_its_seed(tmp_path: Path) -> None:
    out = ("-o", str(tmp_path))
    with serve(at_once) as (url, seen):
        begun = load(url, "--concurrency", "1,2", *out)
        longer = load(url, "--concurrency", "1,2,3", *out)
        assert len(seen.bodies) == 3 * 7, "rungs that were measured are not sent again"
        (tmp_path / "c3-n6-w1" / "measurement.json").unlink()  # as a killed load leaves it
        repaired = load(url, "--concurrency", "1,2,3", *out)
        done = call(
            url, "--model", "m", "--isl", "64", "--osl", "2", "--num-requests", "6", "--concurrency", "3", *out
        )
    assert {run["seed"] for run in (begun, longer, repaired)} == {begun["seed"]}
    assert [row["load"]["concurrency"] for row in repaired["loads"]] == [1, 2, 3]
    assert longer["loads"][:2] == begun["loads"]
    assert len(beginnings(seen.bodies)) == len(seen.bodies) == 4 * 7, "nor is a prompt of the load that was killed"
    assert (tmp_path / "c3-n6-w1-partial-1" / "records.parquet").exists()
    assert done.exit_code in (0, 3) and "measured before and kept" in done.stderr
    other = call(url, "--model", "m", "--isl", "32", "--osl", "2", "--num-requests", "6", "--concurrency", "3", *out)
    assert other.exit_code == 1 and "nothing measured is overwritten" in other.stderr


def test_seeds_of_a_folder() -> None:
    assert not open_ladder(None, 5).drawn
    assert len({open_ladder(None, None).seed for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"seed": -1, "next_seq": 0, "skip": 0, "rung": 0, "begun": {}}']
)
def test_a_damaged_ladder_file_is_named_on_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_text(content)
    result = call("http://127.0.0.1:9", "--model", "m", "--concurrency", "1", "-o", str(tmp_path))
    assert result.exit_code == 1 and "ladder.json: is damaged" in result.stderr
    assert "unexpected" not in result.stderr and result.stderr.count("\n") == 1


def prompts(folder: Path, number: int) -> str:
    file = folder / "prompts.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"{k} tell me of the sea", "output_tokens": 2}) + "\n" for k in range(number))
    )
    return str(file)


def sent_texts(seen: Seen) -> list[str]:
    return [body["prompt"] for body in seen.bodies if isinstance(body["prompt"], str)]


def test_a_ladder_uses_up_a_set_of_real_prompts_and_says_when_it_begins_again(tmp_path: Path) -> None:
    with serve(at_once) as (url, seen):
        result = load(url, "--dataset", prompts(tmp_path, 20), "--concurrency", "1,2,3,4")
    texts = sent_texts(seen)
    assert len(set(texts[:18])) == 18 and set(texts[18:]) < set(texts[:18])
    said = [any("sent again" in note for note in row["notes"]) for row in result["loads"]]
    assert said == [False, False, False, True]
    assert all(SAME_PROMPTS in row["notes"] for row in result["loads"])


def test_a_server_that_reports_its_cache_needs_no_note(tmp_path: Path) -> None:
    async def reporting(reply: Reply) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}
        await reply.head()
        await reply.chunk(token() + token(finish="length") + event({"choices": [], "usage": usage}) + DONE)
        await reply.end()

    with serve(reporting) as (url, _):
        result = load(url, "--dataset", prompts(tmp_path, 4), "--concurrency", "1,2")
    assert not any("prefix cache" in note for row in result["loads"] for note in row["notes"])


def test_a_data_set_is_described_before_it_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    rows = [
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"why {k}?"}]}
        for k in range(3)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    with serve(at_once) as (url, seen):
        result = call(
            url, "--model", "m", "--dataset", str(file), "--concurrency", "1", "--warmup", "0", "--osl", "3"
        )
        refused = call(url, "--model", "m", "--dataset", str(file), "--concurrency", "1", "--api", "completions")
        content = load(url, "--dataset", trace(tmp_path), "--concurrency", "1")["dataset"]
    assert seen.paths[0].endswith("/chat/completions") and seen.bodies[0]["messages"] == rows[0]["messages"]
    assert "data set: OpenAI messages, 3 prompts, chat; 14 to 14" in result.stderr
    assert "no request says how many tokens" in result.stderr
    assert refused.exit_code == 1 and refused.stderr.splitlines()[-1].endswith("--api chat")
    assert content["format"] == "Mooncake trace" and content["isl"] == {
        "min": 64,
        "mean": 64.0,
        "max": 64,
        "prompts": 6,
    }
    assert (content["duration_s"], content["time_unit"], content["block_tokens"]) == (0.15, "ms", 16)
    assert content["shared_prefix_share"] == pytest.approx(5 * 48 / (6 * 64))


def test_a_schedule_of_years_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps({"timestamp": at, "isl": 20, "osl": 2}) + "\n" for at in (0, 10**9)))
    with serve(at_once) as (url, seen):
        result = call(url, "--model", "m", "--dataset", str(file), "--replay", "0.0001", "--warmup", "0")
    assert result.exit_code == 1 and "would be due after 1.16e+05 days" in result.stderr and not seen.bodies


@pytest.mark.parametrize(
    ("instants", "unit", "seconds"),
    [((0.0, 0.5), "s", 0.5), ((0, 2), "", None), ((0, 2000), "", 2.0), ((0, 9), "us", 9e-6)],
)
def test_a_trace_is_replayed_in_its_own_unit_or_not_at_all(
    instants: tuple[float, ...], unit: str, seconds: float | None, tmp_path: Path
) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(
        "\n".join(json.dumps({"timestamp": at, "input_length": 32, "output_length": 2}) for at in instants)
    )
    option = ("--time-unit", unit) if unit else ()
    with serve(at_once) as (url, _):
        result = call(
            url,
            "--model",
            "m",
            "--dataset",
            str(file),
            "--replay",
            "20",
            *option,
            "-o",
            str(tmp_path / "out"),
            "--json",
        )
    if seconds is None:
        assert result.exit_code == 1 and "say --time-unit s or ms" in result.stderr and result.stderr.count("\n") == 1
    else:
        assert json.loads(result.stdout)["dataset"]["duration_s"] == pytest.approx(seconds)
