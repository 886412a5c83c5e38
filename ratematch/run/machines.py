"""The nodes that a driver holds: of its Slurm allocation, where servers are steps."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ratematch.errors import RunError, UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import ProcessSpec
from ratematch.plan.placement import nodes_on
from ratematch.run import guard
from ratematch.slurm import allocation
from ratematch.slurm.srun import Step, own_container, slurm_step
from ratematch.store import filelock


@dataclass(frozen=True)
class Allocation:
    """Nodes that a job holds, or a part of them. ``cluster``: its profile, which the options of a step follow.
    ``secrets``: of servers, by variable. ``container``: srun's option for the container that servers share
    (:mod:`ratematch.run.preparation`), empty = each has its own."""

    job_id: str
    nodes: tuple[str, ...]
    cluster: Cluster
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    container: str = ""

    @property
    def locks(self) -> tuple[int, ...]:
        """None: the scheduler gives nodes out."""
        return ()

    def step(self, spec: ProcessSpec) -> Step:
        """The step that runs ``spec`` on its nodes."""
        step = slurm_step(spec, self.cluster).revealed(self.secrets)
        return step.within(self.container or own_container(self.cluster)) if self.cluster.container else step

    def end(self, mark: str, grace_s: float) -> None:
        """End what carries ``mark`` on every node, whatever became of the steps that started it."""
        guard.end(mark, grace_s)
        command = [sys.executable, "-I", guard.__file__, "end", mark, str(grace_s)]
        # A node that has just died cannot be cleaned, and need not be.
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                [*allocation.srun(self.nodes, "clean-up"), *command],
                env=guard.unmarked(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=allocation.SWEEP_S,
                check=False,
            )


def current(cluster: Cluster, only: Sequence[str] = (), secrets: Mapping[str, str] | None = None) -> Allocation:
    """The allocation this process runs in, or, with ``only``, the part of it that these nodes are.
    ``secrets``: of the servers it will start, by variable.

    Raises:
        RunError: it runs in none, or its node list cannot be read.
    """
    job_id = filelock.own_job()
    if not job_id or not os.environ.get("SLURM_JOB_NODELIST"):
        raise RunError("this is not inside a Slurm allocation (SLURM_JOB_ID is not set); use salloc or sbatch")
    return Allocation(job_id, tuple(only) or allocation.own_nodes(), cluster, secrets or {})


def refuse_too_large(cluster: Cluster, experiments: Sequence[Experiment]) -> None:
    """Raises UserError when we hold no allocation, or one with fewer nodes than an experiment needs."""
    try:
        held = current(cluster)
    except RunError as error:
        raise UserError(str(error)) from error
    for experiment in experiments:
        if (needed := nodes_on(experiment.deployment, cluster)) > len(held.nodes):
            raise UserError(
                f"{experiment.label} needs {needed} nodes and job {held.job_id} holds {len(held.nodes)}; "
                "ask for more with salloc or sbatch, or lower budget.max_gpus"
            )
