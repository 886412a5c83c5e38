"""Rendered files on a real Slurm: run by hand, and compared with what a job launched and was sent with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratematch.inputs import read_cluster
from ratematch.run import render
from ratematch.store import read_json
from tests.run.processes import wait_until
from tests.run.test_render import RATEMATCH, starts
from tests.slurm.cluster import PROFILE, Site, TestCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

RANKS = PROFILE + "slurm: {tasks: gpu, partition: main, sbatch: [--comment=by-hand]}\n"
"""A step with a task for each GPU, as the real engine has it; the emulator's wrapper holds all but the first."""


@pytest.fixture
def site(tmp_path: Path, cluster: TestCluster) -> Site:
    cluster.wait_idle()
    return Site(tmp_path, cluster, profile=RANKS)


def test_a_rendered_job_runs_by_hand_over_two_nodes(site: Site, cluster: TestCluster) -> None:
    code, out, err = site.run("render", "mini", "--executor", "slurm", "-o", "rendered")
    assert code == 0, err
    folder = site.path / out.strip()
    submit = ["sbatch", "--parsable", f"--chdir={folder}", f"--export=ALL,RATEMATCH={RATEMATCH}", "job.sbatch"]
    job = cluster.tell("env", "-C", str(folder), *submit).strip()
    log = folder / f"slurm-{job}.out"
    wait_until(lambda: not cluster.jobs(), "the job to end", 90)
    (work,) = folder.glob(f"run-{job}-*")
    told = log.read_text()
    assert len(list(work.glob("loads/*/measurement.json"))) == 4, told
    # Eight ranks over two nodes, each line with its task; the first one serves.
    lines = (work / "agg-0.log").read_text().splitlines()
    labels = {line.partition(":")[0].strip() for line in lines if not line.startswith("srun:")}
    assert labels == {str(rank) for rank in range(8)}
    wait_until(lambda: not site.processes("emulator"), "servers to end", 30)


def test_a_job_is_sent_and_launches_as_rendered(site: Site, cluster: TestCluster) -> None:
    controller = site.sweep()
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
    assert "--ntasks=8" in starts(expected.files["run.sh"])["agg-0"]
    (script,) = folder.path.glob("job/*/*submission.sh")
    sent = script.read_text().splitlines()
    own = ("--job-name", "--output", "--open-mode")
    asked = [line for line in batch if line.startswith("#SBATCH") and not line.split()[1].startswith(own)]
    assert "#SBATCH --comment=by-hand" in asked and set(asked) <= set(sent)
