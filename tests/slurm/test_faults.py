"""What goes wrong on a cluster, done to a sweep on a real Slurm.

Whatever the fault: every load that was measured stays as it was, nothing is measured twice, no process is left on any
node, and the sweep is whole after at most one re-run of the same command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ratematch.store.folder import ExperimentFolder
from tests.slurm.cluster import ALIKE, LONG, LONGEST, LOOK_S, MIXED, PROFILE, Site, TestCluster
from tests.support.crashes import crash_of_a_node, wait_for_second_start
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


class Fault:
    """A sweep with at least one load measured, then a fault."""

    def __init__(self, name: str, site: Site, *options: str, **environment: str):
        self.name, self.site, self.options = name, site, options
        self.controller = site.sweep(*options, **environment)
        wait_until(lambda: len(site.measured()) >= 1 or self.controller.poll() is not None, "a first load", 60)
        assert self.controller.poll() is None, site.said()
        self.kept = site.measured()
        self.noticed_s = 0.0
        self._mark = len(site.said())
        self.began = time.monotonic()

    def job(self) -> str:
        return self.site.cluster.jobs()[0]

    def said_since(self) -> str:
        return self.site.said()[self._mark :]

    def wait_for_word(self, word: str, seconds: float = 60) -> None:
        """Until the controller tells of it."""
        wait_until(lambda: word in self.said_since() or self.controller.poll() is not None, f"{word!r}", seconds)
        self.noticed_s = time.monotonic() - self.began
        assert word in self.said_since(), self.site.said()

    def finish(self, outcome: str, code: int, seconds: float = 120) -> None:
        """The controller ends with ``code``; one re-run completes the sweep unless it is complete already."""
        self.controller.wait(seconds)
        assert self.controller.returncode == code, self.site.said()
        self.rerun(outcome, needed=code != 0)

    def rerun(self, outcome: str, *, needed: bool, loads: int = 4) -> None:
        site = self.site
        if needed:
            assert site.sweep_to_end(*self.options) == 0, site.said()
        site.check_whole(loads)
        assert site.measured().items() >= self.kept.items(), "what was measured is not measured again"
        site.report_fault(self.name, self.noticed_s, outcome)


def test_kill_9_of_the_controller(site: Site) -> None:
    fault = Fault("kill -9 of the controller", site)
    job = fault.job()
    fault.controller.kill()
    fault.controller.wait()
    fault.rerun("its job went on, the next controller adopted it", needed=True)
    sent = [json.loads((folder.path / "job.json").read_text())["id"] for folder in site.folders()]
    assert sent == [job], "adopted, not sent again"


def test_kill_9_of_the_controller_of_an_array(site: Site) -> None:
    site.set_sweep(ALIKE)
    fault = Fault("kill -9 of the controller, array", site)
    tasks = fault.site.cluster.jobs()
    fault.controller.kill()
    fault.controller.wait()
    assert len(tasks) == 2 and {task.partition("_")[2] for task in tasks} == {"0", "1"}, tasks
    fault.rerun("each task adopted for its own experiment", needed=True, loads=8)
    sent = [folder.job() for folder in site.folders()]
    assert sorted(job.id or "" for job in sent if job) == sorted(tasks), "adopted, not sent again"
    assert all(len(list(folder.path.glob("launch/*"))) == 1 for folder in site.folders())


def test_faults_in_a_pack(site: Site) -> None:
    """A controller and then a server are killed: the pack is adopted, and the neighbours of the server go on."""
    site.set_sweep(MIXED)
    fault = Fault("kill -9 of the controller, then of a packed server", site, "--pack", "4")
    (pack,) = site.cluster.jobs()
    fault.controller.kill()
    fault.controller.wait()
    controller = site.sweep("--pack", "4")
    victim = next(folder for folder in site.folders() if folder.held())
    servers = [pid for pid in site.processes("ratematch.emulator", "serve") if "srun" not in _name(pid)]
    server = next(pid for pid in servers if Path(f"/proc/{pid}/cwd").readlink().is_relative_to(victim.path))
    os.kill(server, signal.SIGKILL)
    fault.began = time.monotonic()
    # By the second controller, whether it saw the death or found the pack's word of it.
    wait_until(lambda: _sent_as(victim) not in (None, pack), "its experiment to be sent again")
    fault.noticed_s = time.monotonic() - fault.began
    assert controller.wait(120) == 0, site.said()
    fault.rerun("pack adopted; the server's experiment sent again, its neighbours went on", needed=False, loads=16)
    launches = {folder.path.name: len(list(folder.path.glob("launch/*"))) for folder in site.folders()}
    assert launches.pop(victim.path.name) == 2 and set(launches.values()) == {1}
    neighbours = [folder.job() for folder in site.folders() if folder.path != victim.path]
    assert {job.id for job in neighbours if job} == {pack}


def _kill_9(pids: Iterable[int]) -> None:
    """Some end by themselves when the first is gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_pack_is_requeued_and_then_loses_its_driver(site: Site, cluster: TestCluster) -> None:
    site.set_sweep(MIXED)
    fault = Fault("requeue, then kill -9 of the driver of a pack", site, "--pack", "4")
    (pack,) = cluster.jobs()
    cluster.tell("scontrol", "requeue", pack)
    fault.wait_for_word("pending")
    measured = len(site.measured())
    wait_until(lambda: len(site.measured()) > measured or fault.controller.poll() is not None, "it to go on", 60)
    assert cluster.jobs() == [pack], "Slurm's own second start of it"
    fault.began = time.monotonic()
    _kill_9(site.processes("submitit.core._submit"))
    fault.wait_for_word("tried again")
    fault.controller.wait(120)
    assert fault.controller.returncode == 0, site.said()
    fault.rerun("every member went on, then was sent again; neighbours' loads kept", needed=False, loads=16)


def test_kill_9_of_the_driver(site: Site) -> None:
    fault = Fault("kill -9 of the job's driver", site)
    _kill_9(site.processes("submitit.core._submit"))
    fault.wait_for_word("driver ended, tried again")
    fault.finish("job sent again, measured the rest", 0)


def test_kill_9_of_one_rank(site: Site) -> None:
    fault = Fault("kill -9 of one server rank", site)
    (rank,) = [pid for pid in site.processes("llmapi_launch") if "srun" not in _name(pid)]
    os.kill(rank, signal.SIGKILL)
    fault.wait_for_word("server died, tried again")
    fault.finish("job sent again, measured the rest", 0)


@pytest.mark.parametrize("index", [0, 1])
def test_crash_of_a_node(site: Site, cluster: TestCluster, index: int) -> None:
    site.set_sweep(LONG)
    fault = Fault(f"crash of {['the driver', 'another server'][index]}'s node", site)
    (folder,) = site.folders()
    with crash_of_a_node(cluster, folder, index) as lost:
        wait_for_second_start(folder, 120)
        fault.noticed_s = time.monotonic() - fault.began
        fault.finish("Slurm started the job on other nodes, which measured the rest", 0)
        if index == 0:  # else the driver may have been through before Slurm had found the node dead
            placements = [file.read_text() for file in folder.path.glob("launch/*/placement.json")]
            assert any(lost not in placement for placement in placements)
        nodes = json.loads((site.path / "results" / "mini" / "nodes.json").read_text())
        assert list(nodes) == [lost], "remembered"


def test_requeue(site: Site, cluster: TestCluster) -> None:
    fault = Fault("scontrol requeue", site)
    job = fault.job()
    cluster.tell("scontrol", "requeue", job)
    (folder,) = site.folders()
    wait_for_second_start(folder, 90)
    fault.noticed_s = time.monotonic() - fault.began
    fault.finish("Slurm started the job again, which measured the rest", 0)
    assert [sent.id for sent in [folder.job()] if sent] == [job]


def test_preemption(site: Site, cluster: TestCluster) -> None:
    fault = Fault("preemption", site, SBATCH_PARTITION="low")
    fault.began = time.monotonic()
    cluster.tell("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    fault.wait_for_word("pending")
    fault.finish("Slurm started the job again, which measured the rest", 0)


def test_time_limit(site: Site, cluster: TestCluster) -> None:
    site.set_sweep(LONGEST)
    # The warning is due from the moment the limit is known; it comes at one of Slurm's looks, half a minute apart.
    fault = Fault("time limit", site, SBATCH_SIGNAL="USR2@150")
    ran = cluster.tell("squeue", "--noheader", "--format=%M", "--jobs", fault.job()).strip()
    minutes = int(ran.rpartition(":")[0]) + 2
    cluster.tell("scontrol", "update", f"jobid={fault.job()}", f"timelimit={minutes}")
    fault.began = time.monotonic()
    fault.wait_for_word("time limit, tried again", 90)
    fault.finish("stopped in order, the rest sent again", 0)


def test_scancel(site: Site, cluster: TestCluster) -> None:
    fault = Fault("scancel by the user", site)
    cluster.tell("scancel", fault.job())
    fault.wait_for_word("was cancelled")
    fault.finish("not sent again until the command is re-run", 2)


def test_restart_of_slurmctld(site: Site, cluster: TestCluster) -> None:
    fault = Fault("slurmctld down, then restarted", site, "--max-jobs", "1")
    code, told = cluster.verb("stop-slurmctld")
    assert code == 0, told
    try:
        fault.wait_for_word("Slurm does not answer", 90)
    finally:
        code, told = cluster.verb("start-slurmctld")
        assert code == 0, told
    fault.finish("waited, nothing lost", 0)


def test_ctrl_c_of_the_controller(site: Site, cluster: TestCluster) -> None:
    """Its job is still there for a while, because of the site's epilog, when the same command is given again."""
    slow = cluster.state / "epilog-seconds"
    fault = Fault("Ctrl-C", site)
    slow.write_text("40")
    try:
        fault.controller.send_signal(signal.SIGINT)
        fault.wait_for_word("run the same command again")
        wait_until(lambda: not site.processes(), "everything to end", 30)
        assert fault.controller.wait(30) == 130, site.said()
        assert cluster.tell("squeue", "--noheader", "--format=%T").split() == ["COMPLETING"]
        again = site.sweep()
        wait_until(lambda: "completing" in site.said() or again.poll() is not None, "it to wait", 30)
    finally:
        slow.unlink()
    assert again.wait(120) == 0, site.said()
    assert "completing" in site.said(), "it waited for the job that was ending"
    fault.rerun("job cancelled in order; the same command waited for its end and sent another", needed=False)


def test_a_server_that_is_never_ready(site: Site) -> None:
    site.set_profile(PROFILE + "ready_minutes: 0.1\nenvironment: {RATEMATCH_EMULATED_FAULT: never_ready}\n")
    began = time.monotonic()
    assert site.sweep_to_end() == 2, site.said()
    assert "was not ready after" in site.said() and "tried again" not in site.said()
    noticed_s = time.monotonic() - began
    site.set_profile(PROFILE)
    assert site.sweep_to_end() == 0, site.said()
    site.check_whole()
    site.report_fault("server never ready", noticed_s, "given up with its log, not tried again by itself")


def test_a_server_that_hangs(site: Site) -> None:
    site.set_profile(PROFILE + "stall_minutes: 0.05\nenvironment: {RATEMATCH_EMULATED_FAULT: stall=300s@2}\n")
    began = time.monotonic()
    controller = site.sweep()
    wait_until(lambda: "server hung" in site.said() or controller.poll() is not None, "the hang to be told", 90)
    noticed_s = time.monotonic() - began
    assert "server hung, tried again" in site.said(), site.said()
    controller.wait(90)
    kept = site.measured()
    site.set_profile(PROFILE)
    assert site.sweep_to_end() == 0, site.said()
    site.check_whole()
    assert site.measured().items() >= kept.items()
    site.report_fault("server hangs mid-load", noticed_s, "load ended, job sent again once")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("nccl", "two ranks see the same GPU"), ("ucx", "UCX has no CUDA transport")],
)
def test_a_start_that_fails_for_a_known_cause(site: Site, fault: str, cause: str) -> None:
    """Told with cause and remedy, and not met a second time by itself where a new start cannot help.

    One of either kind; which others are of which is in tests/run/test_retry.py.
    """
    site.set_profile(PROFILE + f"environment: {{RATEMATCH_EMULATED_FAULT: die_at_start={fault}}}\n")
    began = time.monotonic()
    assert site.sweep_to_end() == 2, site.said()
    noticed_s = time.monotonic() - began
    code, out, _ = site.read("status", "results/mini", "--json")
    (row,) = json.loads(out)["experiments"]
    assert code == 0 and cause in row["cause"] and row["remedy"], row
    assert ("tried again" in site.said()) == (fault == "ucx"), site.said()
    wait_until(lambda: not site.cluster.jobs() and not site.processes(), "all processes to end", 30, every_s=LOOK_S)
    site.report_fault(f"{fault} at start", noticed_s, f"told: {row['cause']}"[:72])


def test_a_node_that_failed_twice_is_left_out(site: Site) -> None:
    failures = [{"time": 0.0, "reason": "DOWN* Not responding", "experiment": "ifb"}] * 2
    (site.path / "results" / "mini").mkdir(parents=True)
    (site.path / "results" / "mini" / "nodes.json").write_text(json.dumps({"node1": failures}))
    assert site.sweep_to_end() == 0, site.said()
    site.check_whole()
    for file in (site.path / "results").glob("**/placement.json"):
        assert '"node1"' not in file.read_text()
    code, out, _ = site.read("status", "results/mini")
    assert code == 0 and "node1 is left out: failed 2 times, last DOWN* Not responding" in out, out


@contextlib.contextmanager
def mounted(site: Site, *options: str) -> Iterator[Path]:
    """The site's results are a file system of their own, on all nodes."""
    results = site.path / "results"
    results.mkdir()
    subprocess.run(["mount", *options, str(results)], check=True)
    try:
        yield results
    finally:
        site.cluster.tell("scancel", "--user=root")
        wait_until(lambda: not site.processes(), "everything to end", 30)
        subprocess.run(["umount", str(results)], check=True)


def test_a_shared_file_system_that_hangs_for_a_while(
    cluster: TestCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster.wait_idle()
    site = Site(cluster.state / "shared" / tmp_path.name, cluster, request.node)
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with mounted(site, "-o", "loop", str(image)) as results:
        fault = Fault("results hang for 5 s", site)
        subprocess.run(["fsfreeze", "--freeze", str(results)], check=True)
        try:
            time.sleep(5)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(results)], check=True)
        fault.finish("everybody waited, nothing lost, nothing sent again", 0)
        assert all(len(list(folder.path.glob("launch/*"))) == 1 for folder in site.folders())


def fill(filler: Path) -> None:
    """All that is free on its disk, however much others write meanwhile."""
    with filler.open("wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))


def test_a_full_disk(cluster: TestCluster, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster.wait_idle()
    site = Site(cluster.state / "shared" / tmp_path.name, cluster, request.node)
    with mounted(site, "-t", "tmpfs", "-o", "size=64m", "tmpfs") as results:
        fault = Fault("full disk in results", site)
        filler = results / "filler"
        fill(filler)
        fault.wait_for_word("the disk is full")
        fault.controller.wait(60)
        assert fault.controller.returncode == 2, site.said()
        wait_until(lambda: not site.processes(), "everything to end", 30)
        filler.unlink()
        fault.rerun("stopped in order; whole once there was room", needed=True)


def test_without_accounting(cluster_without_accounting: TestCluster, site: Site) -> None:
    fault = Fault("accounting off, kill -9 of the driver", site)
    told = subprocess.run(
        ["sacct"], env=site.cluster.environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert told.returncode != 0, "sacct knows nothing here"
    _kill_9(site.processes("submitit.core._submit"))
    fault.wait_for_word("driver ended, tried again")
    fault.finish("told from scontrol; job sent again", 0)


def _sent_as(folder: ExperimentFolder) -> str | None:
    """The id of the job that was sent for it last."""
    job = folder.job()
    return job.id if job else None


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
