"""Recipes -> the text of a sweep file, with a comment on where each value came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import yaml

from ratematch.engines.trtllm_serve.contract import worker_keys
from ratematch.engines.trtllm_serve.forced import VARIABLE as FORCED
from ratematch.engines.trtllm_serve.forced import is_forcing
from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.exchange.recipes.recipe import Recipe, Servers, unknown_keys
from ratematch.plan.deployment import Options
from ratematch.plan.located import UNCHECKED
from ratematch.plan.printable import LONGEST_NAME

WorkloadKeys = tuple[int, int, float, tuple[tuple[int, float], ...]]
"""ISL, OSL, the ratio of its spread, and what drafts are forced to: tokens a step by number of drafts."""


@dataclass(frozen=True)
class Target:
    """What the recipes alone do not decide; every value has a comment that says where it comes from."""

    model: str
    model_path: str | None
    model_origin: str
    cluster: str
    cluster_origin: str
    version: str
    version_origin: str
    workloads: tuple[WorkloadKeys, ...]
    precision: str = ""
    backend_version: str = ""
    backend_origin: str = ""

    @property
    def trtllm(self) -> str:
        """TensorRT-LLM's version, whichever engine is started."""
        return self.backend_version or self.version


def sweep_text(name: str, recipes: Sequence[Recipe], target: Target) -> str:
    """One sweep file that runs the deployments of ``recipes`` as they stand."""
    recipes = [_shorten(recipe) for recipe in recipes]
    model = _model(target)
    lines = [
        f"name: {_flow(name)}",
        "about: >",
        *(f"  {line}" for line in _about(recipes)),
        f"model: {model}{_comment(target.model_origin)}",
        f"cluster: {_flow(target.cluster)}{_comment(target.cluster_origin)}",
        *_engine(recipes[0], target),
        "workloads:",
        *(f"  - {_workload(workload)}{_comment(_origin_of(recipes, workload))}" for workload in target.workloads),
        "deployments:",
    ]
    for recipe in recipes:
        lines += _deployment(recipe, target, recipes[0], own_workload=len(target.workloads) > 1)
    unsupported = [part for recipe in recipes for part in recipe.unsupported]
    if unsupported:
        lines += ["# Without counterpart here:", *(f"#   {_one_line(str(part))}" for part in unsupported)]
    return "\n".join(lines) + "\n"


def _engine(recipe: Recipe, target: Target) -> list[str]:
    """One line for ``trtllm-serve``; for Dynamo its keys, each with where it was written."""
    stack = recipe.dynamo
    if stack is None:
        named = {"name": "trtllm-serve", "version": target.version}
        return [f"engine: {_flow(named)}{_comment(target.version_origin)}"]
    origins = {**stack.origins, "version": target.version_origin, "backend_version": target.backend_origin}
    keys: Options = {
        "name": "dynamo",
        "version": target.version,
        "backend": "trtllm",
        "backend_version": target.backend_version,
        **_settings(stack),
    }
    return ["engine:", *_with_origins({key: value for key, value in keys.items() if value != {}}, origins, 2)]


def _settings(stack: DynamoStack) -> Options:
    """Keys of ``engine:`` that one deployment may have otherwise than another."""
    return {
        "frontends": stack.frontends,
        "nginx": stack.nginx,
        "router_mode": stack.router_mode,
        "frontend_args": stack.frontend_args,
        "frontend_env": stack.frontend_env,
        "worker_args": stack.worker_args,
        "discovery": stack.discovery,
        "request_plane": stack.request_plane,
        "event_plane": stack.event_plane,
        **({"service_nodes": 1} if stack.infra_node else {}),
        **({"nats_max_payload_mb": stack.nats_max_payload_mb} if stack.nats_max_payload_mb else {}),
    }


def _with_origins(keys: Options, origins: dict[str, str], indent: int) -> list[str]:
    lines = []
    for key, value in keys.items():
        first, *rest = _block({key: value}, indent)
        lines += [first + _comment(origins.get(key, "")), *rest]
    return lines


def _own_engine(recipe: Recipe, first: Recipe) -> list[str]:
    """What a deployment's Dynamo has otherwise than the sweep's, which is the first recipe's."""
    if recipe.dynamo is None or first.dynamo is None:
        return []
    usual = _settings(first.dynamo)
    mine = _settings(recipe.dynamo)
    own = {key: value for key, value in mine.items() if value != usual.get(key)}
    own |= {key: 0 if key == "service_nodes" else None for key in usual if key not in mine}
    return ["    engine:", *_with_origins(own, recipe.dynamo.origins, 6)] if own else []


def _model(target: Target) -> str:
    """The name alone, or with what else the recipes say of the weights."""
    keys = {"name": target.model, "path": target.model_path, "precision": target.precision}
    if "/" in target.model or target.model.endswith((".json", ".yaml", ".yml")):  # its files, and weights elsewhere
        files = {"hf": target.model_path, "config": target.model} if target.model_path else {"path": target.model}
        keys = {**files, "precision": target.precision}
    given = {key: value for key, value in keys.items() if value}
    return _flow(given) if len(given) > 1 else target.model


def list_left_out(parts: Iterable[str]) -> str:
    """A comment at the end of a sweep file; empty when nothing was left out."""
    lines = [f"#   {_one_line(part)}\n" for part in parts]
    return (
        "".join(["# Combinations of the recipe's sweep that cannot run, and are left out:\n", *lines])
        if lines
        else ""
    )


def workload_of(recipe: Recipe) -> WorkloadKeys:
    assert recipe.isl is not None and recipe.osl is not None
    return recipe.isl, recipe.osl, recipe.osl_ratio, _forced(recipe)


def _forced(recipe: Recipe) -> tuple[tuple[int, float], ...]:
    """A recipe forces acceptance by a variable of its workers; a sweep says it of the workload, as results do."""
    found = {
        servers.mtp: 1 + float(value)
        for servers in recipe.servers
        if servers.mtp and (value := servers.environment.get(FORCED)) and is_forcing(value)
    }
    return tuple(sorted(found.items()))


def sweep_name(text: str) -> str:
    """``text`` as the name of a sweep, which is a folder name too."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return name[:LONGEST_NAME].strip("-._") or "recipe"


def _about(recipes: Sequence[Recipe]) -> list[str]:
    lines = []
    for recipe in recipes:
        isl, osl, *_ = workload_of(recipe)
        lines.append(
            f"{recipe.kind} {_one_line(recipe.name)} ({_one_line(recipe.source)}): {recipe.shape}, {isl}/{osl}."
        )
    whose = "frontends, planes and worker configuration are" if recipes[0].dynamo else "the worker configuration is"
    lines.append(f"Imported as it stands: {whose} the recipe's own, key for key.")
    return lines


def _origin_of(recipes: Sequence[Recipe], workload: WorkloadKeys) -> str:
    return next((recipe.origins.get("workload", "") for recipe in recipes if workload_of(recipe) == workload), "")


def _deployment(recipe: Recipe, target: Target, first: Recipe, *, own_workload: bool) -> list[str]:
    lines = [f"  # {recipe.shape}: {_one_line(recipe.name)} ({_one_line(recipe.source)})"]
    for index, servers in enumerate(recipe.servers):
        lines += [f"  {'-' if index == 0 else ' '} {servers.role}:", *_servers(servers, target.trtllm)]
    lines += _own_engine(recipe, first)
    if recipe.orchestrator:
        lines += ["    orchestrator:  # frontend", *_block(recipe.orchestrator, 6)]
    if own_workload:
        lines.append(f"    workload: {_workload(workload_of(recipe))}{_comment(recipe.origins.get('workload', ''))}")
    loads = {
        "concurrency": list(recipe.concurrency),
        "requests_per_slot": recipe.requests_per_slot,
        "min_requests": 1,
        "warmup_per_slot": recipe.warmup_per_slot,
    }
    lines.append(f"    loads: {_flow(loads)}{_comment(recipe.origins.get('concurrency', ''))}")
    return lines


def _servers(servers: Servers, version: str) -> list[str]:
    lines = [
        f"      mapping: {servers.mapping.label}{_comment(servers.origin)}",
        f"      instances: {servers.instances}{_comment(servers.count_origin)}",
    ]
    # Told to ratematch as well, for labels and estimates; the engine reads them below.
    if servers.mtp:
        lines.append(f"      mtp: {servers.mtp}")
    for key in ("max_batch_size", "max_num_tokens"):
        value = servers.config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            lines.append(f"      {key}: {value}")
    lines += [f"      config:{_comment(servers.origin + ', verbatim')}", *_config(servers.config, version)]
    environment = {
        name: value
        for name, value in servers.environment.items()
        if name != FORCED or not servers.mtp or not is_forcing(value)  # the workload says it
    }
    if environment:
        lines += [f"      environment:{_comment(servers.environment_origin)}", *_block(environment, 8)]
    return lines


def _config(config: dict[str, Any], version: str) -> list[str]:
    """The worker YAML; keys that the version is not known to have are tagged, so that they are passed on unjudged."""
    return _tagged(config, set(unknown_keys(config, worker_keys(version))), "", 8)


def _tagged(config: dict[str, Any], unknown: set[str], prefix: str, indent: int) -> list[str]:
    lines: list[str] = []
    for key, value in config.items():
        path = f"{prefix}{key}"
        first, *rest = _block({key: value}, indent)
        if path in unknown:
            head = " " * indent + _flow(key) + ":"
            lines += [f"{head} {UNCHECKED}{first.removeprefix(head)}", *rest]
        elif isinstance(value, dict) and any(other.startswith(f"{path}.") for other in unknown):
            lines += [first, *_tagged(value, unknown, f"{path}.", indent + 2)]
        else:
            lines += [first, *rest]
    return lines


def _workload(workload: WorkloadKeys) -> str:
    isl, osl, ratio, forced = workload
    keys: Options = {"isl": isl, "osl": osl, **({"osl_ratio": ratio} if ratio < 1 else {})}
    steps = {drafts: round(tokens, 4) for drafts, tokens in forced}
    return _flow(keys | ({"forced_acceptance": steps} if steps else {}))


def _block(value: dict[str, Any], indent: int) -> list[str]:
    text: str = yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=118, allow_unicode=True)
    return [" " * indent + line if line else "" for line in text.splitlines()]


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _comment(text: str) -> str:
    return f"  # {_one_line(text)}" if text else ""


def _shorten(recipe: Recipe) -> Recipe:
    """``recipe`` with file names instead of paths: where it lay on this machine tells others nothing."""
    name = PurePath(recipe.source).name

    def short(text: str) -> str:
        return text.replace(recipe.source, name)

    return replace(
        recipe,
        source=name,
        origins={key: short(origin) for key, origin in recipe.origins.items()},
        servers=tuple(
            replace(
                servers,
                origin=short(servers.origin),
                count_origin=short(servers.count_origin),
                environment_origin=short(servers.environment_origin),
            )
            for servers in recipe.servers
        ),
        unsupported=tuple(replace(part, where=short(part.where)) for part in recipe.unsupported),
        dynamo=recipe.dynamo
        and replace(recipe.dynamo, origins={key: short(text) for key, text in recipe.dynamo.origins.items()}),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
