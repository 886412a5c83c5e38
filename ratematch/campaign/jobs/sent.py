"""A job that was sent to Slurm: is it still there, what came of it, how is it ended?

``job.json`` has which of three kinds it is: a job of its own, a task of an array, or a member of a pack (several
experiments in one allocation, :mod:`ratematch.campaign.jobs.pack`), which has ended when its pack has written so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.run.failure import OF_ERROR, Failure
from ratematch.slurm.queue import LEAVING, OVER, Ending, Queue, QueuedJob, ask_slurm, failed_nodes
from ratematch.store import filelock, layout
from ratematch.store.files import read_value, write_json
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome
from ratematch.store.private import make_private
from ratematch.store.sentjob import SentJob

CANCEL_WAIT_S = 60.0
CLOCKS_S = 60.0
"""How far the clocks of nodes may be apart. A launch that began earlier still is of another job, which had this id on
an earlier cluster."""


@dataclass(frozen=True)
class Submission:
    """What ``job.json`` holds of a job that was sent to Slurm.

    ``name``: unique for every submission. ``id``: as the queue writes it, ``None`` until Slurm has given one.
    ``sent_at``: seconds since the epoch. ``task``: number in an array. ``pack``: name of the pack's folder, of a
    member.
    """

    name: str
    id: str | None
    sent_at: float
    task: int | None = None
    pack: str | None = None

    @staticmethod
    def read(folder: ExperimentFolder) -> Submission | None:
        """The last one for this experiment; ``None`` when there was none, or not to Slurm."""
        job = folder.job()
        if job is None or job.executor != "slurm":
            return None
        return Submission(job.name, job.id, job.sent, job.task, job.pack)

    def write(self, folder: ExperimentFolder) -> None:
        """Make it the last one for this experiment."""
        folder.write_job(SentJob(self.name, self.id, self.sent_at, self.task, self.pack))

    def find_in(self, jobs: Sequence[QueuedJob]) -> QueuedJob | None:
        """Its line among ``jobs`` of the queue, by name and task: ids are given out again when a cluster is set up
        anew."""
        alive = (job for job in jobs if job.name == self.name and job.state not in OVER)
        return next((job for job in alive if self.task is None or job.task == self.task), None)

    def logs(self, folder: ExperimentFolder) -> Path:
        """Where its driver's log is: in the experiment's folder, or, of an array, in the sweep's ``jobs``."""
        home = folder.path / layout.JOB_LOGS if self.task is None else folder.path.parent / layout.JOBS
        return home / (self.name if self.pack else self.name.rpartition("-")[2])

    def membership(self, folder: ExperimentFolder) -> Membership | None:
        """Its place in a pack; ``None`` outside of one."""
        return Membership(folder, self.name) if self.pack else None


class SlurmJob:
    """One experiment in a job of ours, sent now (``adopted`` false) or by an earlier controller.

    ``dying``: it was adopted in its last moments, to be waited for: somebody has stopped it, and servers of another
    job must not start beside those that it is still ending.
    """

    def __init__(
        self, folder: ExperimentFolder, queue: Queue, submission: Submission, *, adopted: bool, dying: bool = False
    ):
        assert submission.id is not None
        self.folder = folder
        self.adopted = adopted
        self._dying = dying
        self.id, self.name, self.sent_at = submission.id, submission.name, submission.sent_at
        self._logs = submission.logs(folder)
        self._member = submission.membership(folder)
        self._queue = queue
        self._in_queue: QueuedJob | None = None
        self._seen_since_sent = adopted
        self._ending: Ending | None = None
        self._nodes = ""
        self._broken_nodes: dict[str, str] = {}

    @property
    def scheduler_job(self) -> str:
        """The same for experiments that share a job in the queue."""
        return self.id

    @property
    def broken_nodes(self) -> Mapping[str, str]:
        """Nodes that were lost under it, with Slurm's reason. As of the last :meth:`poll`."""
        return self._broken_nodes

    @property
    def waits_for(self) -> str | None:
        """Why it waits or what Slurm does with it; ``None`` when it runs. As of the last :meth:`poll`."""
        if self._queue.silent:
            return "Slurm does not answer; asking again"
        job = self._in_queue
        if job is None:
            return f"job {self.id} sent"
        if job.state == "RUNNING":
            waits = self._member is not None and not self.folder.held()
            return f"in job {self.id}, waiting for its turn" if waits else None
        return f"job {self.id} {job.state.lower()}" + (f" ({job.reason})" if job.reason else "")

    def poll(self) -> bool:
        """Look in the queue, seldom, and in the folder; true until the job has ended, or its part in a pack."""
        if self._ending is not None or (self.folder.done() and not self.folder.held()):
            return False
        if self._member and self._member.ending() and not self.folder.held():
            self._ending = Ending(None)
            return False
        # The first answer must be younger than the job, or it would seem to be over already.
        jobs = self._queue.refresh(now=not self._seen_since_sent)
        if jobs is None:
            return True
        self._seen_since_sent = True
        self._in_queue = jobs.get(self.id)
        if self._in_queue and self._in_queue.name == self.name and self._in_queue.state not in OVER:
            self._note_nodes(self._in_queue.nodes)
            if self._in_queue.state not in LEAVING and not (self._member and self._member.is_cancelled()):
                self._dying = False  # Slurm has put it back into the queue
            return True
        self._ending = self._queue.ending(self.id, self.name)
        if self._ending is None:
            return True
        if self._ending.state == "NODE_FAIL":
            self._broken_nodes |= failed_nodes(self._ending.nodes)
        filelock.forget(self.folder.path / layout.RUN_LOCK, self.id)
        return False

    def _note_nodes(self, nodes: str) -> None:
        """Keep the nodes it has now; when Slurm took others away to start it elsewhere, those that broke are kept."""
        if self._nodes and nodes != self._nodes:
            self._broken_nodes |= failed_nodes(self._nodes)
        self._nodes = nodes

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""
        if self.folder.done():
            return None
        ending, outcomes = self._ending or Ending(None), self._outcomes()
        if self._member and (member_ending := self._member.ending()) and member_ending.cancelled:
            ending = Ending("CANCELLED")
        if self._member and not outcomes and ending.state in ("COMPLETED", "TIMEOUT", "PREEMPTED"):
            return Failure("not started", f"job {self.id} ended before this had its turn in it")
        failure = classify_ending(self.id, ending, outcomes, self._logs)
        if self._dying and failure.kind == "cancelled":
            # By whoever ran this before: whoever runs it now wants it measured.
            return Failure("not started", f"job {self.id} was ending when this began, and is gone", failure.progress)
        return failure

    def _outcomes(self) -> list[Outcome]:
        """How the launches of this job ended, last first."""
        ours = (outcome for outcome in self.folder.outcomes() if outcome.job == self.id)
        recent = (outcome for outcome in ours if outcome.began >= self.sent_at - CLOCKS_S)
        return sorted(recent, key=lambda outcome: outcome.began, reverse=True)

    def cancel(self, *, wait: bool = True) -> None:
        """End the job; its driver stops its servers in order. ``wait`` until it has, for a while."""
        if self._member is None or self._member.cancel():
            ask_slurm(["scancel", self.id])
        self._queue.nudge()
        if not wait:
            return
        deadline = time.monotonic() + CANCEL_WAIT_S
        while self.folder.held() and time.monotonic() < deadline:
            # A driver that Slurm killed leaves its lock held: once its job is over that is struck out.
            self.poll()
            time.sleep(0.2)


def classify_ending(job_id: str, ending: Ending, outcomes: Sequence[Outcome], logs: Path) -> Failure:
    """Why a job that has ended did not finish; ``outcomes``: of its launches, last first."""
    last = outcomes[0] if outcomes else None
    progress = sum(outcome.measured for outcome in outcomes)
    interrupted = bool(last and last.interrupted)
    match ending.state:
        case "CANCELLED":
            return Failure(
                "cancelled", f"job {job_id} was cancelled (scancel); run the same command to go on", progress
            )
        case "TIMEOUT" | "DEADLINE":
            return Failure("time limit", f"job {job_id} met its time limit", progress)
        case "NODE_FAIL" | "BOOT_FAIL":
            return Failure("node failure", f"job {job_id}: a node of {ending.nodes} failed", progress)
        case "PREEMPTED":
            return Failure("preempted", f"job {job_id} was preempted", progress)
        case "OUT_OF_MEMORY":
            return Failure("failed", f"job {job_id} ran out of host memory", progress)
    if last and interrupted and last.signal == "SIGUSR2":
        return Failure("time limit", f"job {job_id} was stopped just before its time limit", progress)
    if last and interrupted:
        return Failure("preempted", f"job {job_id} was told to stop ({last.signal})", progress)
    if last and last.error:
        return Failure(OF_ERROR.get(last.kind, "failed"), last.error, progress)
    how = f"{ending.state.lower()}, exit code {ending.exit_code}" if ending.state else "nobody knows how"
    return Failure(
        "driver ended", f"job {job_id} ended without a word ({how}; killed?); its log is in {logs}", progress
    )


@dataclass(frozen=True)
class MemberEnding:
    """How an experiment ended in its pack. ``code``: exit code of its driver, ``None`` = it was never started."""

    code: int | None
    cancelled: bool


@dataclass(frozen=True)
class Membership:
    """The place of the experiment in ``folder`` in the pack that was sent under ``name``."""

    folder: ExperimentFolder
    name: str

    @property
    def path(self) -> Path:
        """Folder of its files, which may not be there yet."""
        return self.folder.path / layout.JOB_LOGS / self.name

    @property
    def log(self) -> Path:
        """What its driver writes."""
        return self.path / "driver_log.out"

    def is_current(self) -> bool:
        """Was nothing sent for this experiment since? Else whoever was sent later measures it."""
        return self.folder.is_sent_as(self.name)

    def ending(self) -> MemberEnding | None:
        """How it ended in this pack; ``None`` while it has not, and for those who may not look into its folder."""
        file = self.path / layout.OVER
        try:
            if not file.exists():
                return None
        except PermissionError:
            return None
        return read_value(file, lambda content: MemberEnding(content["code"], content["cancelled"]))

    def end(self, code: int | None) -> None:
        """Write that it has ended with this exit code; ``None``: it was never started."""
        self._make_folder()
        write_json(self.path / layout.OVER, {"code": code, "cancelled": self.is_cancelled()})

    def begin_anew(self) -> None:
        """Slurm has started the whole pack again, so how it ended in an earlier start of the pack is void."""
        (self.path / layout.OVER).unlink(missing_ok=True)

    def is_cancelled(self) -> bool:
        """Was its end asked for?"""
        return (self.path / "cancel").exists()

    def cancel(self) -> bool:
        """Ask for its end; true when nobody else of its pack is left, so that the pack itself may end."""
        self._make_folder()
        (self.path / "cancel").touch()
        others = (
            Membership(ExperimentFolder(file.parent), self.name)
            for file in self.folder.path.parent.glob(f"*/{layout.EXPERIMENT}")
        )
        return not any(
            other.is_current() and not other.is_cancelled() and not other.ending() and not other.folder.done()
            for other in others
        )

    def _make_folder(self) -> None:
        make_private(self.path.parent)
        self.path.mkdir(exist_ok=True)
