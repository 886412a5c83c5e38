"""Servers in real containers: pyxis and enroot remove them from every node, however slow that is, however a job ends.

Run where ``RATEMATCH_TEST_IMAGE`` names an image and ``RATEMATCH_TESTCLUSTER_CONTAINERS`` pyxis and enroot
(``.ci/extra``). The emulator runs in the image by this machine's Python, which is mounted there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.run.test_site import stand_in
from tests.slurm.cluster import LOOK_S, PROFILE, SWEEP, Site, TestCluster, container
from tests.support.crashes import crash_of_a_node, wait_for_second_start
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SLOW_RM = """\
case "$*" in
  *-rf*pyxis_*) sleep 14 ;;
esac
exec /bin/rm "$@\""""
"""An image of many files: longer than a driver, and srun after KillWait, wait for a step. Left out where
``RATEMATCH_TEST_FAST_RM`` is set, for an image that has so many."""

LOADS = SWEEP.replace("[1, 2, 3, 4], min_requests: 8", "[1, 2], min_requests: 100")
LONGER = LOADS.replace("requests_per_slot: 4", "requests_per_slot: 100")
"""Loads over which a time limit is met, and Slurm finds a node dead."""

NODES = range(1, 5)


@pytest.fixture
def contained(site: Site, cluster: TestCluster) -> Iterator[Site]:
    if not os.environ.get("RATEMATCH_TEST_FAST_RM"):
        stand_in(cluster.state / "bin", "rm", SLOW_RM)
    python = Path(sys.executable)
    package = Path(__file__).parents[2]
    command = f"command: [{python}, -m, ratematch.emulator]\nenvironment: {{PYTHONPATH: {package}}}\n"
    site.set_profile(PROFILE + command + container(python) + "slurm: {partition: main}\n")
    site.set_sweep(LOADS)
    yield site
    (cluster.state / "bin" / "rm").unlink(missing_ok=True)


def containers(cluster: TestCluster, but: str | None = None) -> list[Path]:
    """Containers on any node (``but`` that one)."""
    return [path for path in cluster.state.glob("nodes/*/data/pyxis_*") if path.parents[1].name != but]


def left(cluster: TestCluster, but: str | None = None) -> list[str]:
    """Containers on any node, processes beside its daemon, and mounts of containers there or on this machine."""
    found = [str(path) for path in containers(cluster, but)]
    spaces = {"/proc/self/ns/mnt": Path("/proc/self/mounts").read_text()}
    for pid in slurmds(cluster, but):
        spaces[f"/proc/{pid}/ns/mnt"] = Path(f"/proc/{pid}/mounts").read_text()
        node = Path(f"/proc/{pid}/ns/pid").stat().st_ino
        found += [command for other, command in everybody(node) if other != pid]
    for space, mounts in spaces.items():
        own = [line for line in mounts.splitlines() if str(cluster.state) in line]
        found += [f"{space}: {line}" for line in own if "pyxis_" in line or "/data/" in line]
    return found


def slurmds(cluster: TestCluster, but: str | None = None) -> Iterator[int]:
    """The daemon of each node that is up, by its id here."""
    for number in NODES:
        if (name := f"node{number}") != but:
            wanted = ["slurmd", "-D", "-N", name]
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    words = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
                    if words == wanted and str(cluster.state).encode() in (folder / "environ").read_bytes():
                        yield int(folder.name)


def everybody(namespace: int) -> Iterator[tuple[int, str]]:
    """Processes of one node."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "ns" / "pid").stat().st_ino == namespace:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # a zombie has none
                    yield int(folder.name), command


def begin(site: Site, cluster: TestCluster, **environment: str) -> subprocess.Popen[bytes]:
    """A sweep whose servers are up and measured."""
    controller = site.sweep(**environment)
    wait_until(lambda: "in flight" in site.said() or controller.poll() is not None, "a load", 120)
    assert controller.poll() is None, site.said()
    assert len(containers(cluster)) == 2, "one on each node of the server"
    return controller


def check_end(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes], *codes: int) -> None:
    """It ends with one of ``codes``, and nothing of it is left."""
    assert controller.wait(300) in codes, site.said()
    wait_until(lambda: not cluster.jobs(), "the queue to empty", 90, LOOK_S)
    check_nothing_left(site, cluster)


def check_nothing_left(site: Site, cluster: TestCluster, but: str | None = None) -> None:
    """The queue is empty; a node's epilog may be at its end."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(cluster, but), "nothing to be left", 10, LOOK_S)
    assert left(cluster, but) == [] and site.processes() == []


def nothing(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes]) -> None:
    pass


def terminate(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes]) -> None:
    controller.terminate()


def interrupt(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes]) -> None:
    controller.send_signal(signal.SIGINT)


def kill_driver(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes]) -> None:
    for pid in site.processes("submitit.core._submit"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def scancel(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes]) -> None:
    cluster.tell("scancel", cluster.jobs()[0])


def requeue(site: Site, cluster: TestCluster, controller: subprocess.Popen[bytes]) -> None:
    cluster.tell("scontrol", "requeue", cluster.jobs()[0])


# 3: a load of a busy machine may be not valid.
ENDS = {
    "normal end": (nothing, (0, 3)),
    "terminated": (terminate, (130,)),
    "Ctrl-C": (interrupt, (130,)),
    "kill -9 of the driver": (kill_driver, (0, 3)),
    "scancel": (scancel, (2,)),
    "requeue": (requeue, (0, 3)),
}


@pytest.mark.parametrize("end", list(ENDS))
def test_no_container_is_left_on_any_node(contained: Site, cluster: TestCluster, end: str) -> None:
    act: Callable[[Site, TestCluster, subprocess.Popen[bytes]], None]
    act, codes = ENDS[end]
    controller = begin(contained, cluster)
    assert left(cluster) != [], "what looks for them sees them"
    act(contained, cluster, controller)
    check_end(contained, cluster, controller, *codes)


def test_a_time_limit_leaves_no_container(contained: Site, cluster: TestCluster) -> None:
    contained.set_sweep(LONGER)
    controller = begin(contained, cluster, SBATCH_SIGNAL="USR2@150")
    (job,) = cluster.jobs()
    ran = cluster.tell("squeue", "--noheader", "--format=%M", "--jobs", job).strip()
    cluster.tell("scontrol", "update", f"jobid={job}", f"timelimit={int(ran.rpartition(':')[0]) + 2}")
    word = "time limit, tried again"
    wait_until(lambda: word in contained.said() or controller.poll() is not None, "the limit", 120)
    assert word in contained.said(), contained.said()
    controller.terminate()
    check_end(contained, cluster, controller, 130)


@pytest.mark.parametrize("index", [0, 1])
def test_a_crash_leaves_containers_on_the_crashed_node_alone(
    contained: Site, cluster: TestCluster, index: int
) -> None:
    contained.set_sweep(LONGER)
    controller = begin(contained, cluster)
    (folder,) = contained.folders()
    with crash_of_a_node(cluster, folder, index) as lost, cleared(cluster, lost):
        wait_for_second_start(folder, 180)
        controller.terminate()
        assert controller.wait(120) == 130, contained.said()
        wait_until(lambda: not cluster.jobs(), "the queue to empty", 90, LOOK_S)
        check_nothing_left(contained, cluster, but=lost)


@contextlib.contextmanager
def cleared(cluster: TestCluster, lost: str) -> Iterator[None]:
    """A node's disk outlives its crash; what it held is no other test's matter."""
    try:
        yield
    finally:
        for path in containers(cluster):
            if path.parents[1].name == lost:
                shutil.rmtree(path, ignore_errors=True)


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
