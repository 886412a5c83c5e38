"""Experiments written down instead of run: the files and commands of their jobs, with no other effect.

A rendered folder holds what a launch folder in ``results/`` holds before its servers write to it, made by the same
functions, and ``job.sbatch`` around it. Nodes that only an allocation decides are placeholders, unless given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.engines import find_engine
from ratematch.engines.installed import InstalledSchema
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.cluster import to_json as cluster_to_json
from ratematch.plan.experiment import Experiment
from ratematch.plan.experiment import to_json as experiment_to_json
from ratematch.plan.placement import FIRST_PORT, nodes_on, place, placement_to_json
from ratematch.run.placing import as_served, ready_s
from ratematch.run.script import batch_script, node_placeholders, run_script
from ratematch.store import layout
from ratematch.store.files import to_text, write_new


@dataclass(frozen=True)
class Rendering:
    """The files of one start of an experiment's servers, by name, for the folder ``path`` below the output."""

    path: Path
    experiment: Experiment
    files: dict[str, str]


def render(
    experiment: Experiment,
    cluster: Cluster,
    *,
    allocated: bool,
    nodes: Sequence[str] = (),
    port_base: int | None = None,
    installed: InstalledSchema | None = None,
) -> list[Rendering]:
    """One rendering for each start of the servers. ``allocated``: for a Slurm job, else for this machine.
    ``installed``: what the servers' own package says it takes, where it was asked.

    Raises:
        PlacementError: it does not fit ``nodes``. UserError: the engine would refuse the files.
    """
    parts = experiment.launches()
    renderings = []
    for number, part in enumerate(parts, start=1):
        path = Path(experiment.folder) / str(number) if len(parts) > 1 else Path(experiment.folder)
        files = _files(part, cluster, allocated, nodes, port_base, installed)
        renderings.append(Rendering(path, part, files))
    return renderings


def _files(
    experiment: Experiment,
    cluster: Cluster,
    allocated: bool,
    nodes: Sequence[str],
    port_base: int | None,
    installed: InstalledSchema | None,
) -> dict[str, str]:
    count = nodes_on(experiment.deployment, cluster)
    names = [f"local{index}" for index in range(count)]
    if allocated:
        own = json.dumps([experiment_to_json(experiment), cluster_to_json(cluster)], ensure_ascii=False)
        names = list(nodes) or node_placeholders(count, [own])
    unknown = names if allocated and not nodes else []
    addresses = None if allocated else dict.fromkeys(names, "127.0.0.1")
    first = port_base or cluster.port_base or FIRST_PORT
    placement = place(experiment.deployment, cluster, names, first, addresses)
    engine = find_engine(experiment.engine.key)
    served = as_served(experiment, cluster)
    plan = engine.plan_launch(served, placement, cluster, ready_s(experiment, cluster))
    if refused := engine.check_launch(plan, served, installed=installed):
        raise UserError(f"{experiment.label}: the engine would refuse its files: " + "; ".join(refused))
    return {
        **{file.path: file.content for file in plan.files},
        layout.PLACEMENT: to_text(placement_to_json(placement)),
        layout.RUN_SCRIPT: run_script(experiment, plan, cluster, allocated=allocated, nodes=unknown),
        **({"job.sbatch": batch_script(experiment, cluster)} if allocated else {}),
    }


def choose(experiments: Sequence[Experiment], named: str | None) -> list[Experiment]:
    """Those whose id, or a part of whose folder name, is ``named``; all when nothing is.

    Raises:
        UserError: there is none.
    """
    if named is None:
        return list(experiments)
    chosen = [experiment for experiment in experiments if experiment.id == named or named in experiment.folder]
    if not chosen:
        some = ", ".join(experiment.folder for experiment in experiments[:3])
        raise UserError(f"no experiment of this sweep is called {named!r}; there are {len(experiments)}: {some}, ...")
    return chosen


def write(renderings: Sequence[Rendering], output: Path, *, force: bool = False) -> None:
    """Write every file below ``output``.

    Raises:
        UserError: a file of that name says something else, and ``force`` is not given; nothing is written then.
    """
    files = {output / part.path / name: text for part in renderings for name, text in part.files.items()}
    write_new(files, force=force)
