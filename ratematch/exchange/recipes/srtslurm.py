"""Recipes of srt-slurm (``srtctl``) with TensorRT-LLM behind them, in both of its layouts.

The older layout has ``resources.prefill_nodes`` and ``backend.trtllm_config.prefill``; ``schema: 2`` has
``roles.prefill`` with ``nodes``, ``workers``, ``gpus``, ``env`` and ``args``. Both say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.exchange.recipes.reader import Reader, Unsupported
from ratematch.exchange.recipes.recipe import (
    MOST_GPUS,
    Recipe,
    Servers,
    nodes_for,
    read_environment,
    read_ladder,
    read_mapping,
)
from ratematch.exchange.recipes.srtdynamo import is_dynamo, read_stack, without_start
from ratematch.plan.deployment import Role
from ratematch.plan.located import Located

KIND = "srt-slurm recipe"

# What its sa-bench client does when the recipe does not say.
RANGE_RATIO, PROMPTS_PER_SLOT, WARMUP_PER_SLOT = 0.8, 10.0, 2.0
LOAD_TYPES = ("sa-bench", "sglang-bench")

PLACED = "frontends and nginx are placed by ratematch"
STARTED = "servers are started together, and each is waited for"

REASONS = {
    "slurm": "the allocation is asked for by ratematch",
    "sbatch_directives": "the allocation is asked for by ratematch",
    "srun_options": "the steps are started by ratematch",
    "resources.spread_workers": "servers are packed onto as few nodes as hold them",
    "resources.het_jobs": "one allocation holds all servers",
    "model.container": "the container image belongs to the cluster profile",
    "identity": "where the recipe came from; the engine's version is read",
    "container_mounts": "mounts belong to the cluster profile",
    "extra_mount": "mounts belong to the cluster profile",
    "frontend": "the orchestrator of trtllm-serve serves, one for the whole deployment",
    "dynamo": "servers are trtllm-serve without Dynamo",
    "infra": "servers are trtllm-serve without Dynamo",
    "frontend.nginx_container": "the image of nginx belongs to the cluster profile",
    "frontend.orchestrator_placement": PLACED,
    "frontend.dedicated_node": PLACED,
    "frontend.placement": PLACED,
    "frontend.numa_bind": "the launch command belongs to the cluster profile",
    "frontend.container_image": "the container image belongs to the cluster profile",
    "frontend.nginx_raise_ulimit": "limits belong to the nodes",
    "engine.numa_memory_bind": "the launch command belongs to the cluster profile",
    "engine.numa_cpu_bind": "the launch command belongs to the cluster profile",
    "engine.sequential_node_start": STARTED,
    "backend.sequential_node_start": STARTED,
    "services": "only servers and the orchestrator are started",
    "setup_script": "containers are started as they are",
    "host_setup": "nodes are taken as they are",
    "health_check": "ready_minutes of the cluster profile, or scaled to the weights",
    "profiling": "servers are measured without a profiler",
    "telemetry": "not recorded",
    "observability": "iteration statistics are set in the worker configuration",
    "output": "results go to results/<name>",
    "backend.numa_memory_bind": "the launch command belongs to the cluster profile",
    "backend.numa_cpu_bind": "the launch command belongs to the cluster profile",
    "benchmark.req_rate": "with concurrencies the load is a closed loop",
    "benchmark.use_chat_template": "prompts are token ids of exact length",
    "benchmark.custom_tokenizer": "prompts are token ids of exact length",
    "benchmark.tokenizer_mode": "prompts are token ids of exact length",
    "benchmark": "the load is ratematch's own",
}


BEHIND_DYNAMO = {
    "frontend": "no flag or variable of a frontend",
    "frontend.nginx_session_affinity": "loads have no sessions",
    "frontend.nginx_session_affinity_header": "loads have no sessions",
    "frontend.nginx_keepalive_timeout": "connections are kept open throughout",
    "frontend.worker_selection": "write the file yourself and give it as router-policy-config",
    "dynamo": "each worker is dynamo.trtllm itself, as its image has it",
    "infra": "etcd and NATS are started as they are, on the nodes of the deployment",
    "engine.served_model_name": "a model is served under its path, by which loads name it",
    "backend.served_model_name": "a model is served under its path, by which loads name it",
}
"""Reasons that are others where Dynamo is kept."""


@dataclass(frozen=True)
class _Keys:
    """Where one role's values stand in one of the two layouts."""

    name: str
    role: Role
    nodes: tuple[str, ...]
    workers: tuple[str, ...]
    gpus: tuple[str, ...]
    environment: tuple[str, ...]
    config: tuple[str, ...]


def _keys(in_roles: bool) -> tuple[_Keys, ...]:
    """``in_roles``: each role has a map of its own, which the newer layout has; between the two releases had
    ``schema: 2`` with the older keys."""
    roles: tuple[tuple[str, str, Role], ...] = (
        ("prefill", "prefill", "ctx"),
        ("decode", "decode", "gen"),
        ("agg", "aggregated", "agg"),
    )
    if in_roles:
        return tuple(
            _Keys(name, role, *(("roles", name, key) for key in ("nodes", "workers", "gpus", "env", "args")))
            for name, _, role in roles
        )
    return tuple(
        _Keys(
            name,
            role,
            ("resources", f"{name}_nodes"),
            ("resources", f"{name}_workers"),
            ("resources", f"gpus_per_{name}"),
            ("backend", f"{long}_environment"),
            ("backend", "trtllm_config", long),
        )
        for name, long, role in roles
    )


def is_srt_recipe(data: Any) -> bool:
    """Whether a document looks like one, or like ``base`` and overrides of one."""
    if not isinstance(data, dict):
        return False
    if isinstance(data.get("base"), dict):
        return is_srt_recipe(data["base"])
    return "resources" in data and any(key in data for key in ("backend", "roles", "engine"))


def read_srt_recipe(located: Located, *, native: bool = False) -> Recipe | None:
    """The recipe of a document (one variant of a file); ``None``, with the problems noted, when there is none.

    ``native``: with ``trtllm-serve`` and its orchestrator instead of Dynamo, whatever the recipe says.
    """
    reader = Reader(located)
    given = reader.take("schema", default=1)
    schema = given if isinstance(given, int) else 2
    if not _is_trtllm(reader, schema):
        return None
    per_node = reader.take_count("resources", "gpus_per_node", most=MOST_GPUS)
    if per_node is None:
        located.add(("resources", "gpus_per_node"), "is missing", "give the GPUs of one node, e.g. 4 on GB200")
        return None
    notes: list[str] = []
    servers, nodes = _read_roles(reader, per_node, notes)
    load = _read_load(reader, notes)
    model = reader.take_text("model", "path")
    precision = reader.take_text("model", "precision")
    gpu = reader.take_text("resources", "gpu_type")
    images = ("model", "container"), ("identity", "container", "image")
    name = reader.take("name", default="recipe")
    orchestrator = _read_orchestrator(reader)
    stack: DynamoStack | None = None
    left: list[Unsupported] = []
    if is_dynamo(reader) and not native and servers:
        stack, left = read_stack(reader, schema, servers, nodes, notes)
        servers = [_for_dynamo(group, notes) for group in servers]
    elif is_dynamo(reader):
        notes.append("changed: servers are trtllm-serve behind its orchestrator, and the recipe's are Dynamo's")
    if located.problems:
        return None
    origins = {
        "model": reader.origin("model", "path"),
        "version": reader.origin("identity", "frameworks"),
        "container": reader.origin("model", "container"),
        "cluster": f"{reader.origin('resources', 'gpu_type')}, {per_node} GPUs a node",
        "workload": reader.origin("benchmark", "isl"),
        "concurrency": reader.origin("benchmark", "concurrencies"),
    }
    return Recipe(
        name=str(name),
        source=located.source,
        kind=KIND,
        model=model,
        images=tuple(text for path in images if (text := reader.peek_text(*path))),
        version=_engine_version(reader),
        repository=reader.peek_text("identity", "model", "repo"),
        precision=precision,
        gpu=gpu,
        gpus_per_node=per_node,
        servers=tuple(servers),
        nodes=nodes,
        orchestrator=orchestrator,
        origins=origins,
        unsupported=(*reader.unsupported(REASONS if stack is None else {**REASONS, **BEHIND_DYNAMO}), *left),
        notes=tuple(notes),
        dynamo=stack,
        **load,
    )


def _read_roles(reader: Reader, per_node: int, notes: list[str]) -> tuple[list[Servers], int]:
    """The servers of each role, and the nodes that the recipe sets aside for all of them."""
    common = read_environment(reader, ("environment",), reader.take_map("environment"))
    servers: list[Servers] = []
    nodes = 0
    for keys in _keys(reader.has("roles")):
        if any(reader.has(*path) for path in (keys.config, keys.workers)):
            group = _read_servers(reader, keys, per_node, common, notes)
            if group is not None:
                servers.append(group)
                nodes += _check_nodes(reader, keys, group, per_node, notes)
    _check_roles(reader.located, servers)
    return servers, nodes


def _for_dynamo(group: Servers, notes: list[str]) -> Servers:
    return replace(group, environment=without_start(group.environment, f"{group.role} environment", notes))


ENGINE_NAMES = ("tensorrt_llm", "tensorrt-llm", "tensorrtllm", "trtllm", "trt_llm", "trt-llm")


def _engine_version(reader: Reader) -> str | None:
    """What ``identity.frameworks`` says of the engine, whichever way it is spelled; nothing counts as taken."""
    identity = reader.located.data.get("identity")
    frameworks = identity.get("frameworks") if isinstance(identity, dict) else None
    if not isinstance(frameworks, dict):
        return None
    for name, version in frameworks.items():
        if str(name).lower() in ENGINE_NAMES and isinstance(version, (str, int, float)) and version is not True:
            return str(version)
    return None


def _is_trtllm(reader: Reader, schema: Any) -> bool:
    path: tuple[str, ...] = ("backend", "type")
    if reader.has("engine"):
        path = ("engine", "type") if reader.has("engine", "type") else ("engine",)
    kind = reader.take(*path, default="sglang")
    if kind == "trtllm":
        return True
    what = f"the engine is {kind!r}" if isinstance(kind, str) else "names no one engine for all roles"
    reader.located.add(path, f"{what}, and only trtllm recipes can be imported")
    return False


def _read_servers(
    reader: Reader, keys: _Keys, per_node: int, common: dict[str, str], notes: list[str]
) -> Servers | None:
    located = reader.located
    config = reader.take_map(*keys.config)
    if not config:
        located.add(keys.config, "the worker configuration is missing or empty")
        return None
    mapping = read_mapping(reader, keys.config, config)
    workers = reader.take_count(*keys.workers, most=MOST_GPUS)
    if workers is None:
        located.add(keys.workers, f"the number of {keys.name} workers is missing")
    own = read_environment(reader, keys.environment, reader.take_map(*keys.environment))
    # srt-slurm sets the common variables last.
    twice = [name for name in own if common.get(name, own[name]) != own[name]]
    notes += [
        f"{name}: environment stands above the {keys.name} workers' own value, as in srt-slurm" for name in twice
    ]
    if mapping is None or workers is None:
        return None
    gpus = reader.take_count(*keys.gpus)
    given, origin = gpus, reader.origin(*keys.gpus)
    if gpus is None:
        nodes = _find_count(reader, keys.nodes)
        if nodes:
            given, origin = nodes * per_node // workers, f"{nodes} nodes x {per_node} GPUs / {workers} workers"
    if given is not None and given != mapping.gpus:
        where = keys.gpus if gpus is not None else keys.nodes
        sizes = f"tp {mapping.tp} x pp {mapping.pp} x cp {mapping.cp} = {mapping.gpus}"
        located.add(
            where,
            f"each {keys.name} worker gets {given} GPUs ({origin}), but its configuration needs {sizes}",
            f"write {keys.gpus[-1]}: {mapping.gpus}, or tensor_parallel_size: {given // (mapping.pp * mapping.cp)}",
        )
        return None
    if mapping.gpus > per_node and mapping.gpus % per_node:
        whole = -(-mapping.gpus // per_node) * per_node
        located.add(
            (*keys.config, "tensor_parallel_size"),
            f"a server of {mapping.gpus} GPUs does not fill whole nodes of {per_node}",
            f"{whole} GPUs would",
        )
        return None
    return Servers(
        role=keys.role,
        instances=workers,
        mapping=mapping,
        config=config,
        environment={**own, **common},
        origin=reader.origin(*keys.config),
        environment_origin=reader.origin(*keys.environment),
        count_origin=reader.origin(*keys.workers),
    )


def _find_count(reader: Reader, path: tuple[str, ...]) -> int | None:
    value = reader.take(*path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _check_nodes(reader: Reader, keys: _Keys, servers: Servers, per_node: int, notes: list[str]) -> int:
    """Nodes that the recipe sets aside for a role; too few are a problem, too many a note."""
    value = reader.take(*keys.nodes)
    if value is None:
        return nodes_for(servers.instances, servers.mapping.gpus, per_node)
    shared = value == 0 or value == "colocate"
    if shared:
        notes.append(f"{keys.name} workers share the nodes of the others ({reader.origin(*keys.nodes)})")
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        reader.located.add(keys.nodes, f"must be a number of nodes, not {value!r}")
        return 0
    needed = nodes_for(servers.instances, servers.mapping.gpus, per_node)
    sum_ = f"{servers.instances} workers x {servers.mapping.gpus} GPUs need {needed} nodes of {per_node}"
    if needed > value:
        reader.located.add(keys.nodes, f"{sum_}, and {value} are given", f"write {keys.nodes[-1]}: {needed}")
    elif needed < value:
        notes.append(f"{sum_}; the recipe sets {value} aside ({reader.origin(*keys.nodes)})")
    return value


def _check_roles(located: Located, servers: list[Servers]) -> None:
    roles = {group.role for group in servers}
    if not located.problems and roles not in ({"ctx", "gen"}, {"agg"}):
        what = f"has workers for {' and '.join(sorted(roles)) or 'no role'}"
        located.add(("resources",), what, "give prefill and decode, or agg alone")


def _read_load(reader: Reader, notes: list[str]) -> dict[str, Any]:
    kind = reader.take("benchmark", "type", default="manual")
    isl = reader.take_count("benchmark", "isl")
    osl = reader.take_count("benchmark", "osl", least=2)
    ladder = read_ladder(reader, "benchmark", "concurrencies")
    if not ladder and (single := reader.take_count("benchmark", "concurrency")):
        ladder = (single,)
    if str(reader.section("benchmark").get("req_rate", "inf")).lower() == "inf":
        reader.take("benchmark", "req_rate")
    if kind not in LOAD_TYPES:
        notes.append(f"benchmark.type {kind!r} is not a load of random prompts; ratematch's own load is run instead")
    sampled = kind == "sa-bench"
    ratio = reader.take_number("benchmark", "random_range_ratio")
    prompts = reader.take_number("benchmark", "num_prompts_mult")
    warmup = reader.take_number("benchmark", "num_warmup_mult", zero=True)
    ratio = (RANGE_RATIO if sampled else 1.0) if ratio is None else ratio
    if not 0 < ratio <= 1:
        reader.located.add(("benchmark", "random_range_ratio"), f"must lie in (0, 1], not {ratio}")
    elif ratio < 1:
        notes.append(f"prompts have exactly ISL tokens here; sa-bench draws them from [{ratio:g} x ISL, ISL]")
    return {
        "isl": isl,
        "osl": osl,
        "osl_ratio": ratio,
        "concurrency": ladder,
        "requests_per_slot": (PROMPTS_PER_SLOT if sampled else 8.0) if prompts is None else prompts,
        "warmup_per_slot": (WARMUP_PER_SLOT if sampled else 0.25) if warmup is None else warmup,
    }


def _read_orchestrator(reader: Reader) -> dict[str, Any]:
    """What the recipe adds to the orchestrator's YAML, which only its ``trtllm_serve`` frontend has."""
    if reader.section("frontend").get("type") != "trtllm_serve":
        return {}
    reader.take("frontend", "type")
    if reader.section("frontend").get("enable_multiple_frontends") is False:
        reader.take("frontend", "enable_multiple_frontends")
    config: dict[str, Any] = dict(reader.take_map("frontend", "server_config_extra"))
    for key, section in (("ctx_router", "context_servers"), ("gen_router", "generation_servers")):
        if router := reader.take_map("frontend", key):
            below = config.get(section)
            config[section] = {**(below if isinstance(below, dict) else {}), "router": router}
    return config
