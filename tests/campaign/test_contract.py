"""By what the files of a sweep are checked: the image is asked by ``doctor --probe`` and by a sweep's first job, and
what it says rules from then on. A package tree of ``tests/engines/packages`` stands for what is installed."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.analysis.verify import verify
from ratematch.campaign import contract
from ratematch.campaign.controller import run_campaign
from ratematch.campaign.jobs.executor import Executor
from ratematch.campaign.precheck import expand_sweep
from ratematch.campaign.state import Campaign
from ratematch.cli import main
from ratematch.engines import find_engine
from ratematch.errors import SweepError, UserError
from ratematch.inputs.find import read_sweep
from ratematch.plan.cluster import Container, Slurm
from ratematch.run import contracts
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.slurm import probe
from ratematch.store.files import read_json
from ratematch.store.folder import Results
from ratematch.store.provenance import Provenance, ServerVersion, from_json, to_json

PACKAGES = Path(__file__).parents[1] / "engines" / "packages"

SWEEP = """\
name: mini
about: One server.
model: deepseek-r1
cluster: rack
engine: {name: trtllm-serve, version: "1.3.0rc20"}
workloads: [{isl: 64, osl: 16}]
ifb:
  axes: {mapping: TEP4}
  loads: {concurrency: [1]}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sweep, a profile of this machine whose servers are real, and a command of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mini.yaml").write_text(SWEEP)
    program = tmp_path / "bin" / "trtllm-serve"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom tensorrt_llm.commands.serve import main\nmain()\n")
    program.chmod(0o755)
    install(tmp_path, "v1_4")
    return tmp_path


def install(site: Path, layout: str, more: str = "") -> None:
    """The profile of a machine on which the package of this layout is installed."""
    machine = "name: rack\ngpu: gb200\ngpus_per_node: 4\nnodes: 1\nnumactl: ''\n"
    profile = f"{machine}command: [{site}/bin/trtllm-serve]\n{more}"
    (site / "rack.yaml").write_text(profile + f"environment: {{PYTHONPATH: {PACKAGES / layout}}}\n")


def slurm(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for srun, which runs what it is given on this machine and notes its own options."""
    bodies = {
        "srun": f'printf "%s\\n" "$@" >{site}/srun.args\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"',
        "sbatch": 'case "$1" in --version) echo "slurm 24.05.1";; esac',
        "squeue": "exit 0",
        "scontrol": "echo PartitionName=batch Default=YES State=UP TotalNodes=18 MaxTime=04:00:00",
    }
    for name, body in bodies.items():
        (site / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (site / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{site / 'bin'}:/usr/bin:/bin")


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, list(argv), catch_exceptions=False)


def checks_of(*argv: str) -> dict[str, dict[str, Any]]:
    """What ``doctor`` says, by what was looked at."""
    return {check["name"]: check for check in json.loads(call("doctor", *argv, "--json").stdout)["checks"]}


class NeverStarts(Executor):
    """Every experiment is refused when it would be started."""

    def start(self, waiting: Any, active: Any, exclude: Any = ()) -> Any:
        return [(folder, UserError("not here")) for folder in waiting]


def run(*overrides: str, results: str = "out", name: Any = "local") -> tuple[Campaign, Results, list[str]]:
    stages: list[str] = []
    sweep, text = read_sweep("mini.yaml", overrides, None)
    folder = Results(Path(results))
    campaign = run_campaign(sweep, text, folder, NeverStarts(name), lambda now: stages.append(now.stage))
    return campaign, folder, stages


NEW = "ifb.options.invented_switch=true"
"""A key that no shipped contract knows."""


# ------------------------------------------------------------------------------------------------ the first job


def test_the_first_job_of_a_sweep_asks_the_image_and_the_results_keep_what_it_said(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign, results, stages = run(NEW)
    assert "asking the image what it takes" in stages and stages[-1] == "finished"
    (asked,) = [note for note in campaign.notes if note.startswith("schema of command")]
    assert "version 1.4.0rc4: asked by a process here" in asked
    assert any("1.3.0rc20 is what files are rendered for" in note for note in campaign.notes)
    (folder,) = results.folders()
    kept = read_json(folder.path / "contract.json")
    (schema,) = (results.path / "schemas").glob("*.json")
    assert schema.name == f"{kept['digest'][:12]}.json" and kept["version"] == "1.4.0rc4"
    assert json.loads(schema.read_text())["version"] == "1.4.0rc4"
    assert verify(results).complaints == ()

    # The job checks by the same, and its launches say so.
    engine = find_engine("trtllm-serve")
    installed = contracts.read(folder, engine)
    assert installed is not None and installed.digest == kept["digest"]
    collected = replace(Provenance(), contract=contracts.reference(folder))
    assert to_json(collected)["contract"] == kept and from_json(to_json(collected)) == collected

    # Servers of another version than the schema: a tag of a registry may have moved.
    contracts.compare(folder, replace(collected, servers={"gen-0": ServerVersion("1.4.0rc4")}))
    assert capsys.readouterr().err == ""
    contracts.compare(folder, replace(collected, servers={"gen-0": ServerVersion("1.4.0rc5")}))
    (line,) = capsys.readouterr().err.splitlines()
    assert "servers are of version 1.4.0rc5" in line and "version 1.4.0rc4: `ratematch doctor --probe` asks" in line

    # It is asked once: by now nobody could answer.
    install(site, "gone")
    again, _, stages = run(NEW, results="again")
    assert "asking the image what it takes" not in stages and not any("asked by" in note for note in again.notes)


def test_what_the_image_refuses_is_refused_before_anything_starts(site: Path) -> None:
    install(site, "v1_2")
    with pytest.raises(SweepError, match=r"invented_switch: unknown key in 1\.2\.1"):
        run(NEW)
    assert not Path("out/schemas").exists() and list(Path("out").glob("*/experiment.json")) == []


def test_an_image_that_does_not_answer_leaves_the_shipped_contract(site: Path) -> None:
    install(site, "gone")
    campaign, results, _ = run()
    (note,) = [note for note in campaign.notes if "gave none" in note]
    assert "ModuleNotFoundError: No module named 'tensorrt_llm'" in note and "\n" not in note
    assert note.endswith("the shipped contract is used")
    (folder,) = results.folders()
    assert read_json(folder.path / "contract.json")["digest"] is None and contracts.reference(folder) is None
    with pytest.raises(SweepError, match="invented_switch: unknown key"):
        run(NEW, results="other")


def test_emulated_and_simulated_servers_are_not_asked(site: Path) -> None:
    sweep, _ = read_sweep("mini.yaml", (), None)
    emulated = contract.known_contract(replace(sweep, cluster=replace(sweep.cluster, emulated=True)))
    assert emulated.image is None and emulated.words.endswith("1.3 (emulated servers have no schema)")
    assert contract.known_contract(replace(sweep, simulated=True)).words.endswith(
        "(simulated servers have no schema)"
    )
    install(site, "v1_4", "emulated: true\n")
    campaign, results, stages = run()
    assert campaign.notes == [] and "asking the image what it takes" not in stages
    (folder,) = results.folders()
    assert not (folder.path / "contract.json").exists() and not (site / "cache").exists()


def test_a_schema_that_was_changed_in_the_results_is_not_used(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, results, _ = run()
    (schema,) = (results.path / "schemas").glob("*.json")
    schema.write_text(schema.read_text().replace("1.4.0rc4", "1.4.0rc5"))
    (folder,) = results.folders()
    assert contracts.read(folder, find_engine("trtllm-serve")) is None and contracts.reference(folder) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "it was changed after it was kept" in line and line.endswith("the shipped contract is used instead")
    assert [complaint.file for complaint in verify(results).complaints] == [f"schemas/{schema.name}"]


# ------------------------------------------------------------------------------------------- doctor, plan, render


def test_doctor_asks_and_from_then_on_plan_and_render_go_by_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "v1_4", "slurm: {partition: batch, mpi: pmix}\n")
    slurm(site, monkeypatch)
    before = call("plan", "mini.yaml", "--set", NEW)
    assert before.exit_code == 1 and "invented_switch: unknown key" in before.stderr
    unknown = json.loads(call("plan", "mini.yaml", "--json").stdout)["contract"]
    assert unknown.startswith("shipped contract for TensorRT-LLM 1.3 (no schema of command ")
    assert unknown.endswith("is known; ratematch doctor --cluster rack --probe asks it)")

    found = checks_of("--cluster", "rack")
    assert found["schema"]["ok"] and "--probe asks it" in found["schema"]["found"]
    found = checks_of("--cluster", "rack", "--probe")
    assert found["schema"]["ok"] and "TensorRT-LLM 1.4.0rc4; 37 keys of the worker's file" in found["schema"]["found"]
    assert "commands disaggregated, serve" in found["schema"]["found"] and "version" in found
    assert "--partition=batch" in (site / "srun.args").read_text()

    after = call("plan", "mini.yaml", "--set", NEW, "--json")
    content = json.loads(after.stdout)
    assert content["contract"].startswith("schema of command ") and content["contract"].endswith("version 1.4.0rc4")
    assert any("invented_switch: the image takes it" in warning for warning in content["warnings"])
    assert "checked by: schema of command" in call("plan", "mini.yaml", "--explain").stdout
    rendered = call("render", "mini.yaml", "--set", NEW, "-o", "rendered")
    assert rendered.exit_code == 0 and "checked by: schema of command" in rendered.stderr
    # A forecast of servers with such a key is one of servers without it: no emulator knows what it does.
    plain, new = (read_sweep("mini.yaml", overrides, None)[0] for overrides in ((), (NEW,)))
    forecasts = [
        list(forecast_experiment(expand_sweep(sweep).experiments[0], sweep.cluster).values())
        for sweep in (plain, new)
    ]
    assert forecasts[0] == forecasts[1] != []
    typo = call("plan", "mini.yaml", "--set", "ifb.options.invented_swich=true")
    assert typo.exit_code == 1 and "did you mean invented_switch?" in typo.stderr
    assert typo.stderr.count("\n") == 1


def test_doctor_says_what_a_broken_image_lacks(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "gone", "slurm: {partition: batch}\n")
    slurm(site, monkeypatch)
    found = checks_of("--cluster", "rack", "--probe")
    assert not found["schema"]["ok"] and "No module named 'tensorrt_llm'" in found["schema"]["found"]
    assert not (site / "cache").exists()


def test_a_damaged_cache_is_a_warning_and_the_image_is_asked_again(site: Path) -> None:
    run()
    (kept,) = (site / "cache" / "ratematch" / "schemas").glob("*.json")
    kept.write_text(kept.read_text()[:100])
    plan = call("plan", "mini.yaml")
    assert plan.exit_code == 0 and plan.stderr.startswith(f"warning: {kept}: cannot be used")
    campaign, _, stages = run(results="again")
    assert "asking the image what it takes" in stages and any("cannot be used" in note for note in campaign.notes)
    assert call("plan", "mini.yaml").stderr.count("cannot be used") == 0


# ----------------------------------------------------------------------------------------------------- how it is sent


def test_the_container_itself_is_asked(site: Path) -> None:
    sweep, _ = read_sweep("mini.yaml", (), None)
    image = Container("nvcr.io#nvidia/tensorrt-llm/release:1.4.0rc4", ("/models:/models:ro",))
    rack = replace(sweep.cluster, container=image, command=(), slurm=Slurm(partition="batch", account="llm"))
    command = probe.schema_command(rack, "trtllm-serve")
    assert command is not None and command[0] == "bash" and command[-2] == "trtllm-serve"
    sent = probe.probe_argv(rack, "/results", {probe.SCHEMA: command}, "name")
    assert sent[0] == "srun" and {"--partition=batch", "--account=llm", "--nodes=1", "--ntasks=1"} <= set(sent)
    assert f"--container-image={image.image}" in sent and "--mpi=pmix" in sent
    assert "--container-mounts=/models:/models:ro,/results:/results" in sent
    step = probe.probe_argv(rack, "/results", {probe.SCHEMA: command}, "name", "step")
    assert {"--overlap", "--mem=0", "--nodes=1", "--ntasks=1", f"--container-image={image.image}"} <= set(step)
    assert not any(word.startswith(("--partition", "--time", "--gpus")) for word in step)
    assert probe.schema_command(replace(rack, emulated=True), "trtllm-serve") is None
    assert probe.schema_command(rack, "vllm") is None
    assert max(map(len, sent)) < 100_000, "an argument has at most 128 KiB"


def test_a_job_that_asks_is_a_job_of_one_node(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "v1_4", "slurm: {partition: batch}\n")
    slurm(site, monkeypatch)
    campaign, _, _ = run(name="slurm")
    assert any("asked by a job of one node" in note for note in campaign.notes)
    called = (site / "srun.args").read_text().splitlines()
    assert {"--partition=batch", "--nodes=1", "--ntasks=1", "--time=15"} <= set(called)


def test_a_job_that_slurm_refuses_is_a_note(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "v1_4", "slurm: {partition: batch}\n")
    slurm(site, monkeypatch)
    (site / "bin" / "srun").write_text("#!/bin/bash\necho 'srun: error: Invalid account' >&2; exit 1\n")
    campaign, results, _ = run(name="slurm")
    (note,) = [note for note in campaign.notes if "gave none" in note]
    assert "Invalid account" in note and "\n" not in note
    assert not (results.path / "schemas").exists() and shutil.which("srun") == str(site / "bin" / "srun")
