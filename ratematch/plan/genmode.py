"""``gen.mode`` and ``gen.supply`` of a sweep file: who fills the KV cache of a generation server that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.enginefacts import GenMode
from ratematch.plan.expansion import combinations
from ratematch.plan.located import Located
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.plan.sweep import StagePlan
from ratematch.plan.sweepschema import SweepIn


def with_supply(
    located: Located, parsed: SweepIn, stages: tuple[StagePlan, ...], modes: Sequence[GenMode]
) -> tuple[StagePlan, ...]:
    """``stages`` with the context servers that feed gen in mode gen_only: as named, else the ctx stage's first; in
    mode gen_only_warmed nobody does. ``modes``: those that the engine knows, the usual one first."""
    gen = parsed.gen
    if gen is None:
        return stages
    mode = gen.mode or modes[0]
    if mode not in modes:
        located.add(("gen", "mode"), f"{parsed.engine.name} cannot be measured so", f"choose from {', '.join(modes)}")
    if mode != "gen_only" and gen.supply is not None:
        located.add(("gen", "supply"), "supply is for mode gen_only", "set gen.mode: gen_only, or leave it out")
    if mode == "gen_only_warmed":
        if gen.loads.req_s or gen.loads.replay:
            fix = "give concurrency instead"
            located.add(("gen", "loads"), "gen_only_warmed keeps the KV cache of a batch that is held in flight", fix)
        return tuple(replace(plan, warmed=True) if plan.stage == "gen" else plan for plan in stages)
    if mode != "gen_only":
        return stages
    if gen.loads.req_s:
        located.add(("gen", "loads", "req_s"), "gen_only fills a batch before it starts", "give concurrency instead")
    ctx = next((plan for plan in stages if plan.stage == "ctx"), None)
    mapping = Parallelism()
    if gen.supply is not None:
        try:
            mapping = parse_mapping(gen.supply.mapping)
        except ValueError as error:
            located.add(("gen", "supply", "mapping"), str(error))
    elif ctx is None:
        fix = "give gen.supply: {mapping: DEP4, instances: 1}, or a ctx stage"
        located.add(("gen", "mode"), "gen_only needs context servers to supply the KV cache", fix)
    elif not located.problems:
        mapping = next(combinations(ctx)).mapping
    supply = ServerGroup(
        role="ctx",
        mapping=mapping,
        instances=gen.supply.instances if gen.supply else 1,
        options=ctx.options if ctx else {},
        environment=ctx.environment if ctx else {},
        unchecked=ctx.unchecked if ctx else (),
    )
    return tuple(replace(plan, supply=supply) if plan.stage == "gen" else plan for plan in stages)
