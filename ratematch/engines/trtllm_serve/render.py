"""Experiment + Placement -> the files and processes of a ``trtllm-serve`` deployment.

Each setting goes to exactly one place (host and port on the command line, all else in the YAML), because TensorRT-LLM
1.2 and main disagree on which of the two wins (contract, section 1.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Role, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import FileSpec, LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.plan.placement import Instance, Placement

SEQ_MARGIN = 40
"""Tokens beyond ISL + OSL in ``max_seq_len``: the margin most public recipes keep."""

KV_FORMATS = {"fp8": "fp8", "fp8_ds_mla": "fp8", "nvfp4": "nvfp4"}
"""Number format behind a ``kv_cache_config.dtype``; anything else, ``auto`` too, is taken as 16-bit."""

PERF_RECORDS = 10_000
"""Per-request timing records that servers keep until they are fetched."""

# TLLM_LOG_LEVEL makes iteration lines visible; the garbage collector off keeps step times steady (section 7.5).
WORKER_ENV = (
    ("TLLM_LOG_LEVEL", "INFO"),
    ("TRTLLM_SERVER_DISABLE_GC", "1"),
    ("TRTLLM_WORKER_DISABLE_GC", "1"),
)

# A tcp-only UCX_TLS inherited from a login shell breaks the KV transfer without an error (section 9, row 8).
UNSET = ("UCX_TLS",)

GEN_ONLY = ("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "1")


def plan_launch(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> LaunchPlan:
    """Files and processes: every worker first, the orchestrator once all of them are ready.

    The orchestrator does not retry workers that cannot be reached, so it starts last. ``gen`` alone runs in
    ``gen_only_no_context``: the orchestrator invents the context, so that no GPU is spent on one.
    """
    files = [
        FileSpec(f"{group.role}.yaml", to_yaml(worker_config(experiment, group)))
        for group in experiment.deployment.groups
    ]
    processes = [_worker(experiment, instance, cluster, ready_s) for instance in placement.instances]
    if placement.orchestrator_port is None:
        endpoint = _url(placement.instances[0].host, placement.instances[0].port)
    else:
        files.append(FileSpec("orchestrator.yaml", to_yaml(orchestrator_config(experiment, placement))))
        processes.append(_orchestrator(experiment, placement, cluster, ready_s))
        endpoint = processes[-1].ready.url.removesuffix("/health")
    return LaunchPlan(tuple(files), tuple(processes), endpoint)


def to_yaml(config: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(config, sort_keys=False, default_flow_style=False)
    return text


def worker_config(experiment: Experiment, group: ServerGroup) -> dict[str, Any]:
    """The worker YAML of one role: derived defaults with the user's options laid over them, key by key."""
    if group.config is not None:
        return group.config
    mapping, workload = group.mapping, experiment.workload
    tokens = workload.isl if group.role == "ctx" else workload.isl + workload.osl
    config: dict[str, Any] = {
        "backend": "pytorch",
        "tensor_parallel_size": mapping.tp,
        "pipeline_parallel_size": mapping.pp,
        "context_parallel_size": mapping.cp,
        "moe_expert_parallel_size": mapping.ep,
        "enable_attention_dp": mapping.attention_dp,
        "max_batch_size": group.max_batch_size,
        "max_num_tokens": group.max_num_tokens,
        "max_seq_len": tokens + group.mtp + SEQ_MARGIN,
        # Re-used prefix blocks would make prefill look faster than it is.
        "kv_cache_config": {"enable_block_reuse": False, "dtype": "fp8"},
        "cuda_graph_config": None
        if group.role == "ctx"
        else {"enable_padding": True, "max_batch_size": group.max_batch_size},
        "disable_overlap_scheduler": group.role == "ctx",
        "print_iter_log": True,
        "enable_iter_perf_stats": True,
        "return_perf_metrics": True,
        "perf_metrics_max_requests": PERF_RECORDS,
    }
    if group.role != "agg":
        config["cache_transceiver_config"] = _transceiver(experiment)
    if group.mtp:
        draft = "num_nextn_predict_layers" if experiment.engine.version.startswith("1.2") else "max_draft_len"
        config["speculative_config"] = {"decoding_type": "MTP", draft: group.mtp}
    return lay_over(config, group.options)


def kv_settings(group: ServerGroup) -> KvSettings:
    """Fraction and number format of the KV cache: the user's, else what :func:`worker_config` leaves or sets."""
    given = (
        group.config if group.config is not None else lay_over({"kv_cache_config": {"dtype": "fp8"}}, group.options)
    )
    kv = given.get("kv_cache_config") or {}
    dtype = str(kv.get("dtype", "auto"))
    fraction = float(kv.get("free_gpu_memory_fraction", 0.9))
    return KvSettings(fraction, KV_FORMATS.get(dtype, "bf16"), bool(given.get("enable_chunked_prefill", False)))


def _transceiver(experiment: Experiment) -> dict[str, Any]:
    config: dict[str, Any] = {"backend": "DEFAULT"}
    if experiment.engine.version.startswith("1.2"):
        # 1.2 wants a buffer no smaller than the longest prompt, in whole blocks; main wants it unset (section 11).
        config["max_tokens_in_buffer"] = -(-experiment.workload.isl // 32) * 32
    return config


def lay_over(config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """``config`` with ``options`` over it: maps are merged key by key, anything else is replaced."""
    merged = dict(config)
    for key, value in options.items():
        below = merged.get(key)
        merged[key] = lay_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def orchestrator_config(experiment: Experiment, placement: Placement) -> dict[str, Any]:
    """The orchestrator YAML: who serves which role. A role without servers (gen only) has no instances."""
    config: dict[str, Any] = {
        "hostname": placement.orchestrator_host,
        "port": placement.orchestrator_port,
        "backend": "pytorch",
        "perf_metrics_max_requests": PERF_RECORDS,
    }
    roles: tuple[tuple[str, Role], ...] = (("context_servers", "ctx"), ("generation_servers", "gen"))
    for section, role in roles:
        urls = [f"{instance.host}:{instance.port}" for instance in placement.instances if instance.role == role]
        config[section] = {"num_instances": len(urls), "urls": urls}
        if urls and experiment.deployment.router != "round_robin":
            config[section]["router"] = {"type": experiment.deployment.router}
    return config


def _url(host: str, port: int) -> str:
    return f"http://{host}:{port}"


def _config_flag(experiment: Experiment) -> str:
    return "--extra_llm_api_options" if experiment.engine.version.startswith("1.2") else "--config"


def _environment(experiment: Experiment, cluster: Cluster) -> tuple[tuple[str, str], ...]:
    gen_only = experiment.deployment.gen is not None and experiment.deployment.ctx is None
    # What the emulator stands for; the real server has no such settings.
    emulated = (
        (("RATEMATCH_EMULATED_GPU", cluster.gpu), ("RATEMATCH_EMULATED_VERSION", experiment.engine.version))
        if cluster.emulated
        else ()
    )
    return (*emulated, *cluster.environment.items(), *((GEN_ONLY,) if gen_only else ()))


def _merge_env(*layers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """One value a variable: later layers win."""
    return tuple({name: value for layer in layers for name, value in layer}.items())


def _worker(experiment: Experiment, instance: Instance, cluster: Cluster, ready_s: float) -> ProcessSpec:
    argv = (
        *cluster.command,
        "serve",
        experiment.model_path,
        "--host",
        instance.host,
        "--port",
        str(instance.port),
        _config_flag(experiment),
        f"{instance.role}.yaml",
    )
    group = next(group for group in experiment.deployment.groups if group.role == instance.role)
    # An instance that has a node to itself needs no list: the engine sees the node's GPUs.
    gpus = instance.places[0].gpus
    visible = (("CUDA_VISIBLE_DEVICES", ",".join(map(str, gpus))),) if len(gpus) < cluster.gpus_per_node else ()
    return ProcessSpec(
        name=instance.name,
        role=instance.role,
        argv=argv,
        env=(*_merge_env(WORKER_ENV, _environment(experiment, cluster), group.environment.items()), *visible),
        unset=UNSET,
        nodes=instance.nodes,
        host=instance.host,
        port=instance.port,
        log=f"{instance.name}.log",
        ready=ReadyProbe(_url(instance.host, instance.port) + "/health", ready_s),
        wave=0,
    )


def _orchestrator(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> ProcessSpec:
    host, port = placement.orchestrator_host, placement.orchestrator_port
    assert host is not None and port is not None
    # The orchestrator's own limits (180 s by default) would cut long starts and long requests.
    argv = (*cluster.command, "disaggregated", "-c", "orchestrator.yaml", "-t", "7200", "-r", "7200")
    return ProcessSpec(
        name="orchestrator",
        role="orchestrator",
        argv=argv,
        env=(("TLLM_LOG_LEVEL", "INFO"), *_environment(experiment, cluster)),
        unset=UNSET,
        nodes=(host,),
        host=host,
        port=port,
        log="orchestrator.log",
        ready=ReadyProbe(_url(host, port) + "/health", ready_s),
        wave=1,
    )
