"""Figures of several precisions as one, where somebody asks for that: on one front, and one's ctx servers before the
other's gen servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment


def join_precisions(measured: Sequence[Measured]) -> list[Measured]:
    """The rows as if all were of one precision; the servers' labels keep what they are of, and their ids."""
    if len({row.experiment.workload.precision for row in measured}) < 2:
        return list(measured)
    joined: dict[str, Experiment] = {}
    for row in measured:
        joined.setdefault(row.experiment.id, _join(row.experiment))
    return [replace(row, experiment=joined[row.experiment.id]) for row in measured]


def _join(experiment: Experiment) -> Experiment:
    precision, groups = experiment.workload.precision, experiment.deployment
    named = Deployment(
        ctx=_tag(groups.ctx, precision),
        gen=_tag(groups.gen, precision),
        agg=_tag(groups.agg, precision),
        router=groups.router,
        router_args=groups.router_args,
        orchestrator=groups.orchestrator,
        unchecked=groups.unchecked,
        warmed=groups.warmed,
    )
    one = replace(experiment, workload=replace(experiment.workload, precision=""), deployment=named)
    vars(one)["id"] = experiment.id  # still what was measured, and where it lies
    return one


def _tag(group: ServerGroup | None, precision: str) -> ServerGroup | None:
    if group is None or not precision:
        return group
    return replace(group, tag="+".join(part for part in (group.tag, precision) if part))
