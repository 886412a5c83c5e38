"""The Slurm allocation that a driver runs in: its nodes, and steps on them.

The driver is one process: a task of its own step, which ``srun --overlap`` starts from the batch script. Servers are
steps beside it, each told its nodes (:func:`ratematch.plan.step.slurm_step`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ratematch import filelock
from ratematch.errors import RunError, UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import ProcessSpec
from ratematch.plan.placement import nodes_needed
from ratematch.plan.step import Step, slurm_step
from ratematch.run import guard
from ratematch.run.queue import ask_slurm, read_fields

SWEEP_S = 60.0
"""How long the clean-up on all nodes may take; a node that is down answers never."""


@dataclass(frozen=True)
class Allocation:
    """Nodes that a job holds, or a part of them. ``cluster``: what a step on them must say."""

    job_id: str
    nodes: tuple[str, ...]
    cluster: Cluster

    def step(self, spec: ProcessSpec) -> Step:
        """The step that runs ``spec`` on its nodes."""
        return slurm_step(spec, self.cluster)

    def end(self, mark: str, grace_s: float) -> None:
        """End what carries ``mark`` on every node, whatever became of the steps that started it."""
        guard.end(mark, grace_s)
        environment = {key: value for key, value in os.environ.items() if key != guard.VARIABLE}
        command = [sys.executable, "-I", guard.__file__, "end", mark, str(grace_s)]
        # A node that has just died cannot be cleaned, and need not be.
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                [*srun(self.nodes, "clean-up"), *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SWEEP_S,
                check=False,
            )


def srun(nodes: Sequence[str], name: str, tasks: int | None = None) -> tuple[str, ...]:
    """How a step of ours on ``nodes`` begins: one task on each, or ``tasks`` spread over them.

    Not bound: Slurm would give each task one core.
    """
    count, tasks = len(nodes), tasks or len(nodes)
    shape = (f"--nodes={count}", f"--ntasks={tasks}", f"--ntasks-per-node={-(-tasks // count)}", "--cpu-bind=none")
    return ("srun", "--overlap", "--mem=0", *shape, "--nodelist=" + ",".join(nodes), f"--job-name={name}")


def current(cluster: Cluster, only: Sequence[str] = ()) -> Allocation:
    """The allocation this process runs in, or, with ``only``, the part of it that these nodes are.

    Raises:
        RunError: it runs in none, or its node list cannot be read.
    """
    job_id = filelock.own_job()
    if not job_id or not os.environ.get("SLURM_JOB_NODELIST"):
        raise RunError("this is not inside a Slurm allocation (SLURM_JOB_ID is not set); use salloc or sbatch")
    return Allocation(job_id, tuple(only) or own_nodes(), cluster)


def own_nodes() -> tuple[str, ...]:
    """Names of the nodes of the job that this process runs in.

    Raises:
        RunError: their list cannot be read.
    """
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    told = ask_slurm(["scontrol", "show", "hostnames", nodes])
    if not told:
        raise RunError(f"job {filelock.own_job()}: scontrol cannot read the node list {nodes!r}")
    return tuple(told.split())


def refuse_too_large(cluster: Cluster, experiments: Sequence[Experiment]) -> None:
    """Raises UserError when we hold no allocation, or one with fewer nodes than an experiment needs."""
    try:
        held = current(cluster)
    except RunError as error:
        raise UserError(str(error)) from error
    for experiment in experiments:
        if (needed := nodes_needed(experiment.deployment, cluster.gpus_per_node)) > len(held.nodes):
            raise UserError(
                f"{experiment.label} needs {needed} nodes and job {held.job_id} holds {len(held.nodes)}; "
                "ask for more with salloc or sbatch, or lower budget.max_gpus"
            )


def failed_nodes(nodes: str) -> dict[str, str]:
    """Those of a node list that Slurm holds for broken, with its reason; empty when it does not answer."""
    told = ask_slurm(["scontrol", "show", "node", "--oneliner", nodes]) if nodes else None
    found = {}
    for line in (told or "").splitlines():
        fields = read_fields(line)
        state = fields.get("State", "")
        if any(word in state for word in ("DOWN", "FAIL", "NOT_RESPONDING")) or state.endswith("*"):
            reason = line.partition("Reason=")[2].partition(" [")[0]
            found[fields["NodeName"]] = f"{state} {reason}".strip()
    return found
