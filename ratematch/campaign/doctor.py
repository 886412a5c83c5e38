"""Is this machine ready? A check returns what is there and, when it fails, what would be right."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.campaign.contract import keep_answer, look_up
from ratematch.campaign.exposure import check_exposure
from ratematch.campaign.nodes import certified_file, remember_certified
from ratematch.engines import ENGINES, find_engine
from ratematch.errors import ClusterError, UserError
from ratematch.inputs.catalog import load_gpu
from ratematch.inputs.find import find_cluster_file, read_cluster
from ratematch.plan.cluster import Cluster, Slurm
from ratematch.plan.finding import Finding
from ratematch.plan.placement import FIRST_PORT
from ratematch.run.probes import port_is_free
from ratematch.slurm.certify import examine_nodes
from ratematch.slurm.probe import examine_node
from ratematch.slurm.site import check_files, check_slurm, check_weights, refuse_missing_programs
from ratematch.slurm.verdicts import NodeVerdict, judge_nodes, judge_together
from ratematch.version import __version__

FREE_GB = 1.0

ANSWER_S = 60.0
"""How long a command may take to say what is installed."""


def examine(
    cluster_name: str | None, *, probing: bool = False, folder: Path = Path(), engine: str = "trtllm-serve"
) -> list[Finding]:
    """All checks; those of a cluster profile only when one is named. ``probing``: send a job of one node too.

    ``folder``: where results will go. ``engine``: whose command is looked for.
    """
    profile = None
    with contextlib.suppress(ClusterError):  # said below, where it is read
        profile = find_cluster_file(cluster_name) if cluster_name else None
    checks = [_python(), _disk(folder), _ports(), _guard(), *check_exposure(folder, profile)]
    if cluster_name is None:
        return checks
    try:
        cluster = read_cluster(cluster_name)
    except ClusterError as error:
        return [*checks, *(Finding(f"cluster {cluster_name}", False, str(problem)) for problem in error.problems)]
    checks += _cluster(cluster, engine)
    if runs_on_slurm(cluster):
        checks += [*check_slurm(cluster), *check_files(cluster)]
    checks += check_weights(cluster)
    if probing:
        found, answer = examine_node(cluster, engine, folder)
        checks += found
        if answer is not None:
            return [*checks, keep_answer(cluster, engine, answer)]
    if (schema := look_up(cluster, engine)) is not None:
        checks.append(schema)
    return checks


@dataclass(frozen=True)
class Certificate:
    """``nodes``: a verdict on each that was looked at. ``together``: what concerns all of them. ``kept``: where the
    bad ones are remembered, ``None`` = nothing is."""

    nodes: tuple[NodeVerdict, ...]
    together: tuple[Finding, ...]
    kept: Path | None = None

    @property
    def ok(self) -> bool:
        return all(node.ok for node in self.nodes) and all(finding.ok for finding in self.together)


def certify(cluster_name: str, nodes: int | None = None, *, folder: Path = Path()) -> Certificate:
    """Look at ``nodes`` nodes of a cluster by a short job; bad ones stay out of further jobs until they are found
    good. ``nodes``: 2 where nothing is said, or all where there are fewer.

    Raises:
        ClusterError: the profile is wrong. UserError, RunError: no node could be looked at; one line says why.
    """
    cluster = read_cluster(cluster_name)
    if not runs_on_slurm(cluster):
        raise UserError(f"cluster profile {cluster.name} sends no Slurm jobs: there are no nodes to certify")
    count = min(2, cluster.nodes) if nodes is None else nodes
    if count > cluster.nodes:
        raise UserError(f"--nodes {count}: cluster profile {cluster.name} has nodes: {cluster.nodes}")
    refuse_missing_programs()
    examined = examine_nodes(cluster, count, folder)
    verdicts = judge_nodes(examined, cluster, load_gpu(cluster.gpu_source).memory_b)
    kept = None
    if examined.hosts:  # a job of which nothing came back says nothing of its nodes
        bad = {verdict.node: "; ".join(verdict.problems) for verdict in verdicts if not verdict.ok}
        remember_certified(cluster.name, bad, [verdict.node for verdict in verdicts if verdict.ok])
        kept = certified_file(cluster.name) if bad else None
    return Certificate(tuple(verdicts), tuple(judge_together(examined, cluster)), kept)


def runs_on_slurm(cluster: Cluster) -> bool:
    """Emulated profiles run on this machine as well, so Slurm is checked only for those that set something of it;
    and real ones where nothing in them needs it."""
    if cluster.emulated:
        return cluster.slurm != Slurm(mpi=None, tasks="node")
    return cluster.default_executor == "slurm"


def runs_here(cluster: Cluster) -> bool:
    """Are its real servers started on this machine, with its own GPUs?"""
    return not cluster.emulated and cluster.default_executor == "local"


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("software", True, f"ratematch {__version__}, Python {version}, {os.cpu_count()} CPUs")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    enough = free >= FREE_GB and os.access(folder, os.W_OK)
    return Finding(
        "results disk", enough, f"{free:.1f} GB free here" + ("" if enough else f"; {FREE_GB:g} GB are wanted")
    )


def _ports() -> Finding:
    free = port_is_free("127.0.0.1", FIRST_PORT)
    return Finding(
        "loopback", True, "ports can be bound" if free else f"port {FIRST_PORT} is taken; others will be used"
    )


def _guard() -> Finding:
    there = Path("/proc/self/environ").exists()
    description = (
        "servers of a killed run are found and ended" if there else "no /proc: servers of a killed run may stay"
    )
    return Finding("clean-up after kill -9", there, description)


def _output(argv: Sequence[str]) -> str:
    """What a command says on this machine, or why it says nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr


def _others(cluster: Cluster, engine: str) -> str:
    """Which other engines are on this machine, in words."""
    there = [name for name in ENGINES if name != engine and _is_here(name, cluster)]
    return f" ({', '.join(there)} {'is' if len(there) == 1 else 'are'} here: name it with --engine)" if there else ""


def _is_here(engine: str, cluster: Cluster) -> bool:
    known = find_engine(engine)
    command = known.command(cluster)
    if shutil.which(command[0]) is None:
        return False
    # A word such as python3 is everywhere: what it is to start must say that it is there.
    commands = known.local_commands(command)
    return not commands or all(each.ok for each in known.judge_probe(_answers(commands)))


def _answers(commands: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: _output(argv) for name, argv in commands.items()}


def _cluster(cluster: Cluster, engine: str) -> list[Finding]:
    known = find_engine(engine)
    program = known.command(cluster)[0]
    where = shutil.which(program)
    kind = "emulated" if cluster.emulated else "real servers"
    checks = [
        Finding(
            f"cluster {cluster.name}",
            True,
            f"{cluster.nodes} node{'s' if cluster.nodes > 1 else ''} x {cluster.gpus_per_node} {cluster.gpu}, {kind}",
        )
    ]
    # In a container, or where jobs run elsewhere, only the nodes can tell: --probe asks one.
    if cluster.emulated or runs_here(cluster):
        missing = "" if where else f"{program} is not on PATH; set `command` in the profile{_others(cluster, engine)}"
        checks.append(Finding("engine command", where is not None, where or missing))
        if where is not None and (commands := known.local_commands(known.command(cluster))):
            checks += known.judge_probe(_answers(commands))
    return checks
