"""Are the programs here that a sweep starts with? Looked at first, so that the answer comes at once."""

from __future__ import annotations

import os
import shutil
from typing import Literal

from ratematch.engines import find_engine
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import EngineRef
from ratematch.slurm.site import refuse_missing_programs

ExecutorName = Literal["slurm", "allocation", "local"]


def choose_executor(cluster: Cluster) -> ExecutorName:
    """Where servers run when nobody says it: by the profile, and in the allocation that this process is in."""
    inside = os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURM_JOB_NODELIST")
    return "allocation" if inside and cluster.default_executor == "slurm" else cluster.default_executor


def refuse_missing(executor: str, cluster: Cluster, engine: EngineRef) -> None:
    """Raises UserError, in one line that names what can be done here, when servers of ``engine`` cannot be started
    by ``executor`` from this machine."""
    if executor == "slurm":
        refuse_missing_programs()
    if executor not in ("local", "debug") or cluster.container is not None:
        return
    path = cluster.environment.get("PATH", os.environ.get("PATH"))
    stack = find_engine(engine.key)
    wrapper = ["numactl"] if cluster.numactl else []
    own = () if cluster.emulated else (*wrapper, *stack.command(cluster)[:1])
    for program in (*own, *stack.programs(engine)):
        if shutil.which(program, path=path) is None:
            raise UserError(
                f"{program} is not on PATH here, and {engine.name} servers of cluster profile {cluster.name} start "
                "with it on this machine: use --executor simulate, the cluster's login node, or a profile of this "
                "machine (`ratematch init`)"
                if program in own
                else f"{program} is not on PATH here, and {engine.name} needs it as this sweep has it: install it, "
                "or change what asks for it below `engine:`"
            )
