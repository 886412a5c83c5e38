"""The Slurm allocation that a driver runs in: its nodes, and steps on them.

A driver is one process: a task of its own step, which ``srun --overlap`` starts from the batch script. Servers are
steps beside it, each with a list of its nodes (:func:`ratematch.slurm.srun.slurm_step`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ratematch.errors import RunError
from ratematch.slurm.queue import ask_slurm
from ratematch.slurm.topology import known_blocks, order_by_block

SWEEP_S = 60.0
"""How long the clean-up on all nodes may take; a node that is down never answers."""


def srun(nodes: Sequence[str], name: str, tasks: int | None = None) -> tuple[str, ...]:
    """How a step of ours on ``nodes`` begins: one task on each, or ``tasks`` spread over them.

    Not bound: Slurm would give each task one core.
    """
    count, tasks = len(nodes), tasks or len(nodes)
    shape = (f"--nodes={count}", f"--ntasks={tasks}", f"--ntasks-per-node={-(-tasks // count)}", "--cpu-bind=none")
    return ("srun", "--overlap", "--mem=0", *shape, "--nodelist=" + ",".join(nodes), f"--job-name={name}")


def own_nodes() -> tuple[str, ...]:
    """Names of the nodes of the job that this process runs in, those of a block (an NVLink domain) side by side.

    Raises:
        RunError: their list cannot be read.
    """
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    hostnames = ask_slurm(["scontrol", "show", "hostnames", nodes])
    if not hostnames:
        raise RunError(f"job {os.environ.get('SLURM_JOB_ID')}: scontrol cannot read the node list {nodes!r}")
    return order_by_block(hostnames.split(), known_blocks())
