"""Sweep file text -> Sweep. The only place where pydantic sees a sweep; ``sweeps/README.md`` has the format.

Every problem of the file is collected before anything is raised, each with file and line.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from ratematch.errors import CatalogError, ClusterError, Problem, SweepError
from ratematch.plan.cluster import Cluster
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.forcedfile import read_forced, with_forced, with_forced_in
from ratematch.plan.load import Constraints
from ratematch.plan.located import Located, Path, read_located
from ratematch.plan.model import Gpu, Model
from ratematch.plan.numbers import shorten
from ratematch.plan.overrides import lay_over
from ratematch.plan.printable import refuse_unprintable
from ratematch.plan.secret import Secrets, refuse_secret_options, take_secrets
from ratematch.plan.sweep import Budget, Sweep
from ratematch.plan.sweepchecks import (
    check_against_cluster,
    check_engine,
    check_sizes,
    check_stages,
    read_engine,
)
from ratematch.plan.sweepmodel import (
    find_sweep_model,
    model_paths,
    read_precisions,
    take_by_hand,
    with_precisions,
)
from ratematch.plan.sweepschema import VALID_KEYS, SweepIn
from ratematch.plan.sweepstages import read_deployments, read_e2e, read_stages

ALIASES = {
    "prefill": "ctx",
    "context": "ctx",
    "decode": "gen",
    "generation": "gen",
    "agg": "ifb",
    "aggregated": "ifb",
}
ROLES = ("ctx", "gen", "agg")

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

    ``find_*``, ``engines``: by name; CatalogError or ClusterError for a model or a cluster that is not known.

    Raises:
        SweepError: with every problem of the file, each with ``source`` and line.
    """
    located, secrets = _read_sweep(text, source, overrides)
    by_hand = take_by_hand(located)
    parsed = _validate(located)
    model = find_sweep_model(located, located.data.get("model"), by_hand, find_model)
    cluster = _find_cluster(located, secrets, find_cluster)
    if parsed is None:
        raise _error(located)
    facts = check_engine(located, parsed, engines)
    engine = read_engine(located, parsed, facts)
    stages = read_stages(located, parsed, facts)
    named = read_deployments(located, parsed, facts)
    gpu = find_gpu(cluster.gpu_source) if cluster else None
    precisions = read_precisions(located, parsed, model, gpu) if model and gpu else ("",)
    check_stages(located, parsed)
    check_sizes(located, stages, named, len(parsed.workloads) * len(precisions))
    if model and cluster and not located.problems:
        check_against_cluster(located, stages, named, model, cluster, facts.expert_slots)
    forced = read_forced(located, parsed, model, facts.why_not_forced, engine) if model else {}
    paths = model_paths(located, parsed, model, gpu, cluster, precisions) if model and cluster and gpu else {}
    if located.problems or not model or not cluster or not gpu:
        raise _error(located)
    return Sweep(
        name=parsed.name,
        about=parsed.about.strip(),
        model=model,
        model_path=paths[precisions[0]],
        cluster=cluster,
        gpu=gpu,
        engine=engine,
        workloads=with_precisions(with_forced(parsed.workloads, forced), precisions),
        constraints=Constraints(**parsed.constraints.model_dump()),
        budget=Budget(**parsed.budget.model_dump()),
        stages=stages,
        e2e=read_e2e(parsed.e2e),
        deployments=with_forced_in(named, forced),
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


def _find_cluster(located: Located, secrets: Secrets, find: Callable[[str], Cluster]) -> Cluster | None:
    """The profile, which gives a secret the same value as the sweep does: secrets are kept by name."""
    cluster: Cluster | None = _resolve(located, ("cluster",), _name_in(located.data.get("cluster")), find)
    if cluster is None:
        return None
    for name, value in secrets.given.items():
        if cluster.secrets.given.get(name, value) != value:
            place = next(path for path in located.lines if path[-1:] == (name,) and path[-2] == "environment")
            what = f"cluster profile {cluster.name} has another value of {name}"
            located.add(place, what, "give a secret in one of the two files")
    return cluster


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
