"""Where jobs are sent: to this machine, to Slurm's queue, to nodes that are held already, or to virtual time.

submitit starts the jobs and keeps their logs; whether an experiment is finished is read from its results folder,
never from a job's state, so that a controller that comes back after a crash sees the same as one that never left.
Jobs on this machine are in :mod:`ratematch.campaign.jobs.local`, jobs in Slurm's queue in
:mod:`ratematch.campaign.jobs.slurm`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ratematch.campaign.jobs import slurm
from ratematch.campaign.jobs.here import choose_here, left_alone
from ratematch.campaign.jobs.job import Job, Started
from ratematch.campaign.jobs.local import LocalJob, start_here
from ratematch.campaign.jobs.simulated import SimulatedJob, most_jobs, refuse_unsimulated
from ratematch.campaign.jobs.slurm import JobPacking, piece_of
from ratematch.campaign.jobs.step import StepJob
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.packs import next_to_start
from ratematch.plan.sweep import Sweep
from ratematch.run import machines, programs
from ratematch.run.sharing import share_servers
from ratematch.slurm import allocation
from ratematch.slurm.queue import Queue
from ratematch.slurm.site import why_unmountable
from ratematch.slurm.topology import judge_segment, warn_of_segments
from ratematch.store import layout
from ratematch.store.folder import ExperimentFolder

ExecutorName = Literal["local", "debug", "slurm", "allocation", "simulate"]

SLURM_JOBS = 16
"""Jobs of one sweep in Slurm's queue at once, unless said otherwise: enough to keep it busy, and still polite."""


class Executor:
    """Sends jobs: to this machine, to Slurm's queue, or (``allocation``) to the nodes that we already hold, on which
    experiments run beside each other where they fit. ``simulate``: to virtual time, in processes of this machine.

    ``max_jobs``: how many may be under way at once, ``None`` = one here, SLURM_JOBS in a queue, what fits in an
    allocation. ``packing``: put several experiments into one job of the queue. ``retries``: whether failures are
    tried again in the same run of the controller.
    """

    def __init__(self, name: ExecutorName, max_jobs: int | None = None, packing: JobPacking | None = None):
        self.name = name
        self.packing = packing
        self.retries = name in ("slurm", "allocation")
        usual = {"slurm": SLURM_JOBS, "simulate": most_jobs(), "allocation": sys.maxsize}
        self.max_jobs = max_jobs or usual.get(name, 1)
        self.queue = Queue()
        self._nodes: tuple[str, ...] = ()
        self._nothing_fitted: tuple[list[str], list[Path]] | None = None
        self._guests: set[Path] = set()

    def refuse_unsendable(self, cluster: Cluster, experiments: Sequence[Experiment], results: Path) -> None:
        """Raises UserError or RunError when jobs of these experiments could not be sent, or could not use the folder
        ``results``; nothing is sent."""
        if self.name in ("local", "debug") and cluster.container is not None:
            raise UserError(
                f"cluster profile {cluster.name} runs servers in a container, which only Slurm starts: "
                "use --executor slurm (or allocation, inside salloc)"
            )
        if self.name != "simulate" and (why := why_unmountable(results, cluster)):
            raise UserError(f"{why}: give another folder with -o")
        for engine in {experiment.engine.key: experiment.engine for experiment in experiments}.values():
            programs.refuse_missing(self.name, cluster, engine)
        if self.name == "slurm":
            slurm.refuse_unsendable(cluster, experiments, self.packing)
        if self.name == "simulate":
            refuse_unsimulated(experiments)
        if self.name == "allocation":
            machines.refuse_too_large(cluster, experiments)

    def warnings(self, cluster: Cluster, experiments: Sequence[Experiment]) -> list[str]:
        """What a person should know of jobs of these experiments, a line each."""
        if self.name != "slurm" or cluster.slurm.segment is None:
            return []
        judged = judge_segment(cluster.slurm.segment)
        split = warn_of_segments(cluster, (experiment.deployment for experiment in experiments))
        packs = "nodes of a pack are given out by time, not by slurm.segment: servers may reach over two domains"
        return [*([] if judged.ok else [judged.found]), *([packs] if self.packing else split)]

    def start(
        self, waiting: Sequence[ExperimentFolder], active: Sequence[Job], exclude: Sequence[str] = ()
    ) -> Started:
        """Start (or adopt) jobs that measure what is missing in some of ``waiting``, as many as may start now beside
        ``active``, not on the nodes ``exclude``. Empty: nothing may; ask again later, or when something has ended.

        An experiment that the scheduler refuses comes back with the refusal.

        Raises:
            RunError: the scheduler does not answer; nothing was started. UserError: it cannot be started at all.
        """
        room = self.max_jobs - len({job.scheduler_job for job in active})
        if room < 1:
            return []
        match self.name:
            case "slurm" if self.packing:
                return slurm.send_packs(waiting, self.queue, room, self.packing, exclude)
            case "slurm":
                return slurm.send(waiting, self.queue, room, exclude)
            case "allocation":
                return self._start_in_allocation(waiting, active)
            case "simulate":
                return [(waiting[0], SimulatedJob(waiting[0]))]
        return self._start_here(waiting, active, room)

    def _start_here(self, waiting: Sequence[ExperimentFolder], active: Sequence[Job], room: int) -> Started:
        """The next that fits on GPUs of this machine which nobody uses, with those that its servers serve too."""
        running = [job for job in active if isinstance(job, LocalJob)]
        index, left = choose_here(waiting, running)
        if index is None:
            return []
        folder = waiting[index]
        if folder.held():
            return [(folder, LocalJob(folder, None))]
        others = [other for other in waiting if other is not folder and other.path not in self._guests]
        together = share_servers(folder, others)
        if room > 1 and left_alone(together, others, left):
            together = (folder,)
        self._guests |= {guest.path for guest in together[1:]}
        job = start_here(together, self.name)
        return [(each, LocalJob(each, job, together)) for each in together]

    def _start_in_allocation(self, waiting: Sequence[ExperimentFolder], active: Sequence[Job]) -> Started:
        """The next that fits on nodes of our allocation which nobody uses."""
        self._nodes = self._nodes or allocation.own_nodes()
        running = [job for job in active if isinstance(job, StepJob)]
        taken = {node for job in running for node in job.nodes}
        free = [node for node in self._nodes if node not in taken]
        situation = (free, [folder.path for folder in waiting])
        if not free or situation == self._nothing_fitted:
            return []
        now_min = time.monotonic() / 60
        pieces = [piece_of(folder) for folder in waiting]
        for folder, piece in zip(waiting, pieces, strict=True):
            if piece.nodes > len(self._nodes):  # chosen after matching
                why = f"{piece.name} needs {piece.nodes} nodes, the allocation has {len(self._nodes)}"
                return [(folder, UserError(why))]
        ends = [(job.expected_end_min, len(job.nodes)) for job in running]
        index = next_to_start(pieces, len(free), ends, now_min)
        self._nothing_fitted = situation if index is None else None
        if index is None:
            return []
        folder, piece = waiting[index], pieces[index]
        number = 1 + len(list(folder.path.glob("job/step-*")))
        log = folder.path / layout.JOB_LOGS / f"step-{number}" / "driver_log.out"
        job = StepJob(folder, free[: piece.nodes], log, expected_end_min=now_min + piece.minutes)
        return [(folder, job)]


def choose_packing(sweep: Sweep, executor: ExecutorName, nodes: int | None, hours: float) -> JobPacking | None:
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
    return JobPacking(nodes or largest, min(hours * 60, most))
