"""What is seen of a site before anything is sent. Slurm's commands are stand-ins here that say what they are told to
say; tests/slurm asks the real ones."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.engines import find_engine
from ratematch.engines.trtllm_serve.commandline import BANNER, command_options, judge_probe
from ratematch.plan.cluster import Cluster, Container, Slurm
from ratematch.plan.finding import Finding
from ratematch.run import programs
from ratematch.show.views.sweep import describe_default_executor
from ratematch.slurm import probe, site

RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18)

PARTITION = "PartitionName=batch Default=YES State=UP TotalNodes=18 MaxTime=04:00:00"

SLURM = {
    "sbatch": 'case "$1" in --version) echo "slurm 24.05.1";; *) exit 0;; esac',
    "srun": """case "$1" in
  --help) echo "--container-image=IMAGE";;
  --mpi=list) printf "MPI plugin types are...\\n\\tnone\\n\\tpmix\\n" >&2;;
esac""",
    "squeue": "exit 0",
    "scontrol": f'case "$2" in partition) echo "{PARTITION}";; *) exit 1;; esac',
    "sacctmgr": "echo llm",
}


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which Slurm is what a test makes of it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in SLURM.items():
        stand_in(folder, name, body)
    for name in ("env", "bash", "cat", "hostname", "ls", "sleep"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def told(findings: list[Finding]) -> dict[str, tuple[bool, str]]:
    return {finding.name: (finding.ok, finding.found) for finding in findings}


def test_a_site_that_is_as_its_profile_says(bin_folder: Path) -> None:
    slurm = Slurm(partition="batch", account="llm", segment=18)
    found = told(list(site.check_slurm(replace(RACK, slurm=slurm, container=Container("a#b")))))
    assert all(ok for ok, _ in found.values()), found
    assert found["partition"][1] == "batch: UP, 18 nodes, at most 04:00:00"
    assert set(found) == {"Slurm", "segment", "partition", "account", "MPI", "pyxis", "a job of one node"}


@pytest.mark.parametrize(
    ("name", "body", "check", "said"),
    [
        ("sbatch", 'echo "slurm-wlm 22.05.8"', "segment", "has no --segment (23.11 and later): remove slurm.segment"),
        ("sbatch", 'echo "sbatch: error: no config" >&2; exit 1', "Slurm", "no config"),
        ("scontrol", "exit 1", "partition", "batch: Slurm knows no such partition"),
        ("scontrol", f"echo {PARTITION.replace('UP', 'DOWN')}", "partition", "it takes no jobs now"),
        (
            "scontrol",
            f"echo {PARTITION.replace('=18', '=9')}",
            "partition",
            "9 nodes, at most 04:00:00; the profile says",
        ),
        ("sacctmgr", "printf 'other\\nthird\\n'", "account", "may not use llm; accounts: other, third"),
        ("srun", "printf 'srun: MPI types are...\\nsrun: none\\nsrun: pmi2\\n' >&2", "MPI", "lists none, pmi2"),
        ("srun", "true", "pyxis", "pyxis is not installed here"),
    ],
)
def test_what_is_not_as_the_profile_says_is_named(
    bin_folder: Path, name: str, body: str, check: str, said: str
) -> None:
    stand_in(bin_folder, name, body)
    slurm = Slurm(partition="batch", account="llm", segment=18)
    ok, found = told(list(site.check_slurm(replace(RACK, slurm=slurm, container=Container("a#b")))))[check]
    assert not ok and said in found and "\n" not in found


def test_no_slurm_at_all_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = site.check_slurm(RACK)
    assert not found.ok and found.found == "sbatch, srun, squeue, scontrol not on PATH: this is no login node"


def test_without_accounting_no_account_is_looked_up(bin_folder: Path) -> None:
    (bin_folder / "sacctmgr").unlink()
    found = told(list(site.check_slurm(replace(RACK, slurm=Slurm(account="llm")))))
    assert found["account"] == (True, "llm: not looked up, this Slurm keeps no accounts")


def test_weights_are_looked_for_through_the_mounts(tmp_path: Path) -> None:
    (tmp_path / "fast" / "m").mkdir(parents=True)
    mounts = (f"{tmp_path}:/models", f"{tmp_path / 'fast'}:/models/fast:ro")
    cluster = replace(RACK, container=Container("a#b", mounts))
    assert site.weights_on_host("/models/fast/m", cluster) == tmp_path / "fast" / "m"
    assert site.why_no_weights("/models/fast/m", cluster) is None
    assert site.why_no_weights("org/model", RACK) is not None and site.why_no_weights("model", RACK) is None
    gone = site.why_no_weights("/models/x", cluster)
    assert gone == f"{tmp_path / 'x'} (/models/x in the container) does not exist"
    assert "is below no mount of the container" in str(site.why_no_weights("/elsewhere/x", cluster))
    blind = replace(cluster, check_paths=False)
    assert site.why_no_weights("/models/x", blind) is None
    assert site.why_no_weights("/elsewhere/x", blind) is not None, "no mount shows it, wherever one looks from"


# ---------------------------------------------------------------------------------------- before a sweep is sent

SWEEP = """\
name: mini
about: One server.
model: deepseek-r1
cluster: rack
workloads: [{isl: 64, osl: 16}]
ifb:
  axes: {mapping: TEP4}
  loads: {concurrency: [1]}
"""

PROFILE = """\
name: rack
gpu: gb200
gpus_per_node: 4
nodes: 4
"""


def sweep(folder: Path, profile: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(folder)
    (folder / "mini.yaml").write_text(SWEEP)
    (folder / "rack.yaml").write_text(profile)
    return CliRunner().invoke(main, ["sweep", "mini.yaml", "--executor", "slurm"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (
            "container: {image: /no/image.sqsh}\n",
            "cluster profile rack: container image: /no/image.sqsh does not exist",
        ),
        ("container: {image: a#b, mounts: ['/no/models:/m']}\n", "rack: container mount: /no/models does not exist"),
        ("container: {image: a#b}\nmodel_paths: {deepseek-r1: /m/x}\n", "/m/x is below no mount of the container"),
        ("model_paths: {deepseek-r1: /no/weights}\n", "mini.yaml: model: /no/weights does not exist"),
        ("slurm: {prologue: gone.sh}\n", "rack.yaml:5: slurm.prologue: there is no script gone.sh"),
        ("slurm: {partitoin: x}\n", "rack.yaml:5: slurm.partitoin: unknown key 'partitoin'"),
    ],
)
def test_a_wrong_profile_is_one_line_before_anything_is_sent(
    tmp_path: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch, profile: str, said: str
) -> None:
    stand_in(bin_folder, "sbatch", f"touch {tmp_path}/sent")
    done = sweep(tmp_path, PROFILE + profile, monkeypatch)
    assert done.exit_code == 1 and said in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("ratematch: ") and done.stdout == ""
    assert not (tmp_path / "sent").exists() and not (tmp_path / "results").exists()


def test_no_sbatch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = sweep(tmp_path, PROFILE, monkeypatch)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ratematch: sbatch is not on PATH: this is no Slurm login node")


@pytest.mark.parametrize("more", ["", "emulated: true\nslurm: {}\n", "container: {image: a#b}\n"])
def test_a_profile_of_slurm_means_slurm_where_nobody_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """Nothing is started here; what else there is, is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mini.yaml").write_text(SWEEP)
    (tmp_path / "rack.yaml").write_text(PROFILE + more)
    done = CliRunner().invoke(main, ["sweep", "mini.yaml"], catch_exceptions=False)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("ratematch: sbatch is not on PATH: this is no Slurm login node")
    assert "--executor local" in done.stderr and "--executor simulate" in done.stderr
    assert not (tmp_path / "results").exists()
    done = CliRunner().invoke(main, ["render", "mini.yaml", "-o", "out"], catch_exceptions=False)
    assert done.exit_code == 0 and list(tmp_path.glob("out/*/job.sbatch"))


def test_inside_an_allocation_its_nodes_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert programs.choose_executor(RACK) == "slurm"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert programs.choose_executor(RACK) == "slurm", "a job's id alone is no allocation"
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    assert programs.choose_executor(RACK) == "allocation"
    assert programs.choose_executor(replace(RACK, nodes=1)) == "local", "a profile of this machine"
    assert "nodes of this job" in describe_default_executor(RACK, "allocation")


@pytest.mark.parametrize("more", ["nodes: 4\nemulated: true\n", "nodes: 1\n"])
def test_a_profile_of_this_machine_means_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mini.yaml").write_text(SWEEP)
    (tmp_path / "rack.yaml").write_text(PROFILE.replace("nodes: 4\n", more))
    done = CliRunner().invoke(main, ["render", "mini.yaml", "-o", "out"], catch_exceptions=False)
    assert done.exit_code == 0 and list(tmp_path.glob("out/*/run.sh")) and not list(tmp_path.glob("out/*/job.sbatch"))


@pytest.mark.parametrize("more", ["numactl: -m 0\n", 'numactl: ""\n', "command: [my-serve]\n"])
def test_programs_that_are_not_here_are_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """Each of hundreds of experiments would fail for it, one after the other."""
    monkeypatch.setenv("PATH", str(tmp_path))
    stand_in(tmp_path, "numactl", "")
    wanted = "my-serve" if "command" in more else "trtllm-serve"
    if more == "numactl: -m 0\n":
        (tmp_path / "numactl").unlink()
        wanted = "numactl"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.yaml").write_text(SWEEP)
    (tmp_path / "rack.yaml").write_text(PROFILE + more)
    done = CliRunner().invoke(main, ["sweep", "mini.yaml", "--executor", "local"], catch_exceptions=False)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"ratematch: {wanted} is not on PATH here") and "--executor simulate" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_container_is_not_left_out_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.yaml").write_text(SWEEP)
    (tmp_path / "rack.yaml").write_text(PROFILE + "container: {image: a#b}\n")
    done = CliRunner().invoke(main, ["sweep", "mini.yaml", "--executor", "local"], catch_exceptions=False)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "runs servers in a container, which only Slurm starts: use --executor slurm" in done.stderr


def test_a_container_without_pyxis_is_one_line(
    tmp_path: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(bin_folder, "srun", "true")
    (tmp_path / "a.sqsh").touch()
    done = sweep(tmp_path, PROFILE + f"container: {{image: {tmp_path}/a.sqsh}}\n", monkeypatch)
    assert done.exit_code == 1 and "pyxis is not installed here" in done.stderr and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------------ the probe


def run_here(folder: Path) -> None:
    """A stand-in for srun that runs the command here, after its own options, and notes how it was called."""
    body = f'printf "%s\\n" "$@" >{folder.parent}/srun.args\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"'
    stand_in(folder, "srun", body)


EMULATED = replace(
    RACK,
    emulated=True,
    command=(sys.executable, "-m", "ratematch.emulator"),
    launcher=(sys.executable, "-m", "ratematch.emulator.llmapi_launch"),
    slurm=Slurm(partition="batch", mpi=None, tasks="node", sbatch=("--comment=x y",)),
    model_paths={"deepseek-r1": "/no/weights"},
)


@pytest.mark.parametrize("version", ["1.2", "main"])
def test_a_probe_tells_the_version_the_options_and_what_a_node_sees(
    tmp_path: Path, bin_folder: Path, version: str
) -> None:
    run_here(bin_folder)
    cluster = replace(EMULATED, environment={"RATEMATCH_EMULATED_VERSION": version})
    found = told(probe.probe_node(cluster, "trtllm-serve", tmp_path))
    assert found["version"][0] and found["version"][1].endswith(
        'set engine.version: "1.2" in the sweep' if version == "1.2" else 'set engine.version: "1.4" in the sweep'
    )
    known = len(command_options("serve", version))
    assert found["serve"] == (True, f"{known} of {known} known options")
    assert found["disaggregated"][0] and found["launcher"] == (True, sys.executable)
    assert found["results folder"] == (True, "seen")
    assert "not looked at" in found["CPUs"][1], "no python3 on that PATH"
    assert not found["weights of deepseek-r1"][0] and "/no/weights" in found["weights of deepseek-r1"][1]
    called = (tmp_path / "srun.args").read_text().splitlines()
    assert {"--partition=batch", "--nodes=1", "--comment=x y", "--gpus-per-node=4"} <= set(called)
    assert list(tmp_path.glob(".ratematch-probe*")) == []


def test_a_probe_says_what_bindings_follow_from(tmp_path: Path, bin_folder: Path) -> None:
    run_here(bin_folder)
    (bin_folder / "python3").symlink_to(sys.executable)
    stand_in(bin_folder, "nvidia-smi", '[[ $* == *bus_id* ]] && printf "00000000:FE:06.0\\n00000000:FF:06.0\\n"')
    found = told(probe.probe_node(EMULATED, "trtllm-serve", tmp_path))
    assert "for this job; NUMA 0: " in found["CPUs"][1] and "; cgroup v" in found["CPUs"][1]
    assert found["NUMA node of GPUs"] == (True, "GPU 0: ?, GPU 1: ?")
    assert found["clock and memory"][1].startswith("clock source ") and "hugepages" in found["clock and memory"][1]
    assert "network" in found


def test_a_slow_clock_is_named() -> None:
    said = {"cores": 4, "numa": {"0": "0-3"}, "clocksource": "hpet", "hugepages": {"2048kB": 8, "1048576kB": 0}}
    answers = {probe.FACTS: probe.Answer(f"warning\n{json.dumps(said)}", 0)}
    found = told(list(probe.judge_answers(EMULATED, "trtllm-serve", answers)))
    assert found["CPUs"] == (True, "4 for this job; NUMA 0: 0-3; cgroup not shown")
    ok, words = found["clock and memory"]
    assert not ok and "hpet is slow to read" in words and "hugepages 8 of 2048kB" in words
    assert "not looked at" in found["NUMA node of GPUs"][1]


def test_a_probe_that_slurm_refuses_is_one_line(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "srun", 'echo "srun: error: Unable to allocate resources: Invalid account" >&2; exit 1')
    (found,) = probe.probe_node(EMULATED, "trtllm-serve", tmp_path)
    assert not found.ok and "Invalid account" in found.found and "\n" not in found.found


def test_a_probe_that_nobody_waits_for_is_cancelled(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "srun", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    stand_in(bin_folder, "scancel", f'echo "$@" >{tmp_path}/cancelled')
    (found,) = probe.probe_node(EMULATED, "trtllm-serve", tmp_path, wait_s=1.0)
    assert found == Finding("probe", False, "the job did not end within 1 s")
    assert (tmp_path / "cancelled").read_text().startswith("--name=.ratematch-probe-")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_container_that_does_not_start_is_diagnosed(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "srun", 'echo "slurmstepd: error: pyxis: couldn\'t start container" >&2; exit 1')
    (found,) = probe.probe_node(EMULATED, "trtllm-serve", tmp_path)
    assert not found.ok and "the container could not be started" in found.found


OLD, NEW = "slurmstepd-node1: error: pyxis: ", "[2026-11-30T07:03:59.599] error: pyxis: "


@pytest.mark.parametrize("form", [OLD, NEW])
@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            [
                "container start failed with error code: 1",
                "printing enroot log file:",
                "    [ERROR] No such file: /a",
            ],
            "[ERROR] No such file: /a",
        ),
        (["child 7 failed with error code: 1", "couldn't mount /gone", "couldn't start container"], "couldn't mount"),
        (["child 7 terminated with signal 9"], "child 7 terminated with signal 9"),
    ],
)
def test_why_a_container_does_not_start_is_said_with_the_line_of_pyxis(
    tmp_path: Path, bin_folder: Path, form: str, lines: list[str], why: str
) -> None:
    (tmp_path / "said").write_text("".join(f"{form}{line}\n" for line in lines) + "srun: error: node1: task 0: 1\n")
    stand_in(bin_folder, "srun", f"cat {tmp_path}/said >&2; exit 1")
    (found,) = probe.probe_node(EMULATED, "trtllm-serve", tmp_path)
    assert not found.ok and f"pyxis: {why}" in found.found and "\n" not in found.found


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_results_folder_that_no_container_can_have_is_refused_before_anything_is_sent(
    tmp_path: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stand_in(bin_folder, "sbatch", f"touch {tmp_path}/sent")
    folder = tmp_path / name
    folder.mkdir()
    done = sweep(folder, PROFILE + "container: {image: a#b}\n", monkeypatch)
    assert (
        done.exit_code == 1 and "which no mount of a container can have: give another folder with -o" in done.stderr
    )
    assert done.stderr.count("\n") == 1 and not (tmp_path / "sent").exists()
    (found,) = probe.probe_node(replace(RACK, container=Container("a#b")), "trtllm-serve", folder)
    assert not found.ok and found.name == "results folder" and "no mount" in found.found
    assert site.why_unmountable(folder, RACK) is None, "without a container any path will do"
    assert site.why_unmountable(tmp_path / "a b", replace(RACK, container=Container("a#b"))) is None


def test_another_installation_is_compared_with_the_contract() -> None:
    options = "\n".join(f"  {flag} TEXT  words" for flag in command_options("serve", "1.2") if flag != "--middleware")
    new = "  --brand_new / --no_brand_new\n  --extra_llm_api_options F"
    text = f"{BANNER}1.2.1\nUsage: trtllm-serve\n\nOptions:\n{options}\n{new}"
    version, serve = judge_probe({"serve": text})
    assert version.found == '1.2.1: set engine.version: "1.2" in the sweep'
    known = len(command_options("serve", "1.2"))
    assert serve.ok and serve.found == (
        f"{known - 1} of {known} known options; not there: --middleware; not known here: --brand_new, --no_brand_new"
    )
    _, broken = judge_probe({"serve": f"{BANNER}1.4.0\nOptions:\n  --host TEXT\n  --port INTEGER\n"})
    assert not broken.ok and "--help does not name --config, which servers are started with" in broken.found
    (none,) = judge_probe({"serve": "bash: trtllm-serve: command not found"})
    assert not none.ok and "command not found" in none.found
    (old,) = judge_probe({"serve": f"{BANNER}0.20.0\n"})
    assert not old.ok and "'0.20.0' is not known" in old.found


@pytest.mark.parametrize("version", ["1.2", "1.3", "main"])
@pytest.mark.parametrize("subcommand", ["serve", "disaggregated"])
def test_the_emulator_has_exactly_the_options_of_the_contract(
    subcommand: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import click

    from ratematch.emulator.trtllm.command import cli

    monkeypatch.setenv("RATEMATCH_EMULATED_VERSION", version)
    command = cli.commands[subcommand]
    parameters = command.get_params(click.Context(command))
    there = {
        spelling
        for parameter in parameters
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }
    assert there == {each for spellings in command_options(subcommand, version).values() for each in spellings}


# ----------------------------------------------------------------------------------------------------- the command


def test_doctor_asks_the_site_and_probes_it(
    tmp_path: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(bin_folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rack.yaml").write_text(PROFILE + "emulated: true\nslurm: {partition: batch}\n")
    done = CliRunner().invoke(main, ["doctor", "--cluster", "rack", "--probe", "--json"], catch_exceptions=False)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.exit_code == 0, done.stdout
    assert {"Slurm", "partition", "version", "serve", "results folder"} <= set(found)
    alone = CliRunner().invoke(main, ["doctor", "--probe"])
    assert alone.exit_code == 1 and "name its profile with --cluster" in alone.stderr


def test_every_engine_says_how_it_is_probed() -> None:
    commands = find_engine("trtllm-serve").probe_commands(("trtllm-serve",))
    assert commands["serve"] == ("trtllm-serve", "serve", "--help")
    assert commands["disaggregated"][1:] == ("disaggregated", "--help")
