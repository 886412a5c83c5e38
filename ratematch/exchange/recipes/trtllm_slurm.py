"""``config.yaml`` of TensorRT-LLM's ``examples/disaggregated/slurm/benchmark`` (contract, section 6.1)."""

from __future__ import annotations

import shlex
from typing import Any

from ratematch.errors import CatalogError
from ratematch.exchange.recipes.reader import Reader
from ratematch.exchange.recipes.recipe import (
    MOST_GPUS,
    Recipe,
    Servers,
    nodes_for,
    read_ladder,
    read_mapping,
    version_in_image,
)
from ratematch.inputs.catalog import load_gpu
from ratematch.plan.deployment import Role
from ratematch.plan.located import Located
from ratematch.plan.secret import masked

KIND = "TensorRT-LLM slurm/benchmark config"

REASONS = {
    "slurm": "the allocation is asked for by ratematch",
    "environment.container_mount": "mounts belong to the cluster profile",
    "environment.container_image": "the container image belongs to the cluster profile",
    "environment.server_env_var": "the orchestrator takes its environment from the cluster profile",
    "environment": "nothing is built or installed before a launch",
    "profiling": "servers are measured without a profiler",
    "accuracy": "accuracy is not measured",
    "metadata": "it tells tests what to run where",
    "benchmark.mode": "a deployment written out is measured end to end",
    "benchmark.dataset_file": "prompts are random token ids of exact length",
    "benchmark.streaming": "answers are always streamed",
    "benchmark.use_nv_sa_benchmark": "the load is ratematch's own",
    "benchmark.use_aiperf": "the load is ratematch's own, at that client's concurrency",
    "benchmark.benchmark_ratio": "its default client takes lengths from the dataset",
    "benchmark.env_var": "the load generator needs none",
    "benchmark": "the load is ratematch's own",
}


def is_trtllm_config(data: Any) -> bool:
    return isinstance(data, dict) and "worker_config" in data and "hardware" in data


def read_trtllm_config(located: Located) -> Recipe | None:
    """The recipe that the document holds; ``None``, with the problems noted, when it cannot be."""
    reader = Reader(located)
    notes: list[str] = []
    per_node = reader.take_count("hardware", "gpus_per_node", most=MOST_GPUS)
    if per_node is None:
        located.add(("hardware", "gpus_per_node"), "is missing", "give the GPUs of one node, e.g. 4 on GB200")
    common = _read_assignments(reader, "environment", "worker_env_var")
    roles: tuple[Role, ...] = ("ctx", "gen")
    groups = (_read_servers(reader, role, per_node or 1, common) for role in roles)
    servers = [group for group in groups if group is not None]
    isl = reader.take_count("benchmark", "input_length")
    osl = reader.take_count("benchmark", "output_length", least=2)
    listed = read_ladder(reader, "benchmark", "concurrency_list")
    rounds = reader.take_number("benchmark", "multi_round")
    aiperf, ratio = _read_client(reader, notes)
    if reader.section("benchmark").get("mode", "e2e") == "e2e":
        reader.take("benchmark", "mode")
    model, gpu, named_by = _read_subject(reader)
    image = reader.peek_text("environment", "container_image")
    # A wheel is installed over what the image holds.
    wheel = (reader.peek_text("environment", "trtllm_wheel_path") or "").rpartition("/")[2]
    if located.problems or per_node is None:
        return None
    gen = next(group for group in servers if group.role == "gen")
    # Two of its clients multiply each listed concurrency by the generation servers, AIPerf's does not (section 6.2).
    times = 1 if aiperf else gen.instances
    product = f" x {times} generation servers" if times > 1 else ""
    origins = {
        "model": reader.origin(*named_by),
        "version": reader.origin("environment", "trtllm_wheel_path"),
        "container": reader.origin("environment", "container_image"),
        "cluster": reader.origin("hardware", "gpus_per_node"),
        "workload": reader.origin("benchmark", "input_length"),
        "concurrency": reader.origin("benchmark", "concurrency_list") + product,
    }
    return Recipe(
        name=located.source.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml"),
        source=located.source,
        kind=KIND,
        model=model,
        images=() if image is None else (image,),
        version=version_in_image(wheel),
        gpu=gpu,
        gpus_per_node=per_node,
        servers=tuple(servers),
        isl=isl,
        osl=osl,
        osl_ratio=ratio,
        concurrency=tuple(number * times for number in listed),
        requests_per_slot=rounds or 8.0,
        warmup_per_slot=0.25,
        nodes=sum(nodes_for(group.instances, group.mapping.gpus, per_node) for group in servers),
        origins=origins,
        unsupported=reader.unsupported(REASONS),
        notes=tuple(notes),
    )


def _read_subject(reader: Reader) -> tuple[str | None, str | None, tuple[str, str]]:
    """The model, the type of GPU, and where the model is named.

    Files of its performance tests leave the path of the model and the partition to whoever runs them, and name the
    folder of the checkpoint and the GPUs in ``metadata`` instead.
    """
    metadata = reader.section("metadata")
    gpu = _only_gpu(metadata.get("supported_gpus"))
    if gpu is not None:
        reader.take("metadata", "supported_gpus")
    model = reader.take_text("environment", "model_path")
    if not (model and model.startswith("<")):
        return model, gpu, ("environment", "model_path")
    if isinstance(metadata.get("model_dir_name"), str):
        return reader.take_text("metadata", "model_dir_name"), gpu, ("metadata", "model_dir_name")
    return None, gpu, ("environment", "model_path")


def _only_gpu(names: Any) -> str | None:
    """The known type that a list of one names."""
    if not (isinstance(names, list) and len(names) == 1 and isinstance(names[0], str)) or "/" in names[0]:
        return None
    try:
        return load_gpu(names[0]).name
    except CatalogError:
        return None


def _read_client(reader: Reader, notes: list[str]) -> tuple[bool, float]:
    """Is AIPerf the client, and the least length as a share of the longest that the client draws."""
    benchmark = reader.section("benchmark")
    aiperf, sa = (_is_on(benchmark.get(key)) for key in ("use_aiperf", "use_nv_sa_benchmark"))
    if aiperf and sa:
        both = "use_aiperf and use_nv_sa_benchmark are both on"
        notes.append(f"{both}: concurrencies are taken as AIPerf's client does")
    elif sa and reader.has("benchmark", "benchmark_ratio"):
        ratio = reader.take_number("benchmark", "benchmark_ratio") or 1.0
        notes.append(f"prompts have exactly ISL tokens here; the SA client draws them from [{ratio:g} x ISL, ISL]")
        return aiperf, ratio
    return aiperf, 1.0


def _is_on(value: Any) -> bool:
    """The scripts compare text, so ``"true"`` is true as well."""
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _read_servers(reader: Reader, role: Role, per_node: int, common: dict[str, str]) -> Servers | None:
    path, count_path = ("worker_config", role), ("hardware", f"num_{role}_servers")
    located = reader.located
    config = reader.take_map(*path)
    if not config:
        located.add(path, "the worker configuration is missing or empty")
        return None
    mapping = read_mapping(reader, path, config)
    if reader.section("hardware").get(count_path[1]) == 0:
        fix = "measure generation servers alone with a gen stage"
        located.add(count_path, f"a deployment without {role} servers cannot be written out", fix)
        return None
    instances = reader.take_count(*count_path, most=MOST_GPUS)
    if instances is None:
        located.add(count_path, f"the number of {role} servers is missing")
    own = _read_assignments(reader, "environment", f"{role}_worker_env_var")
    if mapping is None or instances is None:
        return None
    if mapping.gpus > per_node and mapping.gpus % per_node:
        whole = -(-mapping.gpus // per_node) * per_node
        located.add(
            (*path, "tensor_parallel_size"),
            f"a server of {mapping.gpus} GPUs does not fill whole nodes of {per_node}",
            f"{whole} GPUs would",
        )
    return Servers(
        role=role,
        instances=instances,
        mapping=mapping,
        config=config,
        environment={**common, **own},
        origin=reader.origin(*path),
        environment_origin=reader.origin("environment", "worker_env_var"),
        count_origin=reader.origin(*count_path),
    )


def _read_assignments(reader: Reader, *path: str) -> dict[str, str]:
    """``A=1 B="two words"`` as a shell would read it; secrets are taken from the environment of the sweep."""
    text = reader.take_text(*path) or ""
    assigned: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        reader.located.add(path, f"{text!r} cannot be read: {error}")
        return assigned
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            reader.located.add(path, f"{word!r} is no NAME=VALUE")
        assigned[name] = value
    return masked(assigned)
