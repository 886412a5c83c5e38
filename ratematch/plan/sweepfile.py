"""Sweep file text -> Sweep. The only place where pydantic sees a sweep; ``sweeps/README.md`` has the format.

Every problem of the file is collected before anything is raised, each with file and line.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from ratematch.errors import CatalogError, ClusterError, Problem, SweepError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Role, ServerGroup, Stage
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.expansion import OPTION_PREFIX
from ratematch.plan.genmode import with_supply
from ratematch.plan.load import Constraints
from ratematch.plan.located import Located, Path, read_located
from ratematch.plan.model import Gpu, Model
from ratematch.plan.numbers import brief, shorten
from ratematch.plan.overrides import lay_over
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.plan.precision import PRECISION_AXIS
from ratematch.plan.printable import refuse_unprintable
from ratematch.plan.secret import Secrets, refuse_secret_options, take_secrets
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
from ratematch.plan.sweepchecks import (
    check_against_cluster,
    check_engine,
    check_loads,
    check_options,
    check_sizes,
    check_stages,
    check_values,
    read_engine,
)
from ratematch.plan.sweepmodel import (
    find_sweep_model,
    model_paths,
    read_precisions,
    take_by_hand,
    with_precisions,
)
from ratematch.plan.sweepschema import (
    VALID_KEYS,
    DeploymentIn,
    E2eIn,
    GroupIn,
    LoadsIn,
    StageIn,
    SweepIn,
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
ROLES = ("ctx", "gen", "agg")
NAMED_AXES = ("mapping", *MAPPING_AXES, *GROUP_AXES, PRECISION_AXIS)

AS_WRITTEN = (("engine", "version"), ("engine", "backend_version"), ("name",))
"""Keys whose values are text, also where they look like numbers."""


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
    located, secrets = _read_sweep(text, source, overrides)
    by_hand = take_by_hand(located)
    parsed = _validate(located)
    model = find_sweep_model(located, located.data.get("model"), by_hand, find_model)
    cluster = _resolve(located, ("cluster",), _name_in(located.data.get("cluster")), find_cluster)
    if parsed is None:
        raise _error(located)
    facts = check_engine(located, parsed, engines)
    engine = read_engine(located, parsed, facts)
    stages = _stages(located, parsed, facts)
    named = tuple(
        replace(
            _named_deployment(located, index, given),
            engine=read_engine(located, parsed, facts, given.engine, ("deployments", index))
            if given.engine
            else None,
        )
        for index, given in enumerate(parsed.deployments)
    )
    check_stages(located, parsed)
    check_loads(located, parsed)
    gpu = find_gpu(cluster.gpu_source) if cluster else None
    precisions = read_precisions(located, parsed, model, gpu) if model and gpu else ("",)
    check_sizes(located, stages, named, len(parsed.workloads) * len(precisions))
    if cluster:
        _check_secrets(located, secrets, cluster)
    if model and cluster and not located.problems:
        check_against_cluster(located, stages, named, model, cluster, facts.expert_slots)
    paths = model_paths(located, parsed, model, gpu, cluster, precisions) if model and cluster and gpu else {}
    if located.problems or model is None or cluster is None or gpu is None:
        raise _error(located)
    return Sweep(
        name=parsed.name,
        about=parsed.about.strip(),
        model=model,
        model_path=paths[precisions[0]],
        cluster=cluster,
        gpu=gpu,
        engine=engine,
        workloads=with_precisions(parsed, precisions),
        constraints=Constraints(**parsed.constraints.model_dump()),
        budget=Budget(**parsed.budget.model_dump()),
        stages=stages,
        e2e=_e2e_plan(parsed.e2e),
        deployments=named,
        search=parsed.search,
        seed=parsed.seed,
        source=source,
        secrets=cluster.secrets | secrets,
        precisions=precisions,
        paths=paths,
        breakdown_apart=facts.breakdown_apart,
    )


def _read_sweep(text: str, source: str, overrides: Sequence[str]) -> tuple[Located, Secrets]:
    """The document as YAML, with ``overrides``, and the secrets that were taken out of it.

    Raises:
        SweepError: it is no map of keys, or holds what can be shown nowhere.
    """
    located = _read_map(text, source)
    for override in overrides:
        lay_over(located, override)
    _rename_aliases(located)
    secrets = take_secrets(located, _environments(located.data))
    refuse_secret_options(located, _options(located.data))
    if refuse_unprintable(located):
        raise _error(located)
    return located, secrets


def _servers(data: abc.Mapping[str, Any]) -> list[Path]:
    """Where a sweep file describes servers."""
    return [("ctx",), ("gen",), ("ifb",), *((*place, role) for place in _written_out(data) for role in ROLES)]


def _written_out(data: abc.Mapping[str, Any]) -> list[Path]:
    deployments = data.get("deployments")
    return [("deployments", index) for index in range(len(deployments) if isinstance(deployments, list) else 0)]


def _environments(data: abc.Mapping[str, Any]) -> list[Path]:
    """Where a sweep file has environments of servers and frontends."""
    frontends = [(*place, "engine", "frontend_env") for place in ((), *_written_out(data))]
    return [*((*place, "environment") for place in _servers(data)), *frontends]


def _options(data: abc.Mapping[str, Any]) -> list[Path]:
    """Where a sweep file has options of servers and orchestrators, and of a stack as a whole."""
    below = [(*place, key) for place in _servers(data) for key in ("options", "config", "axes")]
    more = [(*place, key) for place in _written_out(data) for key in ("orchestrator", "router", "engine")]
    return [*below, *more, ("e2e", "router"), ("engine",)]


def _check_secrets(located: Located, secrets: Secrets, cluster: Cluster) -> None:
    """One value a variable: secrets are kept by name."""
    for name, value in secrets.given.items():
        if cluster.secrets.given.get(name, value) != value:
            place = next(path for path in located.lines if path[-1:] == (name,) and path[-2] == "environment")
            what = f"cluster profile {cluster.name} has another value of {name}"
            located.add(place, what, "give a secret in one of the two files")


def _read_map(text: str, source: str) -> Located:
    located = read_located(text, source, AS_WRITTEN)
    if not located.problems and not isinstance(located.data, dict):
        located.add((), "a sweep file is a map of keys", f"valid keys: {', '.join(VALID_KEYS[''])}")
    if located.problems:
        raise SweepError(located.problems)
    return located


def _error(located: Located) -> SweepError:
    return SweepError(sorted(set(located.problems), key=_line))


def _line(problem: Problem) -> tuple[int, str]:
    line = problem.where.split(":")[1:2]
    return (int(line[0]) if line and line[0].isdigit() else 0, problem.what)


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
        located.given = {_renamed(path, alias, name): shown for path, shown in located.given.items()}
        located.replace_marks(partial(_renamed, alias=alias, name=name))


def _renamed(path: Path, alias: str, name: str) -> Path:
    return (name, *path[1:]) if path[:1] == (alias,) else path


def _validate(located: Located) -> SweepIn | None:
    try:
        return SweepIn.model_validate(located.data)
    except ValidationError as error:
        # `model` is a name or a map; pydantic reports both branches of the union, one is enough.
        located.add_validation(error, VALID_KEYS, unions=("str", "ModelIn", "dict[str,str]", "list[str]"))
        return None


def _resolve(located: Located, path: Path, name: str | None, find: Callable[[str], Any]) -> Any:
    if name is None:
        return None
    try:
        return find(name)
    except ClusterError as error:
        if len(error.problems) == 1 and error.problems[0].where == shorten(name):
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


def _stages(located: Located, parsed: SweepIn, facts: EngineFacts) -> tuple[StagePlan, ...]:
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


def _e2e_plan(given: E2eIn | None) -> E2ePlan | None:
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
