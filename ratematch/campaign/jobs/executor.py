"""Experiments to jobs: submitit's executors, nothing on top of them.

submitit starts the jobs and keeps their logs; whether an experiment is finished is read from its results folder,
never from a job's state, so that a controller that comes back after a crash sees the same as one that never left.
Jobs on this machine are here, jobs in Slurm's queue in :mod:`ratematch.campaign.jobs.slurm`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import submitit

from ratematch.campaign.jobs import slurm
from ratematch.campaign.jobs.simulated import SimulatedJob, most_jobs, refuse_unsimulated
from ratematch.campaign.jobs.slurm import Begun, Packing, piece_of
from ratematch.campaign.jobs.step import StepJob
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.packs import next_to_start
from ratematch.plan.sweep import Sweep
from ratematch.run import machines
from ratematch.run.experiment import run_experiment
from ratematch.run.failure import OF_ERROR, Failure
from ratematch.slurm import allocation
from ratematch.slurm.queue import Queue
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome
from ratematch.store.outcome import from_json as outcome_from_json

ExecutorName = Literal["local", "debug", "slurm", "allocation", "simulate"]

SLURM_JOBS = 16
"""Jobs of one sweep in Slurm's queue at once, unless said otherwise: enough to keep it busy, and still polite."""

DAY_MIN = 24 * 60
CANCEL_WAIT_S = 30.0


class Job(Protocol):
    """One experiment under way, in a job of ours or in one that an earlier controller left running."""

    folder: ExperimentFolder
    adopted: bool

    @property
    def slot(self) -> str:
        """The same for experiments that share one job of the scheduler."""

    @property
    def doing(self) -> str | None:
        """What it waits for; ``None`` when it runs."""

    def running(self) -> bool: ...

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""

    @property
    def broken_nodes(self) -> dict[str, str]:
        """Nodes that were lost under it, with the scheduler's reason."""

    def cancel(self, *, wait: bool = True) -> None:
        """Ask the measuring process to stop its servers and end; ``wait`` until it has."""


class Executor:
    """Sends jobs: to this machine, to Slurm's queue, or (``allocation``) to the nodes that we already hold, on which
    experiments run beside each other where they fit. ``simulate``: to virtual time, in processes of this machine.

    ``max_jobs``: how many may be under way at once, ``None`` = one here, SLURM_JOBS in a queue, what fits in an
    allocation. ``packing``: put several experiments into one job of the queue. ``retries``: whether failures are
    tried again in the same run of the controller.
    """

    def __init__(self, name: ExecutorName, max_jobs: int | None = None, packing: Packing | None = None):
        self.name = name
        self.packing = packing
        self.retries = name in ("slurm", "allocation")
        usual = {"slurm": SLURM_JOBS, "simulate": most_jobs(), "allocation": sys.maxsize}
        self.max_jobs = max_jobs or usual.get(name, 1)
        self.queue = Queue()
        self._nodes: tuple[str, ...] = ()
        self._seen: tuple[list[str], list[Path]] | None = None

    def refuse_unsendable(self, cluster: Cluster, experiments: Sequence[Experiment]) -> None:
        """Raises UserError or RunError when jobs of these experiments could not be sent; nothing is sent."""
        if self.name in ("local", "debug") and cluster.container is not None:
            raise UserError(
                f"cluster profile {cluster.name} runs servers in a container, which only Slurm starts: "
                "use --executor slurm (or allocation, inside salloc)"
            )
        if self.name == "slurm":
            slurm.refuse_unsendable(cluster, experiments, self.packing)
        if self.name == "simulate":
            refuse_unsimulated(experiments)
        if self.name == "allocation":
            machines.refuse_too_large(cluster, experiments)

    def start(self, waiting: Sequence[ExperimentFolder], active: Sequence[Job], exclude: Sequence[str] = ()) -> Begun:
        """Start (or adopt) jobs that measure what is missing in some of ``waiting``, as many as may start now beside
        ``active``, not on the nodes ``exclude``. Empty: nothing may; ask again later, or when something has ended.

        An experiment that the scheduler refuses comes back with the refusal.

        Raises:
            RunError: the scheduler does not answer; nothing was started. UserError: it cannot be started at all.
        """
        room = self.max_jobs - len({job.slot for job in active})
        if room < 1:
            return []
        match self.name:
            case "slurm" if self.packing:
                return slurm.send_packs(waiting, self.queue, room, self.packing, exclude)
            case "slurm":
                return slurm.send(waiting, self.queue, room, exclude)
            case "allocation":
                return self._start_beside(waiting, active)
        folder = waiting[0]
        if self.name == "simulate":
            return [(folder, SimulatedJob(folder))]
        return [(folder, LocalJob(folder, None if folder.held() else _start_here(folder, self.name)))]

    def _start_beside(self, waiting: Sequence[ExperimentFolder], active: Sequence[Job]) -> Begun:
        """The next that fits on nodes of our allocation which nobody uses."""
        self._nodes = self._nodes or allocation.own_nodes()
        running = [job for job in active if isinstance(job, StepJob)]
        taken = {node for job in running for node in job.nodes}
        free = [node for node in self._nodes if node not in taken]
        seen = (free, [folder.path for folder in waiting])
        if not free or seen == self._seen:
            return []
        now = time.monotonic() / 60
        pieces = [piece_of(folder) for folder in waiting]
        for folder, piece in zip(waiting, pieces, strict=True):
            if piece.nodes > len(self._nodes):  # chosen after matching
                held = f"the allocation has {len(self._nodes)}"
                return [(folder, UserError(f"{piece.name} needs {piece.nodes} nodes, {held}"))]
        index = next_to_start(pieces, len(free), [(job.until, len(job.nodes)) for job in running], now)
        self._seen = seen if index is None else None
        if index is None:
            return []
        folder, piece = waiting[index], pieces[index]
        number = 1 + len(list(folder.path.glob("job/step-*")))
        log = folder.path / "job" / f"step-{number}" / "driver_log.out"
        return [(folder, StepJob(folder, free[: piece.nodes], log, until=now + piece.minutes))]


def choose_packing(sweep: Sweep, executor: ExecutorName, nodes: int | None, hours: float) -> Packing | None:
    """How experiments are packed, within the time limit that the profile allows; ``nodes``: of a pack, 0 = enough for
    the largest deployment of the sweep, ``None`` = one job for each experiment.

    Raises:
        UserError: only jobs in Slurm's queue can be packed.
    """
    if nodes is None:
        return None
    if executor != "slurm":
        raise UserError("--pack makes larger Slurm jobs, so it needs --executor slurm")
    largest = min(sweep.cluster.nodes, -(-sweep.max_gpus // sweep.cluster.gpus_per_node))
    time = sweep.cluster.slurm.time
    most = float("inf") if time.max_minutes is None else (time.max_minutes - time.floor_minutes) / time.factor
    return Packing(nodes or largest, min(hours * 60, most))


class LocalJob:
    """A job on this machine; ``job`` is ``None`` for one that an earlier controller started."""

    doing = None
    broken_nodes: dict[str, str] = {}  # noqa: RUF012 - nothing is ever added

    def __init__(self, folder: ExperimentFolder, job: submitit.Job[Any] | None):
        self.folder = folder
        self.slot = str(folder.path)
        self.adopted = job is None
        self._job = job

    def running(self) -> bool:
        return self.folder.held() if self._job is None else not self._job.done()

    def failure(self) -> Failure | None:
        if self.folder.done():
            return None
        outcome = self._result() or self.folder.outcome()
        if outcome and outcome.error:
            return Failure(OF_ERROR.get(outcome.kind, "failed"), outcome.error)
        logs = self.folder.path / "job"
        return Failure("driver ended", f"the job ended without a word (killed?); its log is in {logs}")

    def _result(self) -> Outcome | None:
        if self._job is not None:
            with contextlib.suppress(Exception):  # a job that was killed has no result to tell
                result = outcome_from_json(self._job.result())
                return result if result.error else None
        return None

    def cancel(self, *, wait: bool = True) -> None:
        told: set[int] = set()
        self._tell_to_stop(told)
        if not wait:
            return
        deadline = time.monotonic() + CANCEL_WAIT_S
        while self.running() and time.monotonic() < deadline:
            # A job that was only just sent has nobody to tell until it has imported all it needs.
            self._tell_to_stop(told)
            time.sleep(0.1)
        if self._job is not None and self.running():
            self._job.cancel()

    def _tell_to_stop(self, told: set[int]) -> None:
        """SIGTERM, once, to the process that measures in the folder."""
        holder = self.folder.holder()
        if holder and holder not in told and self.folder.held():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(holder, signal.SIGTERM)
            told.add(holder)


def _start_here(folder: ExperimentFolder, executor: ExecutorName) -> submitit.Job[Any]:
    runner = submitit.AutoExecutor(folder=folder.path / "job" / "%j", cluster=executor)
    runner.update_parameters(timeout_min=DAY_MIN, name="ratematch", stderr_to_stdout=True)
    with _ctrl_c_kept_from_children(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return runner.submit(run_experiment, str(Path(folder.path).absolute()))


@contextlib.contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """Jobs started inside do not get the terminal's Ctrl-C: the controller tells them to stop, in order.

    submitit's local controller would otherwise kill its job one second after Ctrl-C, servers and all.
    """
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: no terminal to protect from
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
