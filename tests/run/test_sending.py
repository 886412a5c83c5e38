"""What is sent to Slurm for whom, and how a job is known again: without a Slurm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ratematch.campaign.jobs.executor import Executor, choose_packing
from ratematch.campaign.jobs.sent import Membership, SlurmJob, Submission
from ratematch.campaign.jobs.slurm import JobPacking, estimate_minutes, piece_of, send, send_packs
from ratematch.errors import UserError
from ratematch.inputs.find import read_sweep
from ratematch.plan.cluster import Cluster, Container, Slurm, TimeLimit
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload
from ratematch.run.failure import tries_left
from ratematch.slurm.queue import OVER, Queue, QueuedJob
from ratematch.store import filelock
from ratematch.store.files import write_json
from ratematch.store.folder import ExperimentFolder, GpuHours, Results
from tests.support.invented import AGG, LAPTOP, PAIR, experiment

SLOW: Cluster = replace(LAPTOP, start_minutes=10.0, load_minutes=2.0)


def add(at: Path, asked: Experiment | None = None) -> ExperimentFolder:
    return Results(at).add(asked or experiment(), SLOW)


def launch(folder: ExperimentFolder, **outcome: Any) -> None:
    told = {"ok": False, "error": "x", "interrupted": False, "measured": 0, "seconds": 0.0, "began": 0.0, **outcome}
    write_json(folder.new_launch() / "outcome.json", told)


def finish(folder: ExperimentFolder, load: Concurrency) -> None:
    folder.load_folder(load).mkdir(parents=True)
    write_json(folder.load_folder(load) / "loadrun.json", {})


def test_a_job_asks_for_time_for_what_is_missing(tmp_path: Path) -> None:
    folder = add(tmp_path)
    assert estimate_minutes(folder) == 10 + 2 * 2
    finish(folder, Concurrency(2, 6, 1))
    assert estimate_minutes(folder) == 10 + 2


def test_in_gen_only_each_concurrency_has_its_own_start(tmp_path: Path) -> None:
    gen_only = Deployment(ctx=PAIR.ctx, gen=PAIR.gen)
    folder = add(tmp_path, experiment("gen", gen_only))
    assert estimate_minutes(folder) == 2 * (10 + 2)
    finish(folder, Concurrency(2, 6, 1))
    assert estimate_minutes(folder) == 10 + 2


def test_what_took_longer_than_the_profile_says_is_allowed_for(tmp_path: Path) -> None:
    folder = add(tmp_path)
    launch(folder, measured=2, starting_s=1200.0, measuring_s=2 * 300.0)
    assert estimate_minutes(folder) == 20 + 2 * 5
    launch(folder, measured=1, starting_s=60.0, measuring_s=6.0)
    assert estimate_minutes(folder) == 20 + 2 * 5, "never less than was seen"


def test_a_time_limit_that_was_met_while_starting_is_not_met_for_the_same_reason_again(tmp_path: Path) -> None:
    folder = add(tmp_path)
    launch(folder, interrupted=True, signal="SIGUSR2", seconds=1800.0)
    assert estimate_minutes(folder) == 60 + 2 * 2


def test_what_nodes_get_first_is_allowed_for_once_a_job_as_earlier_jobs_took_it(tmp_path: Path) -> None:
    contained = replace(SLOW, container=Container("x"))
    gen_only = experiment("gen", Deployment(ctx=PAIR.ctx, gen=PAIR.gen))
    folder = Results(tmp_path / "first").add(gen_only, contained)
    assert estimate_minutes(folder) == 2 + 2 * (10 + 2)
    assert estimate_minutes(Results(tmp_path / "given").add(gen_only, replace(contained, prepare_minutes=1.0))) == 25
    results = Results(tmp_path / "later")
    for number, seconds in enumerate((300.0, 0.0, 420.0, 6000.0)):
        other = results.add(experiment(workload=Workload(64, 9 + number)), contained)
        launch(other, measured=1, starting_s=seconds + 60.0, preparing_s=seconds, measuring_s=60.0)
    (results.path / "broken" / "launch" / "1").mkdir(parents=True)
    (results.path / "broken" / "launch" / "1" / "outcome.json").write_text("half a fi")
    assert estimate_minutes(results.add(gen_only, contained)) == 7 + 2 * (10 + 2), "the median of those that did it"
    again = results.add(experiment(workload=Workload(64, 9)), contained)
    assert estimate_minutes(again) == 7 + 10 + 2 * 2, "a start is 1 minute and not 6 of what the profile says are 10"
    assert estimate_minutes(results.add(experiment(), SLOW)) == 10 + 2 * 2, "nothing is prepared there"


def test_a_piece_of_a_pack_is_whole_nodes(tmp_path: Path) -> None:
    piece = piece_of(add(tmp_path, experiment("e2e", PAIR)))
    assert piece.nodes == 4 and piece.minutes == 14


QUEUE = [
    QueuedJob("7_0", "ratematch-abc", "RUNNING", "", "node1"),
    QueuedJob("7_1", "ratematch-abc", "PENDING", "Priority", ""),
    QueuedJob("8", "ratematch-abc-old", "RUNNING", "", "node2"),
    QueuedJob("9", "ratematch-over", "CANCELLED", "", ""),
]


def test_a_task_of_an_array_is_known_by_the_arrays_name_and_its_number(tmp_path: Path) -> None:
    folder = add(tmp_path)
    assert Submission.read(folder) is None
    Submission("ratematch-abc", None, 0.0, task=1).write(folder)
    sent = Submission.read(folder)
    assert sent is not None
    line = sent.find_in(QUEUE)
    assert line is not None and line.id == "7_1" and line.task == 1
    assert Submission("ratematch-abc", "7_0", 0.0, task=2).find_in(QUEUE) is None
    assert Submission("ratematch-over", "9", 0.0).find_in(QUEUE) is None
    assert QUEUE[2].task is None


def test_a_job_calls_itself_what_the_queue_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert filelock.own_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert filelock.own_job() == "8"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert filelock.own_job() == "7_1"


def test_what_an_allocation_is_too_small_for_is_refused_and_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratematch.slurm.allocation.own_nodes", lambda: ("node1", "node2"))
    ((_, refusal),) = Executor("allocation").start([add(tmp_path, experiment("e2e", PAIR))], [])
    assert isinstance(refusal, UserError) and "needs 4 nodes, the allocation has 2" in str(refusal)


def test_only_slurm_jobs_can_be_packed_and_a_pack_is_no_longer_than_the_partition_allows() -> None:
    sweep, _ = read_sweep("quickstart")
    assert choose_packing(sweep, "local", None, 4.0) is None
    with pytest.raises(UserError, match="needs --executor slurm"):
        choose_packing(sweep, "local", 0, 4.0)
    assert choose_packing(sweep, "slurm", 0, 4.0) == JobPacking(4, 240.0), "16 GPUs of 4 a node"
    short = replace(sweep.cluster, slurm=Slurm(time=TimeLimit(factor=2, floor_minutes=10, max_minutes=70)))
    assert choose_packing(replace(sweep, cluster=short), "slurm", 6, 4.0) == JobPacking(6, 30.0)


class Members:
    """Two experiments in one pack."""

    def __init__(self, at: Path):
        self.folders = [add(at), add(at, experiment(deployment=replace(AGG, unchecked=("other",))))]
        for folder in self.folders:
            Submission("ratematch-pack-1", "7", 0.0, pack="1").write(folder)
        self.all = [Membership(folder, "ratematch-pack-1") for folder in self.folders]

    def job(self, index: int) -> SlurmJob:
        line = "7|RUNNING|None|node[1-2]|ratematch-pack-1\n"
        queue = Queue(lambda argv: line if argv[0] == "squeue" else "")
        sent = Submission.read(self.folders[index])
        assert sent is not None
        return SlurmJob(self.folders[index], queue, sent, adopted=True)


def test_a_member_is_over_when_its_pack_says_so_while_the_pack_runs_on(tmp_path: Path) -> None:
    members = Members(tmp_path)
    first, second = members.job(0), members.job(1)
    assert first.poll() and second.poll() and first.scheduler_job == second.scheduler_job
    launch(members.folders[0], kind="ServerDied", job="7", began=1.0)
    members.all[0].end(2)
    assert not first.poll() and second.poll()
    failure = first.failure()
    assert failure is not None and failure.kind == "server died"


def test_who_was_never_started_is_sent_again_and_not_taken_for_a_crash(tmp_path: Path) -> None:
    members = Members(tmp_path)
    job = members.job(0)
    ended = "JobId=7 JobName=ratematch-pack-1 JobState=TIMEOUT ExitCode=0:0 RunTime=00:01:00 NodeList=node1"
    job._queue.ask = lambda argv: ended if argv[0] == "scontrol" else ""
    assert not job.poll()
    failure = job.failure()
    assert failure is not None and failure.kind == "not started"


def test_cancelling_all_members_ends_the_pack_and_cancelling_one_does_not(tmp_path: Path) -> None:
    members = Members(tmp_path)
    assert not members.all[0].cancel(), "the other one still wants it"
    assert members.all[1].cancel(), "nobody is left"
    assert all(member.is_cancelled() for member in members.all)
    members.all[0].end(None)
    verdict = members.all[0].ending()
    assert verdict is not None and verdict.cancelled
    job = members.job(0)
    assert not job.poll()
    failure = job.failure()
    assert failure is not None and failure.kind == "cancelled"


def test_a_pack_that_slurm_starts_again_forgets_what_it_said(tmp_path: Path) -> None:
    (member, other) = Members(tmp_path).all
    member.end(2)
    member.begin_anew()
    assert member.ending() is None
    Submission("ratematch-xyz", "9", 1.0).write(other.folder)
    assert member.is_current() and not other.is_current(), "somebody else measures it now"


def test_gpu_time_of_nodes_that_wait_in_a_pack_is_accounted(tmp_path: Path) -> None:
    results = Results(tmp_path)
    launch(add(tmp_path), measured=1, starting_s=900.0, measuring_s=900.0, seconds=1800.0, held_s=1800.0, gpus=4)
    at = tmp_path / "packs" / "1"
    at.mkdir(parents=True)
    write_json(at / "idle.json", [{"idle_gpu_s": 1800.0}, {"idle_gpu_s": 1800.0}])
    assert results.account() == GpuHours(starting=1.0, measuring=1.0, total=3.0)


class Slurm24:
    """A Slurm with one job of ours, whose state changes as a test says."""

    def __init__(self, folder: ExperimentFolder):
        Submission("ratematch-abc-1", "24", 0.0).write(folder)
        self.state = "COMPLETING"
        self.queue = Queue(self.ask, clock=lambda: 0.0)

    def ask(self, argv: Sequence[str]) -> str | None:
        if argv[0] == "squeue":
            return "" if self.state in OVER else f"24|{self.state}|None|node1|ratematch-abc-1\n"
        return f"JobId=24 JobName=ratematch-abc-1 JobState={self.state} ExitCode=0:0 NodeList=node1"


@pytest.mark.parametrize("state", ["COMPLETING", "STAGE_OUT"])
def test_a_job_in_its_last_moments_is_waited_for_and_another_is_sent_then(tmp_path: Path, state: str) -> None:
    """Ctrl-C and the same command at once, where an epilog or the removal of containers takes a while."""
    folder = add(tmp_path)
    slurm = Slurm24(folder)
    slurm.state = state
    ((_, job),) = send([folder], slurm.queue, 1)
    assert isinstance(job, SlurmJob) and job.poll() and job.waits_for == f"job 24 {state.lower()}"
    slurm.state = "CANCELLED"
    slurm.queue.refresh(now=True)
    assert not job.poll()
    failure = job.failure()
    # An adopted job that ended for whatever but a cancellation is sent again by the controller.
    assert failure is not None and failure.kind == "not started" and tries_left(failure, []) > 0
    assert job.adopted


def test_a_job_that_is_cancelled_later_is_cancelled(tmp_path: Path) -> None:
    for state in ("RUNNING", "PENDING"):
        folder = add(tmp_path / state)
        slurm = Slurm24(folder)
        ((_, job),) = send([folder], slurm.queue, 1)
        assert isinstance(job, SlurmJob)
        slurm.state = state  # Slurm only started it anew
        slurm.queue.refresh(now=True)
        assert job.poll()
        slurm.state = "CANCELLED"
        slurm.queue.refresh(now=True)
        assert not job.poll()
        failure = job.failure()
        assert failure is not None and failure.kind == "cancelled"


def test_a_member_whose_servers_are_still_ending_is_waited_for(tmp_path: Path) -> None:
    members = Members(tmp_path)
    queue = Queue(lambda argv: "7|RUNNING|None|node[1-2]|ratematch-pack-1\n" if argv[0] == "squeue" else "")
    members.all[0].cancel()
    packing = JobPacking(2, 60.0)
    with members.folders[0].lock():
        started = send_packs([members.folders[0]], queue, 1, packing)
        ((_, job),) = started
        assert isinstance(job, SlurmJob) and job.poll()
    members.all[0].end(0)
    assert not job.poll()
    failure = job.failure()
    assert failure is not None and failure.kind == "not started"


def test_a_driver_that_slurm_killed_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another node, with servers that did not end before KillWait: its lock still looks held."""
    folder = add(tmp_path)
    slurm = Slurm24(folder)
    slurm.state = "RUNNING"
    ((_, job),) = send([folder], slurm.queue, 1)
    assert isinstance(job, SlurmJob)
    (folder.path / "run.lock").write_text("elsewhere 12 24")
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        slurm.state = "COMPLETING" if len(looks) == 1 else "CANCELLED"
        slurm.queue.refresh(now=True)

    # Not of the module `time` itself: waits for processes sleep by it too, more often where the machine is busy.
    clock = SimpleNamespace(sleep=pause, monotonic=time.monotonic)
    monkeypatch.setattr("ratematch.campaign.jobs.sent.time", clock)
    job.cancel()
    assert not folder.held() and len(looks) < 5
