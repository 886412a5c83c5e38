"""Experiments as Slurm jobs: one job for each deployment, all of its loads inside.

submitit writes the batch script and pickles the call; Slurm starts it. The driver is one task of a step of its own::

    #SBATCH --nodes=N ... --requeue --signal=USR2@90
    srun --overlap --nodes=1 --ntasks=1 python -m submitit.core._submit ...     the driver
        srun --overlap --nodelist=...                                           each server

A step, and not the batch script itself, because Slurm's signals (USR2 before the time limit, TERM at a preemption)
go to steps: a driver in the batch script gets none and is killed in the middle of a load. It is one task although the
job has N nodes, which submitit must not know (it would wait for N results), so nodes go in as raw parameters.

No checkpoint is pickled: the results folder is the checkpoint. A job that Slurm starts again, under the same id after
a preemption, a requeue or a dead node, goes on at the first load that is missing.

Experiments that ask Slurm for the same are one array. Slurm names a task ``123_4``, and that, with the array's unique
name, is its identity here: a task is adopted, cancelled, requeued and preempted alone, and one that failed is sent
again as a job of its own. Arrays are as long as the queue may hold (``--max-jobs``), so none needs a throttle.
Several experiments of different size in one job are a pack (:mod:`ratematch.campaign.jobs.pack`).

Before a job is sent, its unique name is written to ``job.json``; its id after. A controller that comes back finds its
jobs by both. So an id that a cluster gives out again after a reset is never taken for ours, and a controller that
died between the two steps finds the job by its name. When a controller is killed while its ``sbatch`` is still on the
way, the job starts although another was sent for the same experiment; it finds another name in ``job.json`` and
measures nothing.
"""

from __future__ import annotations

import functools
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import submitit

from ratematch.campaign.jobs.job import Started
from ratematch.campaign.jobs.pack import PackFile, run_pack
from ratematch.campaign.jobs.sent import SlurmJob, Submission
from ratematch.errors import RunError
from ratematch.plan.budget import minutes_on, prepare_minutes
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.packs import Pack, Piece
from ratematch.plan.packs import pack as pack_pieces
from ratematch.plan.placement import nodes_on
from ratematch.run.experiment import JOB_BEGAN, run_experiment
from ratematch.run.followup import num_further
from ratematch.slurm.queue import LEAVING, Queue, QueuedJob
from ratematch.slurm.sbatch import batch_options, check_submission, prologue, refusal
from ratematch.slurm.site import refuse_missing
from ratematch.store import filelock, layout
from ratematch.store.folder import ExperimentFolder
from ratematch.store.masking import not_inherited
from ratematch.store.preparing import learnt_minutes
from ratematch.store.private import make_private

WARN_S = 90
"""How long before the time limit Slurm tells the driver, so that it stops in order. Slurm may be a minute early."""

Parameters = dict[str, Any]
"""Of a job, by the names that submitit has for them."""


@dataclass(frozen=True)
class JobPacking:
    """Several experiments go into one job of at most ``nodes`` nodes, for about ``minutes``."""

    nodes: int
    minutes: float


def send(folders: Sequence[ExperimentFolder], queue: Queue, room: int, exclude: Sequence[str] = ()) -> Started:
    """Adopt the jobs that are there already for ``folders``, at most ``room``; if there is none, send the next.

    What is sent at once is the first experiment and those that ask Slurm for the same: one job, or one array.

    Raises:
        RunError: Slurm does not answer; nothing was sent.
    """
    jobs = _queued_jobs(queue)
    if adopted := _adopt(folders, queue, jobs):
        return adopted[:room]
    parameters = _parameters_for(folders[0], exclude)
    alike = [folder for folder in folders[:room] if _parameters_for(folder, exclude) == parameters]
    token = uuid.uuid4().hex[:12]
    name = f"ratematch-{folders[0].read().id}-{token}" if len(alike) == 1 else f"ratematch-{token}"
    calls = [
        functools.partial(run_experiment, str(folder.path.absolute()), allocated=True, sent=name) for folder in alike
    ]
    return _submit(alike, queue, Submission(name, None, time.time()), calls, parameters)


def send_packs(
    folders: Sequence[ExperimentFolder], queue: Queue, room: int, packing: JobPacking, exclude: Sequence[str] = ()
) -> Started:
    """The same with several experiments in each job, of different size too: at most ``room`` jobs.

    Raises:
        RunError: Slurm does not answer; nothing was sent.
    """
    jobs = _queued_jobs(queue)
    if adopted := _adopt(folders, queue, jobs):
        return adopted
    by_name = {folder.path.name: folder for folder in folders}
    started: Started = []
    for pack in plan_packs(folders, packing)[:room]:
        pieces = tuple(slot.piece for slot in pack.slots)
        members = [by_name[piece.name] for piece in pieces]
        token = uuid.uuid4().hex[:12]
        submission = Submission(f"ratematch-pack-{token}", None, time.time(), pack=token)
        home = members[0].path.parent / layout.PACKS / token
        home.mkdir(parents=True)
        cluster = _cluster(members[0])
        PackFile(submission.name, cluster.gpus_per_node, pieces).write(home)
        parameters = _parameters(cluster, pack.nodes, pack.minutes, exclude)
        call = functools.partial(run_pack, str(home.absolute()))
        started += _submit(members, queue, submission, [call], parameters)
    return started


def plan_packs(folders: Sequence[ExperimentFolder], packing: JobPacking) -> tuple[Pack, ...]:
    """Which of ``folders`` run together, and about when. One that is wider than a pack widens all of them."""
    pieces = [piece_of(folder) for folder in folders]
    return pack_pieces(pieces, max(packing.nodes, *(piece.nodes for piece in pieces)), packing.minutes)


def _submit(
    folders: Sequence[ExperimentFolder],
    queue: Queue,
    submission: Submission,
    calls: Sequence[Callable[[], Any]],
    parameters: Parameters,
) -> Started:
    """Send ``calls`` for ``folders``: one call is one job for all of them, several are an array, a task for each."""
    # A folder of its own: submitit names files by job id, and ids begin anew when a cluster does.
    home = folders[0].path / layout.JOB_LOGS if len(folders) == 1 else folders[0].path.parent / layout.JOBS
    make_private(home)  # calls lie there pickled: whoever could write them would run code as us
    runner = submitit.SlurmExecutor(folder=home / submission.name.rpartition("-")[2])
    runner.update_parameters(**parameters, job_name=submission.name)
    submissions = [replace(submission, task=index if len(calls) > 1 else None) for index in range(len(folders))]
    for folder, named in zip(folders, submissions, strict=True):
        named.write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with not_inherited(), runner.batch():
                jobs = [runner.submit(call) for call in calls]
        except submitit.core.utils.FailedJobError as error:
            why = refusal(str(error))
            if isinstance(why, RunError):
                raise why from error
            return [(folder, why) for folder in folders]
    queue.nudge()
    started: Started = []
    for folder, named in zip(folders, submissions, strict=True):
        numbered = replace(named, id=jobs[named.task or 0].job_id)
        numbered.write(folder)
        started.append((folder, SlurmJob(folder, queue, numbered, adopted=False)))
    return started


def _queued_jobs(queue: Queue) -> dict[str, QueuedJob]:
    jobs = queue.refresh(now=True)
    if jobs is None:
        raise RunError("Slurm does not answer (squeue failed); nothing was sent")
    return jobs


def _adopt(folders: Sequence[ExperimentFolder], queue: Queue, jobs: dict[str, QueuedJob]) -> Started:
    """Those that have a job in the queue, be it in its last moments. Locks of jobs that have gone are forgotten."""
    adopted: Started = []
    for folder in folders:
        submission = Submission.read(folder)
        if submission is None:
            continue
        queued = submission.find_in(list(jobs.values()))
        member = submission.membership(folder)
        # A cancelled member is still there while its driver ends its servers.
        stopping = member is not None and member.is_cancelled() and folder.held()
        if queued is None or (member and (member.ending() or member.is_cancelled()) and not stopping):
            if queued is None and submission.id:
                filelock.forget(folder.path / layout.RUN_LOCK, submission.id)
            continue
        if submission.id != queued.id:
            submission = replace(submission, id=queued.id)
            submission.write(folder)
        dying = stopping or queued.state in LEAVING
        adopted.append((folder, SlurmJob(folder, queue, submission, adopted=True, dying=dying)))
    return adopted


def _cluster(folder: ExperimentFolder) -> Cluster:
    return folder.cluster()


def estimate_minutes(folder: ExperimentFolder) -> float:
    """How long a job for what is missing in ``folder`` takes: as the profile says, or as it took so far if that was
    longer.

    A launch that measured nothing before it was stopped shows only that a start takes longer than that: twice its
    time is allowed for, so that a time limit that was met once is not met for the same reason again.
    """
    experiment, cluster = folder.read(), _cluster(folder)
    start_min, load_min = cluster.start_minutes, cluster.load_minutes
    learnt_min = learnt_minutes(folder.path.parent, cluster)
    before_min = prepare_minutes(cluster) if learnt_min is None else learnt_min
    for outcome in folder.outcomes():
        if outcome.measured:
            start_min = max(start_min, (outcome.starting_s - outcome.preparing_s) / 60)
            load_min = max(load_min, outcome.measuring_s / outcome.measured / 60)
        elif outcome.interrupted and outcome.signal == "SIGUSR2":
            start_min = max(start_min, 2 * outcome.seconds / 60)
    missing = [[load for load in part.loads if not folder.finished(load)] for part in experiment.launches()]
    servers_min = sum(start_min + (len(loads) + num_further(folder)) * load_min for loads in missing if loads)
    return before_min + servers_min if servers_min else 0.0


def piece_of(folder: ExperimentFolder) -> Piece:
    """Nodes and minutes that what is missing in ``folder`` takes."""
    nodes = nodes_on(folder.read().deployment, _cluster(folder))
    return Piece(folder.path.name, nodes, estimate_minutes(folder))


def _parameters_for(folder: ExperimentFolder, exclude: Sequence[str]) -> Parameters:
    """What the job for ``folder`` asks Slurm for."""
    piece = piece_of(folder)
    return _parameters(_cluster(folder), piece.nodes, piece.minutes, exclude)


def _parameters(cluster: Cluster, nodes: int, estimate_min: float, exclude: Sequence[str]) -> Parameters:
    """A job of ``nodes`` nodes for what takes about ``estimate_min`` minutes."""
    raw = batch_options(cluster, nodes, estimate_min, exclude)
    return {
        "time": raw.pop("time"),
        "signal_delay_s": WARN_S,
        "stderr_to_stdout": True,
        "setup": [f"export {JOB_BEGAN}=$(date +%s.%N)", *prologue(cluster)],
        # A job that Slurm starts anew must not wipe out the log of its first start.
        "srun_args": ["--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--open-mode=append"],
        "additional_parameters": raw,
    }


def refuse_unsendable(cluster: Cluster, experiments: Sequence[Experiment], packing: JobPacking | None = None) -> None:
    """Check what servers need, and let Slurm check the largest job, before any is sent.

    Raises:
        UserError: no Slurm here, no such image or mount, or Slurm would refuse the job. RunError: it does not answer.
    """
    refuse_missing(cluster)
    if not experiments:
        return
    nodes = max(nodes_on(experiment.deployment, cluster) for experiment in experiments)
    estimate_min = max(minutes_on(cluster, experiment) for experiment in experiments)
    options = batch_options(cluster, max(nodes, packing.nodes) if packing else nodes, estimate_min)
    check_submission(options)
