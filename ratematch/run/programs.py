"""Are the programs here that a sweep starts with? Looked at first, so that the answer comes at once."""

from __future__ import annotations

import os
import shutil
from typing import Literal

from ratematch.engines import find_engine
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.slurm.site import refuse_missing_programs

ExecutorName = Literal["slurm", "allocation", "local"]


def choose_executor(cluster: Cluster) -> ExecutorName:
    """Where servers run when nobody says it: by the profile, and in the allocation that this process is in."""
    inside = os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURM_JOB_NODELIST")
    return "allocation" if inside and cluster.default_executor == "slurm" else cluster.default_executor


def refuse_missing(executor: str, cluster: Cluster, engine: str) -> None:
    """Raises UserError, in one line that names what can be done here, when servers of ``engine`` cannot be started
    by ``executor`` from this machine."""
    if executor == "slurm":
        refuse_missing_programs()
    if executor not in ("local", "debug") or cluster.emulated or cluster.container is not None:
        return
    path = cluster.environment.get("PATH", os.environ.get("PATH"))
    wrapper = ["numactl"] if cluster.numactl else []
    for program in (*wrapper, *find_engine(engine).command(cluster)[:1]):
        if shutil.which(program, path=path) is None:
            raise UserError(
                f"{program} is not on PATH here, and {engine} servers of cluster profile {cluster.name} start with "
                "it on this machine: use --executor simulate, the cluster's login node, or a profile of this machine "
                "(`ratematch init`)"
            )
