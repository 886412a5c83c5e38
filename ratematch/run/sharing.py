"""Experiments that differ in their load alone are measured on one start of their servers.

Which do is the engine's to say (:attr:`ratematch.engines.engine.Engine.does_for`): where the servers that one of them
would start are those that the others would, or take longer sequences and are the same otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

from ratematch.engines import find_engine
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import FIRST_PORT, nodes_on, place
from ratematch.store.folder import ExperimentFolder


def share_servers(first: ExperimentFolder, others: Iterable[ExperimentFolder]) -> tuple[ExperimentFolder, ...]:
    """``first`` and those of ``others`` that one start of servers can serve, the one whose servers are started in
    front; ``first`` alone where there are none.

    Experiments that need several starts, or that somebody measures now, are left to themselves.
    """
    experiment, cluster = first.read(), first.cluster()
    if not _starts_once(first, experiment):
        return (first,)
    plans = {first: _plan(experiment, cluster)}
    for other in others:
        asked = other.read()
        if _may_be_alike(asked, experiment) and other.cluster() == cluster and _starts_once(other, asked):
            plans[other] = _plan(asked, cluster)
    does_for = find_engine(experiment.engine.key).does_for
    best: tuple[ExperimentFolder, ...] = (first,)
    for host, plan in plans.items():
        if not does_for(plan, plans[first]):
            continue
        served = tuple(guest for guest in plans if guest is not host and does_for(plan, plans[guest]))
        if len(served) + 1 > len(best):
            best = (host, *served)
    return best


def _may_be_alike(experiment: Experiment, other: Experiment) -> bool:
    """What costs nothing to compare."""
    return (
        (experiment.stage, experiment.mode, experiment.engine, experiment.model_path, experiment.emulated)
        == (other.stage, other.mode, other.engine, other.model_path, other.emulated)
        and experiment.deployment.gpus == other.deployment.gpus
        and [group.options for group in experiment.deployment.groups]
        == [group.options for group in other.deployment.groups]
    )


def _starts_once(folder: ExperimentFolder, experiment: Experiment) -> bool:
    parts = [part for part in experiment.launches() if not all(map(folder.finished, part.loads))]
    return len(parts) == 1 and not folder.held()


def _plan(experiment: Experiment, cluster: Cluster) -> LaunchPlan:
    """What would be started, as if the nodes were empty: only to compare."""
    nodes = [f"node{index}" for index in range(nodes_on(experiment.deployment, cluster))]
    placement = place(experiment.deployment, cluster, nodes, FIRST_PORT)
    return find_engine(experiment.engine.key).plan_launch(experiment, placement, cluster, 1.0)
