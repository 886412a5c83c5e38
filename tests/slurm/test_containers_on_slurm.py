"""Servers in real containers: pyxis and enroot remove them from every node, however slow that is, however a job ends.

Run where ``RATEMATCH_TEST_IMAGE`` names an image and ``RATEMATCH_TESTCLUSTER_CONTAINERS`` pyxis and enroot
(``.ci/extra``). The emulator runs in the image by this machine's Python, which is mounted there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.run.test_site import stand_in
from tests.slurm.cluster import LOOK_S, PROFILE, SWEEP, Site, TestCluster
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SLOW_RM = """\
case "$*" in
  *-rf*pyxis_*) sleep 14 ;;
esac
exec /bin/rm "$@\""""
"""An image of many files: longer than a driver, and srun after KillWait, wait for a step."""

ENDS = ["normal end", "terminated", "kill -9 of the driver", "scancel"]


@pytest.fixture
def contained(site: Site, cluster: TestCluster) -> Site:
    stand_in(cluster.state / "bin", "rm", SLOW_RM)
    package, python = Path(__file__).parents[2], Path(sys.executable)
    needed = dict.fromkeys(str(path) for path in (package, python.parents[1], python.resolve().parents[1]))
    mounts = ", ".join(f'"{path}:{path}"' for path in needed)
    command = f"command: [{python}, -m, ratematch.emulator]\nenvironment: {{PYTHONPATH: {package}}}\n"
    image = f"container: {{image: {os.environ['RATEMATCH_TEST_IMAGE']}, mounts: [{mounts}]}}\n"
    site.set_profile(PROFILE + command + image + "slurm: {partition: main}\n")
    site.set_sweep(SWEEP.replace("[1, 2, 3, 4], min_requests: 8", "[1, 2], min_requests: 100"))
    return site


def left(cluster: TestCluster) -> list[Path]:
    """Containers on any node."""
    return list(cluster.state.glob("nodes/*/data/pyxis_*"))


@pytest.mark.parametrize("end", ENDS)
def test_no_container_is_left_on_any_node(contained: Site, cluster: TestCluster, end: str) -> None:
    site = contained
    controller = site.sweep()
    wait_until(lambda: "in flight" in site.said() or controller.poll() is not None, "a load", 120)
    assert controller.poll() is None, site.said()
    assert len(left(cluster)) == 2, "one on each node of the server"
    match end:
        case "terminated":
            controller.terminate()
        case "kill -9 of the driver":
            for pid in site.processes("submitit.core._submit"):
                os.kill(pid, signal.SIGKILL)
        case "scancel":
            cluster.tell("scancel", cluster.jobs()[0])
    expected = {"normal end": (0, 3), "terminated": (130,), "kill -9 of the driver": (0, 3), "scancel": (2,)}
    assert controller.wait(240) in expected[end], site.said()
    wait_until(lambda: not cluster.jobs(), "the queue to empty", 90, LOOK_S)
    assert left(cluster) == [] and site.processes() == []


LAUNCHES = """\
name: mini
model: deepseek-r1
cluster: four
workloads:
  - {isl: 64, osl: 16}
budget: {max_gpus: 8}
ctx:
  axes: {mapping: TEP4}
  loads: {concurrency: [1], min_requests: 16}
gen:
  axes: {mapping: TEP4}
  loads: {concurrency: [1, 2], min_requests: 16}
deployments:
  - {ctx: {mapping: TEP4}, gen: {mapping: TEP4}, loads: {concurrency: [1], min_requests: 16}}
"""


@pytest.mark.parametrize("options", [("--max-jobs", "1"), ("--pack", "4")])
def test_the_image_is_unpacked_once_on_each_node_of_a_job(
    contained: Site, cluster: TestCluster, options: tuple[str, ...]
) -> None:
    """An enroot that notes who it makes a container for. A server of each role, and the orchestrator of a pair."""
    site = contained
    log = site.path / "unpacked"
    enroot = cluster.state / "bin" / "enroot"
    text = enroot.read_text()
    enroot.write_text(text.replace("exec", f'[ "$1" != create ] || echo "$(hostname) $3" >>{log}\nexec', 1))
    (site.path / "weights" / "deepseek-r1").mkdir(parents=True)
    (site.path / "weights" / "deepseek-r1" / "model.safetensors").write_bytes(bytes(1_000_000))
    profile = (site.path / "slurm" / "clusters" / "four.yaml").read_text()
    profile = profile.replace("mounts: [", f'mounts: ["{site.path}/weights:/weights:ro", ')
    paths = "model_paths: {deepseek-r1: /weights/deepseek-r1}\n"
    site.set_profile(f"{profile}{paths}stage_weights: {cluster.state}/local/staged\n")
    site.set_sweep(LAUNCHES)
    try:
        controller = site.sweep(*options)
        assert controller.wait(400) in (0, 3), site.said()
    finally:
        enroot.write_text(text)
    wait_until(lambda: not cluster.jobs(), "the queue to empty", 90, LOOK_S)
    launches = [json.loads(file.read_text()) for file in (site.path / "results").glob("mini/*/launch/*/outcome.json")]
    assert len(launches) >= 3 and all(launch["preparing_s"] > 0 for launch in launches)
    made = [line.split() for line in log.read_text().splitlines()]
    jobs = {name.rpartition("_")[2].partition(".")[0] for _, name in made}
    assert jobs == {launch["job"] for launch in launches}
    assert len(made) == len({(node, name.partition(".")[0]) for node, name in made}), "one on each node of each job"
    assert left(cluster) == [] and not list(cluster.state.glob("nodes/*/staged/deepseek*"))
