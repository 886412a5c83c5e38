"""A canary for a secret: it reaches the servers, and nothing that is written or seen holds it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.loadgen.client import Target
from ratematch.loadgen.finish import redact
from ratematch.plan.cluster import Cluster, Container
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import ProcessSpec, ReadyProbe
from ratematch.plan.load import Concurrency
from ratematch.plan.secret import MASK
from ratematch.run import render
from ratematch.run.experiment import measure_experiment
from ratematch.run.maskedlog import ServerLog
from ratematch.run.telemetry import write_lines
from ratematch.slurm.probe import probe_argv
from ratematch.slurm.srun import local_step, slurm_step
from ratematch.store.folder import Results
from ratematch.store.masking import masking
from ratematch.store.records import read_records
from tests.engines.golden import RACK
from tests.support.canary import CANARY, NEEDLE, OTHER, PARROT, SERVER, holders, watching_arguments
from tests.support.invented import AGG, LAPTOP, experiment
from tests.support.sites import MINI, ifb_only, make_site, read


@pytest.fixture
def site(tmp_path: Path) -> Path:
    one_load = MINI.replace("concurrency: [1, 4, 8]", "concurrency: 4")
    site = make_site(tmp_path / "site", mini=ifb_only(one_load) + "  environment: {LOGIN: !secret env:MY_LOGIN}\n")
    (site / "server.py").write_text(SERVER)
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    command = json.dumps([sys.executable, str(site / "server.py")])
    profile.write_text(f"{profile.read_text()}command: {command}\nenvironment: {{HF_TOKEN: {CANARY}}}  # {CANARY}\n")
    return site


@pytest.mark.slow
def test_a_canary_is_found_nowhere_after_a_sweep_and_all_that_is_made_of_it(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("MY_LOGIN", OTHER)
    with watching_arguments() as seen:
        code, out, err = read(site, "sweep", "mini.yaml")
    assert code in (0, 3), out + err  # 3: on a busy machine so few requests are no steady load
    outputs = [out, err]
    for words in (
        *(["report", "results/mini"], ["status", "results/mini", "--json"], ["pareto", "results/mini", "--json"]),
        *(["plan", "mini.yaml", "--json"], ["render", "mini.yaml", "-o", "rendered"]),
        ["export", "deployment", "results/mini", "--at", "1", "-o", "deploy"],
    ):
        code, out, err = read(site, *words)
        assert code == 0 or words[0] in ("pareto", "export"), (words, out, err)
        outputs += [out, err]
    assert seen == []
    assert not [text for text in outputs if NEEDLE in text]
    typed = ("slurm/clusters/laptop.yaml",)
    assert holders(site, *typed) == [] == holders(tmp_path / "tmp")
    assert not list((site / "results").rglob("secrets"))

    (folder,) = Results(site / "results" / "mini").folders()
    log = next(folder.path.glob("launch/1/*.log")).read_text()
    digests = [hashlib.sha256(value.encode()).hexdigest() for value in (CANARY, OTHER)]
    assert f"digest: {' '.join(digests)}" in log, "the server has both"
    assert "'HF_TOKEN': '***'" in log and "'LOGIN': '***'" in log
    for script in (next(folder.path.glob("launch/1/run.sh")), next((site / "rendered").rglob("run.sh"))):
        assert ': "${HF_TOKEN:?set HF_TOKEN before running this}"' in script.read_text()
        bare = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
        done = subprocess.run(["bash", script], capture_output=True, text=True, env=bare, check=False)
        assert done.returncode and "HF_TOKEN: set HF_TOKEN before running this" in done.stderr
    assert [path.lstat().st_mode & 0o077 for path in folder.path.glob("job")] == [0]


def test_the_variable_that_a_secret_is_taken_from_must_be_set(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_LOGIN", raising=False)
    code, _, err = read(site, "sweep", "mini.yaml")
    assert code == 1 and "LOGIN of mini.yaml or its profile is a secret: set MY_LOGIN and run this again" in err
    assert not (site / "results").exists()


# ------------------------------------------------------------------------------------------------------- parts


def dying(site: Path) -> tuple[Results, Experiment, Cluster]:
    environment = {"HF_TOKEN": MASK, "DIES": "1"}
    cluster = replace(LAPTOP, command=(sys.executable, str(site / "server.py")), environment=environment)
    return Results(site / "results" / "mini"), experiment(), cluster


def test_a_server_that_dies_of_its_secret_does_not_tell_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, asked, cluster = dying(site)
    folder = results.add(asked, cluster)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    outcome = measure_experiment(folder.path)
    assert outcome.error is not None and "no access with ***" in outcome.error
    assert holders(folder.path) == []


def test_a_server_that_repeats_its_secret_in_every_answer(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "parrot.py").write_text(PARROT)
    cluster = replace(
        LAPTOP, command=(sys.executable, str(site / "parrot.py")), environment={"HF_TOKEN": MASK}, stall_minutes=None
    )
    folder = Results(site / "results" / "mini").add(experiment(loads=(Concurrency(2, 4, 0),)), cluster)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    outcome = measure_experiment(folder.path)
    assert outcome.measured == 1, outcome
    (load,) = folder.loads()
    (error,) = {record.error for record in read_records(load.folder / "records.parquet")}
    assert error is not None and "no access with ***" in error
    assert "***" in (folder.path / "launch" / "1" / "provenance.json").read_text()
    assert holders(folder.path) == []


def test_by_hand_a_secret_comes_from_the_environment_or_is_asked_for(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, asked, cluster = dying(site)
    folder = results.add(asked, cluster)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    outcome = measure_experiment(folder.path)
    assert outcome.error == "set HF_TOKEN in the environment before running this: results hold no secrets"


SPEC = ProcessSpec(
    name="agg-0",
    role="agg",
    argv=("serve", "model"),
    env=(("A", "b"), ("HF_TOKEN", MASK)),
    unset=("UCX_TLS", "HF_TOKEN"),
    nodes=("n1",),
    host="n1",
    port=8000,
    log="agg-0.log",
    ready=ReadyProbe("http://n1:8000/health", 1.0),
)


def test_a_step_has_its_secrets_in_the_environment_and_in_no_argument() -> None:
    for cluster in (RACK, replace(RACK, container=None), replace(RACK, container=Container("/a.sqsh", (), True))):
        step = slurm_step(SPEC, cluster).revealed({"HF_TOKEN": CANARY})
        assert CANARY not in " ".join(step.argv) and dict(step.env)["HF_TOKEN"] == CANARY
        assert "A=b" in step.argv and "--unset=HF_TOKEN" not in step.argv and "--export=ALL" in step.argv
        assert ("--container-env=HF_TOKEN" in step.argv) is (cluster.container is not None)
    assert dict(local_step(SPEC).revealed({"HF_TOKEN": CANARY}).env) == {"A": "b", "HF_TOKEN": CANARY}
    assert slurm_step(replace(SPEC, env=(("A", "b"),)), RACK).env == (), "as before where there is no secret"


def test_the_probe_has_none_in_its_arguments() -> None:
    argv = probe_argv(replace(RACK, environment={"A": "b", "HF_TOKEN": MASK}), "/f", {"node": ("hostname",)}, "x")
    assert "A=b" in argv and not [word for word in argv if "HF_TOKEN" in word]


def test_what_servers_answer_is_masked(tmp_path: Path) -> None:
    target = Target("http://h:1", "m")
    with masking([CANARY]):
        assert redact(f'{{"error": "bad token {CANARY}"}}', target) == '{"error": "bad token ***"}'
        write_lines(tmp_path / "p.zst", [json.dumps({"labels": CANARY}).encode()])
        assert holders(tmp_path) == []
    assert redact(CANARY, target) == CANARY


def test_a_log_is_whole_though_it_is_masked(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    text = "import sys,time\nfor k in range(20000): print(k, 'hf_c4n4ry4711')\nsys.stdout.write('hf_c4n')"
    with masking([CANARY]), log.writing() as output:
        process = subprocess.Popen([sys.executable, "-c", text], stdout=output)
    process.wait()
    log.settle()
    lines = log.path.read_text().splitlines()
    assert lines == [*(f"{k} ***" for k in range(20000)), "hf_c4n"]


# ------------------------------------------------------------------------------------------------ placeholders


@pytest.mark.parametrize("text", ["__NODE0__", "__NODE99999999__", "__HERE__", "a__NODE1__b", "$WORK"])
def test_a_users_own_text_is_no_placeholder(text: str) -> None:
    agg = AGG.agg
    assert agg is not None
    asked = experiment(
        deployment=Deployment(agg=replace(agg, environment={"A": text}, options={"x": text}, unchecked=("x",)))
    )
    cluster = replace(RACK, container=None)
    (blank,) = render.render(asked, cluster, allocated=True)
    script = "set -u; NODES=(n1) WORK=/w\nstart() { shift; printf '%s\\n' \"$@\"; }\n"
    start = blank.files["run.sh"].split("\nstart agg-0")[1].split("\nready")[0]
    done = subprocess.run(["bash", "-c", f"{script}start agg-0{start}"], capture_output=True, text=True, check=True)
    assert f"A={text}" in done.stdout.splitlines() and "--nodelist=n1" in done.stdout.splitlines()
    assert text in blank.files["agg.yaml"]
    places = {f"s/{place}/" for place in blank.files["placement.json"].split('"') if place.startswith("__NODE")}
    assert places and not [place for place in places if place[2:-1] in text]


def test_paths_with_the_text_of_a_placeholder_reach_the_load_generator_as_they_are() -> None:
    workload = replace(experiment().workload, file="/data/__NODE1__/a.jsonl")
    asked = replace(experiment(), workload=workload, model_path="/m/__NODE0__")
    (blank,) = render.render(asked, replace(RACK, container=None), allocated=True)
    assert "--dataset /data/__NODE1__/a.jsonl" in blank.files["run.sh"]
    assert "MODEL=/m/__NODE0__\n" in blank.files["run.sh"]
