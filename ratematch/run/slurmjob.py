"""Experiments as Slurm jobs: one job for each deployment, all of its loads inside.

submitit writes the batch script and pickles the call; Slurm starts it. The driver is one task of a step of its own::

    #SBATCH --nodes=N ... --requeue --signal=USR2@90
    srun --overlap --nodes=1 --ntasks=1 python -m submitit.core._submit ...     the driver
        srun --overlap --nodelist=...                                           each server

A step, and not the batch script itself, because Slurm's signals (USR2 before the time limit, TERM at a preemption)
go to steps: a driver in the batch script is told nothing and killed in the middle of a load. It is one task although
the job has N nodes, which submitit must not know (it would wait for N results), so nodes go in as raw parameters.

No checkpoint is pickled: the results folder is the checkpoint. A job that Slurm starts again, under the same id after
a preemption, a requeue or a dead node, goes on at the first load that is missing.

Before a job is sent, its unique name is written to ``job.json``; its id after. A controller that comes back finds its
jobs by both, so an id that a cluster gives out again after a reset never passes for ours, and a controller that died
between the two steps finds the job by its name.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from ratematch import filelock
from ratematch.errors import RunError
from ratematch.plan import cluster as clusters
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.placement import nodes_needed
from ratematch.run.allocation import failed_nodes
from ratematch.run.batch import batch_options, judge, prologue, refusal
from ratematch.run.experiment import JOB_BEGAN, run_experiment
from ratematch.run.queue import OVER, Ending, Queue, QueuedJob, ask_slurm
from ratematch.run.retry import OF_ERROR, Failure
from ratematch.run.site import refuse_missing
from ratematch.store import ExperimentFolder, read_json

WARN_S = 90
"""How long before the time limit Slurm tells the driver, so that it stops in order. Slurm may be a minute early."""

CANCEL_WAIT_S = 60.0
CLOCKS_S = 60.0
"""How far the clocks of nodes may be apart; only tells launches of an earlier cluster's job with the same id."""


class SlurmJob:
    """One experiment in a job of ours, sent now (``adopted`` false) or by an earlier controller."""

    def __init__(self, folder: ExperimentFolder, queue: Queue, sent: dict[str, Any], *, adopted: bool):
        self.folder = folder
        self.adopted = adopted
        self.id: str = sent["id"]
        self.name: str = sent["name"]
        self.sent_at: float = sent["sent"]
        self._queue = queue
        self._line: QueuedJob | None = None
        self._fresh = adopted
        self._ending: Ending | None = None
        self._nodes = ""
        self.broken_nodes: dict[str, str] = {}

    @property
    def doing(self) -> str | None:
        """Why it waits or what Slurm does with it; ``None`` when it runs."""
        if self._queue.silent:
            return "Slurm does not answer; asking again"
        if self._line is None:
            return f"job {self.id} sent"
        if self._line.state == "RUNNING":
            return None
        return f"job {self.id} {self._line.state.lower()}" + (f" ({self._line.reason})" if self._line.reason else "")

    def running(self) -> bool:
        if self._ending is not None or (self.folder.done() and not self.folder.held()):
            return False
        # The first answer must be younger than the job, or it would seem to be over already.
        jobs = self._queue.look(now=not self._fresh)
        if jobs is None:
            return True
        self._fresh = True
        self._line = jobs.get(self.id)
        if self._line and self._line.name == self.name and self._line.state not in OVER:
            if self._nodes and self._line.nodes != self._nodes:
                # Slurm took its nodes away to start it elsewhere: because one of them broke?
                self.broken_nodes |= failed_nodes(self._nodes)
            self._nodes = self._line.nodes
            return True
        self._ending = self._queue.ending(self.id, self.name)
        if self._ending is None:
            return True
        if self._ending.state == "NODE_FAIL":
            self.broken_nodes |= failed_nodes(self._ending.nodes)
        filelock.forget(self.folder.path / "run.lock", self.id)
        return False

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""
        if self.folder.done():
            return None
        return explain(self.id, self._ending or Ending(None), self._outcomes(), self.folder.path / "job")

    def _outcomes(self) -> list[dict[str, Any]]:
        """What the launches of this job said, last first."""
        ours = (found for found in self.folder.outcomes() if found.get("job") == self.id)
        recent = (found for found in ours if found["began"] >= self.sent_at - CLOCKS_S)
        return sorted(recent, key=lambda found: float(found["began"]), reverse=True)

    def cancel(self, *, wait: bool = True) -> None:
        """End the job; its driver stops its servers in order. ``wait`` until it has, for a while."""
        ask_slurm(["scancel", self.id])
        self._queue.nudge()
        if not wait:
            return
        deadline = time.monotonic() + CANCEL_WAIT_S
        while self.folder.held() and time.monotonic() < deadline:
            time.sleep(0.2)


def explain(job_id: str, ending: Ending, outcomes: Sequence[dict[str, Any]], logs: Path) -> Failure:
    """Why a job that has ended did not finish; ``outcomes``: of its launches, last first."""
    last = outcomes[0] if outcomes else None
    progress = sum(outcome["measured"] for outcome in outcomes)
    interrupted = bool(last and last.get("interrupted"))
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
    if last and interrupted and last.get("signal") == "SIGUSR2":
        return Failure("time limit", f"job {job_id} was stopped just before its time limit", progress)
    if last and interrupted:
        return Failure("preempted", f"job {job_id} was told to stop ({last.get('signal')})", progress)
    if last and last["error"]:
        return Failure(OF_ERROR.get(last.get("kind", ""), "failed"), str(last["error"]), progress)
    how = f"{ending.state.lower()}, exit code {ending.exit_code}" if ending.state else "nobody knows how"
    return Failure(
        "driver ended", f"job {job_id} ended without a word ({how}; killed?); its log is in {logs}", progress
    )


def send(folder: ExperimentFolder, queue: Queue, exclude: Sequence[str] = ()) -> SlurmJob:
    """Send the job that measures what is missing in ``folder``, or adopt the one that is already there.

    Raises:
        UserError: Slurm refuses what is asked for. RunError: it does not answer.
    """
    jobs = queue.look(now=True)
    if jobs is None:
        raise RunError("Slurm does not answer (squeue failed); nothing was sent")
    if adopted := _find_sent(folder, queue, jobs):
        return adopted
    experiment, cluster = folder.read(), clusters.from_json(read_json(folder.path / "cluster.json"))
    token = uuid.uuid4().hex[:12]
    sent = {"id": None, "name": f"ratematch-{experiment.id}-{token}", "sent": time.time(), "executor": "slurm"}
    folder.write_job(sent)
    # A folder of its own: submitit names files by job id, and ids begin anew when a cluster does.
    runner = submitit.SlurmExecutor(folder=folder.path / "job" / token)
    runner.update_parameters(
        **_parameters(experiment, cluster, len(folder.missing()), exclude), job_name=sent["name"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            job = runner.submit(run_experiment, str(folder.path.absolute()), allocated=True)
        except submitit.core.utils.FailedJobError as error:
            raise refusal(str(error)) from error
    sent["id"] = job.job_id
    folder.write_job(sent)
    queue.nudge()
    return SlurmJob(folder, queue, sent, adopted=False)


def _find_sent(folder: ExperimentFolder, queue: Queue, jobs: dict[str, QueuedJob]) -> SlurmJob | None:
    sent = folder.job()
    if sent is None or sent.get("executor") != "slurm":
        return None
    line = next((job for job in jobs.values() if job.name == sent["name"] and job.state not in OVER), None)
    if line is None:
        if sent["id"]:
            filelock.forget(folder.path / "run.lock", sent["id"])
        return None
    if sent["id"] != line.id:
        folder.write_job(sent := {**sent, "id": line.id})
    return SlurmJob(folder, queue, sent, adopted=True)


def _parameters(experiment: Experiment, cluster: Cluster, loads: int, exclude: Sequence[str]) -> dict[str, Any]:
    raw = batch_options(experiment, cluster, loads, exclude)
    return {
        "time": raw.pop("time"),
        "signal_delay_s": WARN_S,
        "stderr_to_stdout": True,
        "setup": [f"export {JOB_BEGAN}=$(date +%s.%N)", *prologue(cluster)],
        # A job that Slurm starts anew must not wipe out the log of its first start.
        "srun_args": ["--overlap", "--nodes=1", "--ntasks=1", "--open-mode=append"],
        "additional_parameters": raw,
    }


def refuse_unsendable(cluster: Cluster, experiments: Sequence[Experiment]) -> None:
    """Look for what servers need, and let Slurm judge the largest job, before any is sent.

    Raises:
        UserError: no Slurm here, no such image or mount, or Slurm would refuse the job. RunError: it does not answer.
    """
    refuse_missing(cluster)
    if not experiments:
        return
    largest = max(experiments, key=lambda experiment: nodes_needed(experiment.deployment, cluster.gpus_per_node))
    options = batch_options(largest, cluster, len(largest.loads))
    judge(options)
