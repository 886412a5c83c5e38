"""Rendered files on a real Slurm: run by hand, and compared with what a job launched and was sent with."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest

from ratematch.inputs.find import read_cluster
from ratematch.run import render
from ratematch.slurm.survey import SEGMENT_SINCE, version_numbers
from ratematch.store.files import read_json
from tests.slurm.cluster import LONG, LOOK_S, PROFILE, Site, TestCluster
from tests.support.processes import cpus_of, name_of, wait_until
from tests.support.scripts import RATEMATCH, starts

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

RANKS = PROFILE + 'numactl: "-m 0"\nslurm: {tasks: gpu, partition: main, sbatch: [--comment=by-hand]}\n'
"""A step with a task for each GPU, as the real engine has it; the emulator's wrapper holds all but the first. And
memory of one NUMA node, by the real numactl."""


STAGED = "model_paths: {{deepseek-r1: {0}/weights/deepseek-r1}}\nstage_weights: {0}/disk\n"


@pytest.fixture
def site(site: Site) -> Site:
    (site.path / "weights" / "deepseek-r1").mkdir(parents=True)
    (site.path / "weights" / "deepseek-r1" / "model.safetensors").write_bytes(bytes(1_000_000))
    site.set_profile(RANKS + STAGED.format(site.path))
    return site


def test_a_rendered_job_runs_by_hand_over_two_nodes(site: Site, cluster: TestCluster) -> None:
    code, out, err = site.read("render", "mini", "--executor", "slurm", "-o", "rendered")
    assert code == 0, err
    folder = site.path / out.strip()
    submit = ["sbatch", "--parsable", f"--chdir={folder}", f"--export=ALL,RATEMATCH={RATEMATCH}", "job.sbatch"]
    job = cluster.tell("env", "-C", str(folder), *submit).strip()
    log = folder / f"slurm-{job}.out"
    wait_until(lambda: not cluster.jobs(), "the job to end", 90, every_s=LOOK_S)
    (work,) = folder.glob(f"run-{job}-*")
    told = log.read_text()
    assert len(list(work.glob("loads/*/measurement.json"))) == 4, told
    # Eight ranks over two nodes, each line with its task; the first one serves.
    lines = (work / "agg-0.log").read_text().splitlines()
    labels = {line.partition(":")[0].strip() for line in lines if not line.startswith("srun:")}
    assert labels == {str(rank) for rank in range(8)}
    assert len([line for line in (work / "weights.log").read_text().splitlines() if line.startswith("ready ")]) == 2
    assert not list((site.path / "disk").glob("deepseek*")), "copies are gone with the job"
    wait_until(lambda: not site.processes("emulator"), "servers to end", 30)


def test_a_job_is_sent_and_launches_as_rendered(site: Site, cluster: TestCluster) -> None:
    """And while loads run, driver and load generator are on a core that no server uses."""
    site.set_profile(RANKS + STAGED.format(site.path) + "load_cores: 1\n")
    # Loads long enough to look at: on a busy machine one look takes as long as a short load.
    site.set_sweep(LONG)
    controller = site.sweep()
    wait_until(lambda: are_apart(site) or controller.poll() is not None, "cores of their own", 60)
    assert controller.poll() is None, site.said()
    assert controller.wait(120) == 0, site.said()
    (folder,) = site.folders()
    launch = folder.path / "launch" / "1"
    placed = read_json(launch / "placement.json")
    (instance,) = placed["instances"]
    profile = read_cluster(str(site.path / "slurm" / "clusters" / "four.yaml"))
    (expected,) = render.render(
        folder.read(),
        profile,
        allocated=True,
        nodes=[place["node"] for place in instance["places"]],
        port_base=instance["port"],
    )
    batch = expected.files.pop("job.sbatch").splitlines()
    for name, text in expected.files.items():
        assert (launch / name).read_text() == text, name
    (prepared,) = {outcome.preparing_s for outcome in folder.outcomes()}
    assert prepared > 0 and not list((site.path / "disk").glob("deepseek*"))
    step = starts(expected.files["run.sh"])["agg-0"]
    assert f"{site.path}/disk/deepseek-r1-" in " ".join(step)
    assert (
        "--ntasks=8" in step
        and "--distribution=block" in step
        and step[step.index("numactl") :][:3] == ["numactl", "-m", "0"]
    )
    # The label of the rank before each line hides nothing from the parser of the iteration log.
    assert all(stored.measurement.tok_s_log for stored in folder.loads())
    (script,) = folder.path.glob("job/*/*submission.sh")
    sent = script.read_text().splitlines()
    own = ("--job-name", "--output", "--open-mode")
    asked = [line for line in batch if line.startswith("#SBATCH") and not line.split()[1].startswith(own)]
    assert "#SBATCH --comment=by-hand" in asked and set(asked) <= set(sent)


def are_apart(site: Site) -> bool:
    """Do the driver and servers on its node run, and on different CPUs?"""
    drivers = [pid for pid in site.processes("submitit.core._submit") if name_of(pid) != "srun"]
    servers = [pid for pid in site.processes("ratematch.emulator") if name_of(pid) != "srun"]
    with contextlib.suppress(OSError):  # one has ended meanwhile
        nodes = {pid: Path(f"/proc/{pid}/ns/net").readlink() for pid in (*drivers, *servers)}
        own = cpus_of(drivers)
        beside = cpus_of(pid for pid in servers if nodes[pid] in {nodes[driver] for driver in drivers})
        return bool(own and beside) and not own & beside
    return False


def test_doctor_looks_at_the_real_slurm_and_probes_a_node(site: Site, cluster: TestCluster) -> None:
    code, out, err = site.read("doctor", "--cluster", "four", "--probe", "--json")
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0, out + err
    assert found["Slurm"]["found"].startswith("slurm") and found["partition"]["found"].startswith("main: UP, 4 nodes")
    assert found["node"]["found"].startswith("node") and found["results folder"]["found"] == "seen"
    assert found["version"]["found"].startswith("1.2.0+emulated") and "known options" in found["serve"]["found"]

    wrong = "slurm: {partition: nowhere, account: nobody, segment: 4, mpi: pmi9, exclude: [node99]}\n"
    site.set_profile(PROFILE + wrong)
    code, out, err = site.read("doctor", "--cluster", "four", "--json")
    bad = {check["name"]: check["found"] for check in json.loads(out)["checks"] if not check["ok"]}
    assert code == 1
    assert {"partition", "account", "segment", "MPI", "excluded node", "a job of one node"} <= set(bad)
    assert not [line for line in bad.values() if "\n" in line]


def test_a_node_is_asked_what_is_installed_on_it(site: Site, cluster: TestCluster) -> None:
    """A package tree of our own stands for TensorRT-LLM; what it says is the contract from then on."""
    program = site.path / "trtllm-serve"
    program.write_text(f"#!{sys.executable}\nfrom tensorrt_llm.commands.serve import main\nmain()\n")
    program.chmod(0o755)
    packages = Path(__file__).parents[1] / "engines" / "packages" / "v1_4"
    own = f"command: [{program}]\nenvironment: {{PYTHONPATH: {packages}}}\nslurm: {{partition: main, mpi: null}}\n"
    site.set_profile(PROFILE.replace("emulated: true\n", own))
    cache = {"XDG_CACHE_HOME": str(site.path / "cache")}
    _, out, err = site.run("doctor", "--cluster", "four", "--probe", "--json", **cache)
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert found["node"]["found"].startswith("node"), err
    assert found["schema"]["ok"] and "TensorRT-LLM 1.4.0rc4" in found["schema"]["found"], found["schema"]
    code, out, err = site.run("plan", "mini", "--json", **cache)
    assert code == 0 and json.loads(out)["contract"].endswith("version 1.4.0rc4"), err
    assert cluster.jobs() == []


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ("{partition: nowhere}", "Slurm refuses the job: "),
        ("{sbatch: [--no-such-option]}", "Slurm refuses the job: "),
        ("{reservation: nobody}", "Slurm refuses the job: "),
    ],
)
def test_what_slurm_would_refuse_is_one_line_before_anything_is_sent(
    site: Site, cluster: TestCluster, slurm: str, said: str
) -> None:
    site.set_profile(PROFILE + f"slurm: {slurm}\n")
    code, out, err = site.read("sweep", "mini.yaml", "--executor", "slurm")
    assert code == 1 and err.startswith(f"ratematch: {said}") and err.count("\n") == 1
    assert out == "" and cluster.jobs() == [] and not (site.path / "results").exists()


def test_a_segment_that_this_slurm_does_not_keep_is_one_line(site: Site, cluster: TestCluster) -> None:
    """Slurm before 23.11 refuses the option; later ones take it and, without blocks of nodes, ignore it."""
    site.set_profile(PROFILE + "slurm: {segment: 4}\n")
    _, out, _ = site.read("doctor", "--cluster", "four", "--json")
    (segment,) = [check for check in json.loads(out)["checks"] if check["name"] == "segment"]
    assert not segment["ok"]
    if version_numbers(cluster.tell("sbatch", "--version")) < SEGMENT_SINCE:
        code, out, err = site.read("sweep", "mini.yaml", "--executor", "slurm")
        assert code == 1 and err.startswith("ratematch: Slurm refuses the job: ") and err.count("\n") == 1
        assert out == "" and cluster.jobs() == [] and not (site.path / "results").exists()
    else:
        assert "ignores --segment" in segment["found"]
