"""``forced_acceptance`` of the workloads in a sweep file: what it means for the model, the engine and the drafts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ratematch.plan.acceptance import ForcedAcceptance, force
from ratematch.plan.enginefacts import WhyNotForced
from ratematch.plan.experiment import EngineRef
from ratematch.plan.located import Located, Path
from ratematch.plan.model import Model
from ratematch.plan.sweep import NamedDeployment
from ratematch.plan.sweepschema import DeploymentIn, StageIn, SweepIn, WorkloadIn, as_list
from ratematch.plan.workload import Workload

DRAFTING = ("gen", "ifb")
"""Stages whose servers look at drafts; a context server hands its first ones over."""


def read_forced(
    located: Located,
    parsed: SweepIn,
    model: Model,
    why_not_forced: WhyNotForced,
    engine: EngineRef,
) -> dict[Path, str]:
    """What servers are forced to, as workloads spell it, by where the workload stands; problems are noted there."""
    spelt: dict[Path, str] = {}
    everywhere = {drafts for stage in DRAFTING for drafts in _stage_drafts(getattr(parsed, stage))}
    everywhere |= {drafts for given in parsed.deployments if not given.workload for drafts in _drafts(given)}
    for place, given in _workloads(parsed):
        if given.forced_acceptance is None:
            continue
        drafts = everywhere if place[0] == "workloads" else set(_drafts(parsed.deployments[int(place[1])]))
        path = (*place, "forced_acceptance")
        try:
            forced = force(given.forced_acceptance, model.acceptance_curves, model.name)
            steps = _steps(forced, drafts)
        except ValueError as error:
            located.add(path, str(error))
            continue
        if why := next(filter(None, (why_not_forced(engine, tokens) for tokens in steps)), None):
            located.add(path, why)
        spelt[place] = str(forced)
    return spelt


def with_forced(workloads: Iterable[WorkloadIn], spelt: dict[Path, str]) -> tuple[Workload, ...]:
    """The sweep's workloads, in the order of the file, with what their drafts are forced to."""
    return tuple(
        replace(given.workload(), forced_acceptance=spelt.get(("workloads", index), ""))
        for index, given in enumerate(workloads)
    )


def with_forced_in(named: Sequence[NamedDeployment], spelt: dict[Path, str]) -> tuple[NamedDeployment, ...]:
    """The same for the workloads that written-out deployments have of their own."""
    return tuple(
        replace(
            each,
            workload=replace(each.workload, forced_acceptance=spelt.get(("deployments", index, "workload"), "")),
        )
        if each.workload
        else each
        for index, each in enumerate(named)
    )


def _workloads(parsed: SweepIn) -> Iterator[tuple[Path, WorkloadIn]]:
    for index, given in enumerate(parsed.workloads):
        yield ("workloads", index), given
    for index, deployment in enumerate(parsed.deployments):
        if deployment.workload:
            yield ("deployments", index, "workload"), deployment.workload


def _stage_drafts(stage: StageIn | None) -> Iterator[int]:
    for value in as_list(stage.axes.get("mtp", 0)) if stage else ():
        if isinstance(value, int) and value > 0:
            yield value


def _drafts(deployment: DeploymentIn) -> Iterator[int]:
    yield from (group.mtp for group in (deployment.gen, deployment.agg) if group is not None and group.mtp)


def _steps(forced: ForcedAcceptance, drafts: set[int]) -> list[float]:
    """Tokens a step of every server that drafts.

    Raises:
        ValueError: none does, or nothing is said of one.
    """
    if not drafts:
        raise ValueError("no server drafts: give mtp to gen, ifb or a deployment, or leave it out")
    return [forced.at(number) for number in sorted(drafts)]
