"""Is this machine ready? Each check says what it found and, when it fails, what would be right."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import ratematch
from ratematch.errors import RatematchError
from ratematch.inputs import read_cluster
from ratematch.plan.cluster import Cluster
from ratematch.run.launch import port_is_free

FREE_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str


def examine(cluster_name: str | None) -> list[Check]:
    """All checks; those of a cluster profile only when one is named."""
    checks = [_python(), _disk(Path()), _ports(), _guard()]
    if cluster_name is None:
        return checks
    try:
        cluster = read_cluster(cluster_name)
    except RatematchError as error:
        return [*checks, Check(f"cluster {cluster_name}", False, str(error))]
    return [*checks, *_cluster(cluster)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("software", True, f"ratematch {ratematch.__version__}, Python {version}, {os.cpu_count()} CPUs")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    enough = free >= FREE_GB and os.access(folder, os.W_OK)
    return Check(
        "results disk", enough, f"{free:.1f} GB free here" + ("" if enough else f"; {FREE_GB:g} GB are wanted")
    )


def _ports() -> Check:
    free = port_is_free("127.0.0.1", 18000)
    return Check("loopback", True, "ports can be bound" if free else "port 18000 is taken; others will be used")


def _guard() -> Check:
    there = Path("/proc/self/environ").exists()
    found = "servers of a killed run are found and ended" if there else "no /proc: servers of a killed run may stay"
    return Check("clean-up after kill -9", there, found)


def _cluster(cluster: Cluster) -> list[Check]:
    program = cluster.command[0]
    where = shutil.which(program)
    kind = "emulated" if cluster.emulated else "real servers"
    checks = [
        Check(
            f"cluster {cluster.name}",
            True,
            f"{cluster.nodes} nodes x {cluster.gpus_per_node} {cluster.gpu}, {kind}",
        ),
        Check(
            "engine command", where is not None, where or f"{program} is not on PATH; set `command` in the profile"
        ),
    ]
    for model, path in cluster.model_paths.items():
        there = Path(path).exists()
        checks.append(
            Check(f"weights of {model}", there, path if there else f"{path} does not exist on this machine")
        )
    return checks
