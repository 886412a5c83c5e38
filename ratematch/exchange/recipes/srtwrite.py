"""Writes a recipe of srt-slurm (``srtctl``), in either of its layouts: what :mod:`srtslurm` reads, the other way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import yaml

from ratematch.errors import Problem, RecipeError
from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.exchange.recipes.recipe import Recipe, Servers, nodes_for

Schema = Literal[1, 2]
NAMES = {"ctx": ("prefill", "prefill"), "gen": ("decode", "decode"), "agg": ("agg", "aggregated")}
"""What a role is called: in ``resources`` and ``roles``, and below ``backend``."""

Keys = dict[str, Any]
"""A map of YAML keys as it will stand in the recipe."""

SHARED = "/logs/discovery"
"""A folder of srt-slurm's containers that all nodes of one job see, and no other job."""


def recipe_text(recipe: Recipe, schema: Schema = 2) -> str:
    """The recipe as YAML; read again, it has the same servers, frontends, environment and load.

    Raises:
        RecipeError: it has something that srt-slurm cannot do.
    """
    if problems := [Problem(recipe.name, what, fix) for what, fix in _impossible(recipe)]:
        raise RecipeError(problems)
    content: Keys = {"schema": 2} if schema == 2 else {}
    content |= {
        "name": recipe.name,
        "model": {
            "path": recipe.model,
            "container": next(iter(recipe.images), "trtllm"),
            "precision": recipe.precision or "fp8",
        },
        "resources": {"gpu_type": recipe.gpu, "gpus_per_node": recipe.gpus_per_node},
    }
    content |= _frameworks(recipe)
    content |= _frontend(recipe, schema)
    if schema == 2:
        content |= _roles(recipe)
    else:
        backend = _backend(recipe, content["resources"])
        content["backend"] = backend
    content["benchmark"] = _benchmark(recipe)
    text: str = yaml.safe_dump(content, sort_keys=False, width=10**6, allow_unicode=True)
    return text


def _impossible(recipe: Recipe) -> list[tuple[str, str]]:
    """What srt-slurm cannot do of it, and what would do."""
    wrong = []
    if recipe.isl is None or not recipe.concurrency:
        wrong.append(("srt-slurm's load is a closed loop of one ISL and OSL", "give the experiment one"))
    stack = recipe.dynamo
    if stack is None:
        return wrong
    most = max(1, recipe.nodes - 1)
    if stack.frontends > 1 and not stack.nginx:
        wrong.append(("srt-slurm starts several frontends only behind nginx", "set nginx: true"))
    if stack.nginx and (recipe.nodes < 2 or stack.frontends > most):
        what = f"srt-slurm starts nginx on the head node and at most {most} frontends on {recipe.nodes} nodes"
        wrong.append((what, f"set frontends: {most}, or nginx: false with one"))
    return wrong


def _frameworks(recipe: Recipe) -> Keys:
    named = {"tensorrt_llm": recipe.version}
    if recipe.dynamo is not None and recipe.dynamo.releases:
        named["dynamo"] = recipe.dynamo.releases[0].text
    known = {name: version for name, version in named.items() if version}
    return {"identity": {"frameworks": known}} if known else {}


def _frontend(recipe: Recipe, schema: Schema) -> Keys:
    stack = recipe.dynamo
    if stack is None:
        keys: Keys = {"type": "trtllm_serve", "enable_multiple_frontends": False}
        if recipe.orchestrator:
            keys["server_config_extra"] = recipe.orchestrator
        return {"frontend": keys}
    frontend: Keys = {"type": "dynamo", "enable_multiple_frontends": stack.nginx}
    if stack.nginx:
        frontend["num_additional_frontends"] = stack.frontends - 1
    args = {**({"router-mode": stack.router_mode} if stack.router_mode else {}), **stack.frontend_args}
    frontend |= {key: value for key, value in (("args", args), ("env", stack.frontend_env)) if value}
    dynamo: Keys = {"install": False, "request_plane": stack.request_plane}
    if stack.event_plane is not None:
        dynamo["event_plane"] = stack.event_plane
    content: Keys = {"frontend": frontend, "dynamo": dynamo}
    if schema == 1 and (stack.infra_node or stack.nats_max_payload_mb):
        size = {"nats_max_payload_mb": stack.nats_max_payload_mb} if stack.nats_max_payload_mb else {}
        content["infra"] = {"etcd_nats_dedicated_node": stack.infra_node, **size}
    if stack.discovery == "file":
        content["environment"] = {"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": SHARED}
    return content


def _publishing(stack: DynamoStack | None, schema: Schema) -> Keys:
    """How workers publish: ``schema: 2`` publishes metrics unless told not to."""
    flags = () if stack is None else stack.worker_args
    if "publish-events-and-metrics" in flags:
        return {"publish_events_and_metrics": True}
    if "publish-metrics" in flags:
        return {} if schema == 2 else {"publish_metrics": True}
    return {} if schema == 1 or stack is None else {"publish_metrics": False}


def _roles(recipe: Recipe) -> Keys:
    engine = {"type": "trtllm", **_publishing(recipe.dynamo, 2)}
    roles = {
        NAMES[servers.role][0]: {
            "nodes": "colocate" if _shares(recipe, servers) else _nodes(recipe, servers),
            "workers": servers.instances,
            "gpus": servers.mapping.gpus,
            **({"env": servers.environment} if servers.environment else {}),
            "args": servers.config,
        }
        for servers in recipe.servers
    }
    services = _services(recipe.dynamo)
    return {"engine": engine, "roles": roles, **({"services": services} if services else {})}


def _services(stack: DynamoStack | None) -> Sequence[Keys]:
    if stack is None:
        return []
    dedicated = {"placement": {"node": "dedicated"}} if stack.infra_node else {}
    payload = {"options": {"max_payload_mb": stack.nats_max_payload_mb}} if stack.nats_max_payload_mb else {}
    services: list[Keys] = []
    if dedicated:
        services.append({"name": "etcd", "type": "etcd", **dedicated})
    if stack.nats and (dedicated or payload or "nats" not in (stack.request_plane, stack.event_plane)):
        services.append({"name": "nats", "type": "nats", **dedicated, **payload})
    return services


def _backend(recipe: Recipe, resources: Keys) -> Keys:
    """``backend`` of the older layout; nodes, workers and GPUs of each role go into ``resources``."""
    backend: Keys = {"type": "trtllm", **_publishing(recipe.dynamo, 1)}
    for servers in recipe.servers:
        short, long = NAMES[servers.role]
        resources |= {
            f"{short}_nodes": 0 if _shares(recipe, servers) else _nodes(recipe, servers),
            f"{short}_workers": servers.instances,
            f"gpus_per_{short}": servers.mapping.gpus,
        }
        if servers.environment:
            backend[f"{long}_environment"] = servers.environment
    backend["trtllm_config"] = {NAMES[servers.role][1]: servers.config for servers in recipe.servers}
    return backend


def _nodes(recipe: Recipe, servers: Servers) -> int:
    return nodes_for(servers.instances, servers.mapping.gpus, recipe.gpus_per_node)


def _shares(recipe: Recipe, servers: Servers) -> bool:
    """Do these servers take the GPUs that the prefill workers leave on their nodes?"""
    others = [_nodes(recipe, each) for each in recipe.servers if each.role == "ctx"]
    return servers.role == "gen" and others == [recipe.nodes]


def _benchmark(recipe: Recipe) -> Keys:
    return {
        "type": "sa-bench",
        "isl": recipe.isl,
        "osl": recipe.osl,
        "concurrencies": "x".join(map(str, recipe.concurrency)),
        "req_rate": "inf",
        "random_range_ratio": recipe.osl_ratio,
        "num_prompts_mult": _whole(recipe.requests_per_slot),
        "num_warmup_mult": _whole(recipe.warmup_per_slot),
    }


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number
