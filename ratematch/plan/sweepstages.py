"""Stages and written-out deployments of a sweep file: axes, rules, loads and servers, from parsed keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ratematch.plan.deployment import Deployment, Role, ServerGroup, Stage
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.expansion import OPTION_PREFIX
from ratematch.plan.genmode import with_supply
from ratematch.plan.located import Located, Path
from ratematch.plan.numbers import brief
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.plan.precision import PRECISION_AXIS
from ratematch.plan.sweep import GROUP_AXES, MAPPING_AXES, E2ePlan, LoadPlan, NamedDeployment, StagePlan
from ratematch.plan.sweepchecks import check_options, check_values, read_engine
from ratematch.plan.sweepschema import DeploymentIn, E2eIn, GroupIn, LoadsIn, StageIn, SweepIn, as_list

NAMED_AXES = ("mapping", *MAPPING_AXES, *GROUP_AXES, PRECISION_AXIS)


def read_stages(located: Located, parsed: SweepIn, facts: EngineFacts) -> tuple[StagePlan, ...]:
    """The stages with what the engine says of each."""
    margin = facts.fill_margin(parsed.engine.version) if not located.problems else 0
    plans = tuple(
        replace(plan, expert_slots=facts.expert_slots, idle_options=facts.idle_options, fill_margin=margin)
        for plan in _stage_plans(located, parsed)
    )
    return with_supply(located, parsed, plans, facts.gen_modes)


def _stage_plans(located: Located, parsed: SweepIn) -> tuple[StagePlan, ...]:
    given: tuple[tuple[Stage, StageIn | None], ...] = (("ctx", parsed.ctx), ("gen", parsed.gen), ("ifb", parsed.ifb))
    return tuple(_stage_plan(located, stage, plan) for stage, plan in given if plan is not None)


def _stage_plan(located: Located, stage: Stage, given: StageIn) -> StagePlan:
    axes: dict[str, tuple[Any, ...]] = {}
    if not given.axes:
        located.add((stage, "axes"), "is empty", f"give at least mapping or tp; axes are {', '.join(NAMED_AXES)}")
    for name, values in given.axes.items():
        listed = as_list(values)
        path: Path = (stage, "axes", name)
        if not listed:
            located.add(path, "axis is empty", "list at least one value")
        elif name not in NAMED_AXES and not name.startswith(OPTION_PREFIX):
            valid = f"valid: {', '.join(NAMED_AXES)}, or options.<engine option>"
            located.add(path, f"unknown axis {brief(name)}", valid)
        else:
            check_values(located, path, name, listed)
        axes[name] = tuple(listed)
    if "mapping" in axes and (both := [name for name in MAPPING_AXES if name in axes]):
        located.add(
            (stage, "axes", both[0]), f"mapping already says {both[0]}", "give mapping, or tp/ep/..., not both"
        )
    check_options(located, stage, given)
    for place in ("exclude", "only"):
        for index, rule in enumerate(getattr(given, place)):
            for key in rule:
                if key not in (*NAMED_AXES, "gpus") and key not in axes:
                    located.add(
                        (stage, place, index, key),
                        f"unknown axis {brief(key)} in a rule",
                        f"valid: {', '.join(NAMED_AXES)}, gpus",
                    )
    return StagePlan(
        stage=stage,
        axes=axes,
        loads=_read_loads(given.loads),
        options=given.options,
        environment=given.environment,
        exclude=tuple(given.exclude),
        only=tuple(given.only),
        unchecked=(
            *located.unchecked_below(stage, "options"),
            *(
                path.removeprefix(OPTION_PREFIX)
                for path in located.unchecked_below(stage, "axes")
                if path.startswith(OPTION_PREFIX)
            ),
        ),
    )


def _read_loads(given: LoadsIn) -> LoadPlan:
    return LoadPlan(
        concurrency=tuple(given.concurrency or ()),
        req_s=tuple(given.req_s or ()),
        arrival=given.arrival,
        seconds=given.seconds,
        burstiness=given.burstiness,
        ramp_to=given.ramp_to or 0.0,
        max_in_flight=given.max_in_flight,
        replay=tuple(given.replay or ()),
        num_requests=given.num_requests or 0,
        **given.counts(),
    )


def read_e2e(given: E2eIn | None) -> E2ePlan | None:
    if given is None:
        return None
    counts = given.loads
    return E2ePlan(
        deployments=given.deployments,
        around=tuple(counts.around),
        loads=LoadPlan(concurrency=tuple(counts.concurrency or ()), **counts.counts()),
        choose_at=tuple(sorted(set(given.choose_at))),
        refine=given.refine,
        router=given.router.type,
        router_args=given.router.args,
        breakdown=given.breakdown,
    )


def _named_deployment(located: Located, index: int, given: DeploymentIn) -> NamedDeployment:
    groups: dict[Role, ServerGroup] = {}
    roles: tuple[tuple[Role, GroupIn | None], ...] = (("ctx", given.ctx), ("gen", given.gen), ("agg", given.agg))
    for role, group in roles:
        if group is None:
            continue
        try:
            mapping = parse_mapping(group.mapping)
        except ValueError as error:
            located.add(("deployments", index, role, "mapping"), str(error))
            mapping = Parallelism()
        place = "options" if group.config is None else "config"
        unchecked = located.unchecked_below("deployments", index, role, place)
        groups[role] = ServerGroup(role=role, **{**group.model_dump(), "mapping": mapping}, unchecked=unchecked)
    if set(groups) not in ({"ctx", "gen"}, {"agg"}):
        what = f"has {' and '.join(groups) or 'no servers'}"
        located.add(("deployments", index), what, "give ctx and gen, or agg alone")
    elif "agg" in groups and given.breakdown:
        what = "there is no prefill, KV transfer and decode to tell apart on aggregated servers"
        located.add(("deployments", index, "breakdown"), what, "leave it out")
    own = given.workload
    return NamedDeployment(
        Deployment(
            ctx=groups.get("ctx"),
            gen=groups.get("gen"),
            agg=groups.get("agg"),
            router=given.router.type,
            router_args=given.router.args,
            orchestrator=given.orchestrator,
            unchecked=located.unchecked_below("deployments", index, "orchestrator"),
        ),
        _read_loads(given.loads),
        own.workload() if own else None,
        "agg" not in groups and given.breakdown is not False,
    )


def read_deployments(located: Located, parsed: SweepIn, facts: EngineFacts) -> tuple[NamedDeployment, ...]:
    """The written-out deployments, each with an engine of its own where it names one."""
    return tuple(
        replace(
            _named_deployment(located, index, given),
            engine=read_engine(located, parsed, facts, given.engine, ("deployments", index))
            if given.engine
            else None,
        )
        for index, given in enumerate(parsed.deployments)
    )
