"""Sweep file text -> Sweep. The only place where pydantic sees a sweep; the format is told in ``sweeps/README.md``.

Every problem of the file is collected before anything is raised, each with file and line.
"""

from __future__ import annotations

import re
from collections import abc
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from ratematch.errors import CatalogError, ClusterError, Problem, SweepError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Role, ServerGroup, Stage
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.expansion import OPTION_PREFIX, combinations, why_impossible
from ratematch.plan.experiment import EngineRef
from ratematch.plan.genmode import with_supply
from ratematch.plan.load import Constraints
from ratematch.plan.located import Located, Path, read_located
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.plan.rules import check_mapping
from ratematch.plan.sweep import (
    GROUP_AXES,
    MAPPING_AXES,
    Budget,
    E2ePlan,
    LoadPlan,
    NamedDeployment,
    StagePlan,
    Sweep,
)
from ratematch.plan.sweepschema import (
    VALID_KEYS,
    DeploymentIn,
    E2eIn,
    GroupIn,
    LoadsIn,
    StageIn,
    SweepIn,
    WorkloadIn,
    as_list,
)

ALIASES = {
    "prefill": "ctx",
    "context": "ctx",
    "decode": "gen",
    "generation": "gen",
    "agg": "ifb",
    "aggregated": "ifb",
}
NAMED_AXES = ("mapping", *MAPPING_AXES, *GROUP_AXES)


def parse_sweep(
    text: str,
    source: str,
    *,
    find_model: Callable[[str], Model],
    find_cluster: Callable[[str], Cluster],
    find_gpu: Callable[[str], Gpu],
    engines: abc.Mapping[str, EngineFacts],
    overrides: Sequence[str] = (),
) -> Sweep:
    """The sweep that ``text`` describes, with ``overrides`` (``key.path=value``) laid over it.

    ``find_model``, ``find_cluster`` and ``find_gpu`` turn names into values; the first two raise CatalogError or
    ClusterError for names that are not known. ``engines``: what is known of each, by its name.

    Raises:
        SweepError: with every problem of the file, each with ``source`` and line.
    """
    located = read_located(text, source)
    if located.problems:
        raise SweepError(located.problems)
    if not isinstance(located.data, dict):
        located.add((), "a sweep file is a map of keys", f"valid keys: {', '.join(VALID_KEYS[''])}")
        raise SweepError(located.problems)
    for override in overrides:
        _override(located, override)
    _rename_aliases(located)
    parsed = _validate(located)
    model = _look_up(located, ("model",), _name_in(located.data.get("model")), find_model)
    cluster = _look_up(located, ("cluster",), _name_in(located.data.get("cluster")), find_cluster)
    if parsed is None:
        raise _error(located)
    given: tuple[tuple[Stage, StageIn | None], ...] = (("ctx", parsed.ctx), ("gen", parsed.gen), ("ifb", parsed.ifb))
    facts = _check_engine(located, parsed, engines)
    stages = with_supply(
        located,
        parsed,
        tuple(_stage_plan(located, stage, plan) for stage, plan in given if plan is not None),
        facts.gen_modes,
    )
    named = tuple(_named_deployment(located, index, given) for index, given in enumerate(parsed.deployments))
    _check_whole(located, parsed)
    check_loads(located, parsed)
    if model and cluster and not located.problems:
        for plan in stages:
            _check_axes(located, plan, model, cluster)
            for impossible in check_mapping(plan.supply.mapping, model, cluster) if plan.supply else ():
                located.add(("gen", "supply"), impossible.reason)
        _check_named(located, named, model, cluster)
    if located.problems or model is None or cluster is None:
        raise _error(located)
    return Sweep(
        name=parsed.name,
        about=parsed.about.strip(),
        model=model,
        model_path=_model_path(parsed, model, cluster),
        cluster=cluster,
        gpu=find_gpu(cluster.gpu),
        engine=EngineRef(parsed.engine.name, parsed.engine.version),
        workloads=tuple(given.workload() for given in parsed.workloads),
        constraints=Constraints(**parsed.constraints.model_dump()),
        budget=Budget(**parsed.budget.model_dump()),
        stages=stages,
        e2e=_e2e_plan(parsed.e2e),
        deployments=named,
        search=parsed.search,
        seed=parsed.seed,
        source=source,
    )


def _error(located: Located) -> SweepError:
    return SweepError(sorted(set(located.problems), key=_line))


def _line(problem: Problem) -> tuple[int, str]:
    line = problem.where.split(":")[1:2]
    return (int(line[0]) if line and line[0].isdigit() else 0, problem.what)


def _override(located: Located, override: str) -> None:
    key, equals, text = override.partition("=")
    path: Path = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
    if not equals or not key.strip():
        located.add((), f"--set {override}: write it as key.path=value")
        return
    given = read_located(text, "--set")
    if given.problems:
        located.add((), f"--set {override}: {text!r} is not a YAML value")
        return
    value = given.data
    located.unchecked = [old for old in located.unchecked if old[: len(path)] != path]
    located.unchecked.extend((*path, *below) for below in given.unchecked)
    place = located.data
    for part in path[:-1]:
        if isinstance(place, dict):
            place = place.setdefault(str(part), {})
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
        else:
            located.add((), f"--set {override}: there is no {part!r} to go into")
            return
    try:
        place[path[-1]] = value
    except (TypeError, IndexError):
        located.add((), f"--set {override}: {path[-1]!r} cannot be set there")


def _rename_aliases(located: Located) -> None:
    for alias, name in ALIASES.items():
        if alias not in located.data:
            continue
        if name in located.data:
            located.add((alias,), f"{alias!r} means {name!r}, which is given too", "keep one of them")
            del located.data[alias]
            continue
        located.data[name] = located.data.pop(alias)
        for path in [path for path in located.lines if path[:1] == (alias,)]:
            located.lines[(name, *path[1:])] = located.lines[path]
        located.unchecked = [(name, *path[1:]) if path[:1] == (alias,) else path for path in located.unchecked]


def _validate(located: Located) -> SweepIn | None:
    try:
        return SweepIn.model_validate(located.data)
    except ValidationError as error:
        # `model` is a name or a map; pydantic reports both branches of the union, one is enough.
        located.add_validation(error, VALID_KEYS, unions=("str", "ModelIn"))
        return None


def _look_up(located: Located, path: Path, name: str | None, find: Callable[[str], Any]) -> Any:
    if name is None:
        return None
    try:
        return find(name)
    except ClusterError as error:
        if len(error.problems) == 1 and error.problems[0].where == name:
            located.add(path, error.problems[0].what, error.problems[0].fix)
        else:
            located.problems.extend(error.problems)
    except CatalogError as error:
        located.add(path, str(error))
    return None


def _name_in(given: Any) -> str | None:
    """The name a person gave, even when the rest of the file does not validate."""
    name = given.get("name") if isinstance(given, dict) else given
    return name if isinstance(name, str) else None


def _model_path(parsed: SweepIn, model: Model, cluster: Cluster) -> str:
    """Where the weights lie: the file's path, else the cluster's, else the bare name."""
    given = None if isinstance(parsed.model, str) else parsed.model.path
    return given or cluster.model_paths.get(model.name) or model.name


def _e2e_plan(given: E2eIn | None) -> E2ePlan | None:
    if given is None:
        return None
    counts = given.loads
    return E2ePlan(
        deployments=given.deployments,
        around=tuple(counts.around),
        loads=LoadPlan(concurrency=tuple(counts.concurrency or ()), **counts.counts()),
        choose_at=tuple(sorted(set(given.choose_at))),
        router=given.router.type,
        router_args=given.router.args,
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
        read_loads(given.loads),
        own.workload() if own else None,
    )


def _check_named(located: Located, named: Sequence[NamedDeployment], model: Model, cluster: Cluster) -> None:
    """A deployment written out must run as it stands: nothing thins it out."""
    for index, each in enumerate(named):
        for group in each.deployment.groups:
            for impossible in check_mapping(group.mapping, model, cluster):
                located.add(("deployments", index, group.role, "mapping"), impossible.reason)
        gpus = each.deployment.gpus
        if gpus > cluster.gpus:
            what = f"{each.deployment.label} needs {gpus} GPUs, and cluster {cluster.name} has {cluster.gpus}"
            located.add(("deployments", index), what)


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
            located.add(path, f"unknown axis {name!r}", valid)
        else:
            _check_values(located, path, name, listed)
        axes[name] = tuple(listed)
    if "mapping" in axes and (both := [name for name in MAPPING_AXES if name in axes]):
        located.add(
            (stage, "axes", both[0]), f"mapping already says {both[0]}", "give mapping, or tp/ep/..., not both"
        )
    for place in ("exclude", "only"):
        for index, rule in enumerate(getattr(given, place)):
            for key in rule:
                if key not in (*NAMED_AXES, "gpus") and key not in axes:
                    located.add(
                        (stage, place, index, key),
                        f"unknown axis {key!r} in a rule",
                        f"valid: {', '.join(NAMED_AXES)}, gpus",
                    )
    return StagePlan(
        stage=stage,
        axes=axes,
        loads=read_loads(given.loads),
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


def _check_values(located: Located, path: Path, name: str, values: list[Any]) -> None:
    for index, value in enumerate(values):
        here = (*path, index) if (*path, index) in located.lines else path
        if name == "mapping":
            try:
                parse_mapping(str(value))
            except ValueError as error:
                located.add(here, str(error))
        elif name == "attention_dp":
            if not isinstance(value, bool):
                located.add(here, f"must be true or false, not {value!r}")
        elif name in (*MAPPING_AXES, *GROUP_AXES):
            least = 0 if name == "mtp" else 1
            if name == "ep" and value == "tp":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                also = ', or "tp" for ep = tp' if name == "ep" else ""
                located.add(here, f"must be a whole number >= {least}{also}, not {value!r}")


def _check_engine(located: Located, parsed: SweepIn, engines: abc.Mapping[str, EngineFacts]) -> EngineFacts:
    """What is known of the engine that the file names; of the first one when it names none that is known."""
    given = parsed.engine
    facts = engines.get(given.name)
    if facts is None:
        located.add(("engine", "name"), f"unknown engine {given.name!r}", f"known: {', '.join(engines)}")
        return next(iter(engines.values()))
    if not _is_version(given.version, facts.versions):
        what = f"unknown version {given.version!r} of {given.name}"
        such = f"{facts.versions[0]}.1"
        located.add(
            ("engine", "version"), what, f"known: {', '.join(facts.versions)}, and versions of these such as {such}"
        )
    routers: list[tuple[Path, str]] = [
        (("deployments", index, "router"), each.router.type) for index, each in enumerate(parsed.deployments)
    ]
    for path, router in [*routers, *([(("e2e", "router"), parsed.e2e.router.type)] if parsed.e2e else [])]:
        if router not in facts.routers:
            located.add(path, f"{given.name} has no router {router}", f"choose from {', '.join(facts.routers)}")
    return facts


def _is_version(text: str, lines: Sequence[str]) -> bool:
    """One of the release lines, or a version of one: ``1.2.1`` and ``1.3.0rc17`` belong to 1.2 and 1.3."""
    return text in lines or any(re.fullmatch(rf"v?{re.escape(line)}\.\d+\w*(\.\w+)*", text) for line in lines)


def _check_whole(located: Located, parsed: SweepIn) -> None:
    if parsed.ctx is None and parsed.gen is None and parsed.ifb is None and not parsed.deployments:
        located.add((), "names no stage to measure", "give ctx and gen (and ifb to compare with)")
    for stage, other in (("ctx", "gen"), ("gen", "ctx")):
        if getattr(parsed, stage) and not getattr(parsed, other) and parsed.e2e:
            located.add(("e2e",), f"end-to-end runs are chosen by matching ctx with gen, and {other} is missing")
    if parsed.e2e and not parsed.ctx and not parsed.gen:
        located.add(("e2e",), "end-to-end runs are chosen by matching ctx with gen, and both are missing")


def _check_axes(located: Located, plan: StagePlan, model: Model, cluster: Cluster) -> None:
    """An axis value that no combination can use is a mistake; one that some can use only thins the product out."""
    cells = [(cell, why_impossible(cell, plan, model, cluster)) for cell in combinations(plan)]
    told: set[str] = set()
    for name in ("mapping", "ep", "pp", "cp", "mtp", "tp", "attention_dp"):
        for index, value in enumerate(plan.axes.get(name, ())):
            with_value = [reasons for cell, reasons in cells if cell.axes[name] == value]
            if not with_value or not all(with_value):
                continue
            reason = with_value[0][0]
            if reason.reason in told or (reason.axis != name and reason.axis in plan.axes and name != "mapping"):
                continue
            told.add(reason.reason)
            path: Path = (plan.stage, "axes", name, index)
            located.add(path if path in located.lines else path[:-1], reason.reason)
    if not located.problems and all(reasons for _, reasons in cells):
        located.add((plan.stage, "axes"), f"no combination can run: {cells[0][1][0].reason}")


def read_loads(given: LoadsIn) -> LoadPlan:
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


def check_loads(located: Located, parsed: SweepIn) -> None:
    """Every stage and every deployment written out names a load, and a trace to replay where it replays one."""
    for stage in ("ctx", "gen", "ifb"):
        plan = getattr(parsed, stage)
        if plan is not None:
            _check(located, (stage, "loads"), plan.loads, parsed.workloads)
    for index, each in enumerate(parsed.deployments):
        workloads = [each.workload] if each.workload else parsed.workloads
        _check(located, ("deployments", index, "loads"), each.loads, workloads)


def _check(located: Located, path: Path, loads: LoadsIn, workloads: Sequence[WorkloadIn]) -> None:
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
