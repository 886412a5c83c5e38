"""Checks of a sweep file beyond the form of its keys; each problem goes to ``located``, with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Options
from ratematch.plan.enginefacts import EngineFacts, ExpertSlots
from ratematch.plan.expansion import OPTION_PREFIX, combinations, why_impossible
from ratematch.plan.experiment import EngineRef
from ratematch.plan.located import Located, Path
from ratematch.plan.model import Model
from ratematch.plan.numbers import MOST_GPUS, MOST_REQUESTS, MOST_TOKENS, brief, shorten
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.precision import read_precision
from ratematch.plan.rules import Impossible, check_mapping
from ratematch.plan.sweep import GROUP_AXES, MAPPING_AXES, LoadPlan, NamedDeployment, StagePlan
from ratematch.plan.sweepschema import LoadsIn, StageIn, SweepIn, WorkloadIn

MOST_OF = {
    **dict.fromkeys(MAPPING_AXES, MOST_GPUS),
    **{"mtp": 100, "max_batch_size": MOST_REQUESTS, "max_num_tokens": MOST_TOKENS},
}
"""Largest value of an axis."""

MOST_COMBINATIONS = 10_000
"""Combinations of a stage's axes with the workloads: each is looked at, and may become an experiment."""

MOST_LOADS = 100_000
"""Loads of a whole sweep."""


def check_values(located: Located, path: Path, name: str, values: list[Any]) -> None:
    """Every value of the axis ``name``, listed at ``path``, is one that the axis can have."""
    for index, value in enumerate(values):
        here = (*path, index) if (*path, index) in located.lines else path
        if name == "mapping":
            try:
                parse_mapping(str(value))
            except ValueError as error:
                located.add(here, str(error))
        elif name == "precision":
            try:
                read_precision(str(value))
            except ValueError as error:
                located.add(here, str(error))
        elif name == "attention_dp":
            if not isinstance(value, bool):
                located.add(here, f"must be true or false, not {brief(value)}")
        elif name in (*MAPPING_AXES, *GROUP_AXES):
            least = 0 if name == "mtp" else 1
            if name == "ep" and value == "tp":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                also = ', or "tp" for ep = tp' if name == "ep" else ""
                located.add(here, f"must be a whole number >= {least}{also}, not {brief(value)}")
            elif value > MOST_OF[name]:
                located.add(here, f"must be a whole number up to {MOST_OF[name]:,}, not {value}")


def check_engine(located: Located, parsed: SweepIn, engines: Mapping[str, EngineFacts]) -> EngineFacts:
    """What is known of the engine that the file names; of the first one when it names none that is known."""
    named = parsed.engine
    facts = engines.get(named.name)
    if facts is None:
        located.add(("engine", "name"), f"unknown engine {brief(named.name)}", f"known: {', '.join(engines)}")
        return next(iter(engines.values()))
    if not facts.has_version(named.version):
        what = f"unknown version {brief(named.version)} of {named.name}"
        such = f"{facts.versions[0]}.1"
        located.add(
            ("engine", "version"), what, f"known: {', '.join(facts.versions)}, and versions of these such as {such}"
        )
    routers: list[tuple[Path, str]] = [
        (("deployments", index, "router"), given.router.type) for index, given in enumerate(parsed.deployments)
    ]
    fix = facts.router_hint or f"choose from {', '.join(facts.routers)}"
    for path, router in [*routers, *([(("e2e", "router"), parsed.e2e.router.type)] if parsed.e2e else [])]:
        if router not in facts.routers:
            located.add(path, f"{named.name} has no router {router}", fix)
    return facts


def read_engine(
    located: Located, parsed: SweepIn, facts: EngineFacts, own: Options | None = None, place: Path = ()
) -> EngineRef:
    """The engine of the file, with its own keys as it fills them in; what is wrong with them is noted. ``own``: keys
    of one deployment that are laid over them, which stand below ``place``."""
    named = parsed.engine
    plain = EngineRef(named.name, named.version)
    if not facts.has_version(named.version):
        return plain  # noted already, and what its keys may be depends on it
    if own and (fixed := {"name", "version", "backend", "backend_version"} & own.keys()):
        for name in sorted(fixed):
            located.add((*place, "engine", name), "one sweep measures one engine", "write it for the whole sweep")
        return plain
    settings = facts.read_settings(named.version, {**named.settings, **(own or {})})
    if isinstance(settings, list):
        for wrong in settings:
            located.add((*place, "engine", *wrong.path), wrong.what, wrong.fix)
        return plain
    rest = {key: value for key, value in settings.items() if key not in ("backend", "backend_version")}
    backend, version = (str(settings.get(key, "")) for key in ("backend", "backend_version"))
    return EngineRef(named.name, named.version, backend, version, rest)


def check_stages(located: Located, parsed: SweepIn) -> None:
    """There is something to measure, by a load each, and what end-to-end runs are chosen from."""
    _check_every_load(located, parsed)
    if parsed.ctx is None and parsed.gen is None and parsed.ifb is None and not parsed.deployments:
        located.add((), "names no stage to measure", "give ctx and gen (and ifb to compare with)")
    for stage, other in (("ctx", "gen"), ("gen", "ctx")):
        if getattr(parsed, stage) and not getattr(parsed, other) and parsed.e2e:
            located.add(("e2e",), f"end-to-end runs are chosen by matching ctx with gen, and {other} is missing")
    if parsed.e2e and not parsed.ctx and not parsed.gen:
        located.add(("e2e",), "end-to-end runs are chosen by matching ctx with gen, and both are missing")


def _check_every_load(located: Located, parsed: SweepIn) -> None:
    """Every stage and every deployment written out names a load, and a trace to replay where it replays one."""
    for stage in ("ctx", "gen", "ifb"):
        given = getattr(parsed, stage)
        if given is not None:
            _check_loads(located, (stage, "loads"), given.loads, parsed.workloads)
    for index, named in enumerate(parsed.deployments):
        workloads = [named.workload] if named.workload else parsed.workloads
        _check_loads(located, ("deployments", index, "loads"), named.loads, workloads)


def _check_loads(located: Located, path: Path, loads: LoadsIn, workloads: Sequence[WorkloadIn]) -> None:
    if not loads.concurrency and not loads.req_s and not loads.replay:
        located.add(path, "names no load", "give concurrency: [1, 4, 16] or req_s: [0.5, 1]")
    if not loads.replay:
        return
    if not loads.num_requests:
        located.add((*path, "replay"), "says no number of requests", "give num_requests: how many of the trace")
    for workload in workloads:
        if not workload.file:
            what = f"replays a trace, and workload {workload.workload().label} names no file"
            located.add((*path, "replay"), what, "give the workload a file with timestamps")


def check_options(located: Located, stage: str, given: StageIn) -> None:
    """Axes that are engine options name a place, none inside the value of another or of one of ``options``."""
    names = [name for name in given.axes if name.startswith(OPTION_PREFIX)]
    dotted = {name.removeprefix(OPTION_PREFIX) for name in names}
    for name in names:
        parts = name.removeprefix(OPTION_PREFIX).split(".")
        if not all(parts):
            located.add((stage, "axes", name), "names no option", "write options.<name>, or options.<map>.<name>")
            continue
        place: Any = given.options
        for depth, part in enumerate(parts[:-1], 1):
            above = ".".join(parts[:depth])
            place = place.get(part, {})
            if above in dotted or not isinstance(place, dict):
                located.add((stage, "axes", name), f"option {shorten(above)} is given as a value, not as a map")
                break


def check_sizes(
    located: Located, stages: Sequence[StagePlan], named: Sequence[NamedDeployment], workloads: int
) -> None:
    """A sweep is not larger than can be planned, let alone measured; loads are no longer than can be sent."""
    loads = 0
    for plan in stages:
        combined = prod(len(values) for values in plan.axes.values()) * workloads
        if combined > MOST_COMBINATIONS:
            what = f"{combined:,} combinations with the workloads, and a sweep holds {MOST_COMBINATIONS:,} at most"
            located.add((plan.stage, "axes"), what, "give fewer values")
        loads += combined * _num_loads(located, (plan.stage, "loads"), plan.loads)
    for index, one in enumerate(named):
        here = _num_loads(located, ("deployments", index, "loads"), one.loads)
        loads += here * (1 if one.workload else workloads)
    if loads > MOST_LOADS:
        located.add((), f"{loads:,} loads, and a sweep holds {MOST_LOADS:,} at most", "give fewer values or repeats")


def _num_loads(located: Located, path: Path, plan: LoadPlan) -> int:
    """How many loads ``plan`` stands for; one of too many requests is a problem."""
    closed = max(plan.concurrency, default=0) * max(plan.requests_per_slot, plan.warmup_per_slot)
    opened = (max(plan.req_s, default=0) + plan.ramp_to) * plan.seconds if plan.req_s else 0
    for key, requests in (("concurrency", closed), ("req_s", opened)):
        if requests > MOST_REQUESTS:
            what = f"a load of {requests:,.0f} requests, and one has {MOST_REQUESTS:,} at most"
            located.add((*path, key), what)
    return (len(plan.concurrency) + len(plan.req_s) + len(plan.replay)) * plan.repeats


def check_against_cluster(
    located: Located,
    stages: Sequence[StagePlan],
    named: Sequence[NamedDeployment],
    model: Model,
    cluster: Cluster,
    expert_slots: ExpertSlots,
) -> None:
    """What is to be measured can run: every axis value somewhere, the context supply, the deployments written out."""
    for plan in stages:
        _check_axes(located, plan, model, cluster)
        if plan.supply is not None:
            slots_of = partial(expert_slots, plan.supply.options)
            for impossible in check_mapping(plan.supply.mapping, model, cluster, slots_of):
                located.add(("gen", "supply"), impossible.reason)
    _check_written_out(located, named, model, cluster, expert_slots)


def _check_axes(located: Located, plan: StagePlan, model: Model, cluster: Cluster) -> None:
    """An axis value that no combination can use is a mistake; one that some can use only thins the product out."""
    cells = [(cell, why_impossible(cell, plan, model, cluster)) for cell in combinations(plan)]
    reported: set[str] = set()
    for name in ("mapping", "ep", "pp", "cp", "mtp", "tp", "attention_dp"):
        if name not in plan.axes:
            continue
        by_value: dict[Any, list[list[Impossible]]] = {}
        for cell, reasons in cells:
            by_value.setdefault(cell.axes[name], []).append(reasons)
        for index, value in enumerate(plan.axes[name]):
            with_value = by_value[value]
            if not all(with_value):
                continue
            reason = with_value[0][0]
            if reason.reason in reported or (reason.axis != name and reason.axis in plan.axes and name != "mapping"):
                continue
            reported.add(reason.reason)
            path: Path = (plan.stage, "axes", name, index)
            located.add(path if path in located.lines else path[:-1], reason.reason)
    if not located.problems and all(reasons for _, reasons in cells):
        located.add((plan.stage, "axes"), f"no combination can run: {cells[0][1][0].reason}")


def _check_written_out(
    located: Located, named: Sequence[NamedDeployment], model: Model, cluster: Cluster, expert_slots: ExpertSlots
) -> None:
    """A deployment written out must run as it stands: nothing thins it out."""
    for index, one in enumerate(named):
        for group in one.deployment.groups:
            slots_of = partial(expert_slots, group.options if group.config is None else group.config)
            # A dense model has nothing that ep would spread: the engines say whether they take it.
            mapping = group.mapping if model.moe else replace(group.mapping, ep=1)
            for impossible in check_mapping(mapping, model, cluster, slots_of):
                located.add(("deployments", index, group.role, "mapping"), impossible.reason)
        gpus = one.deployment.gpus
        if gpus > cluster.gpus:
            what = f"{one.deployment.label} needs {gpus} GPUs, and cluster {cluster.name} has {cluster.gpus}"
            located.add(("deployments", index), what)
