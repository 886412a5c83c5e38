"""Experiment + Placement -> the files and processes of a ``trtllm-serve`` deployment.

Each setting goes to exactly one place (host and port on the command line, all else in the YAML), because TensorRT-LLM
1.2 and main disagree on which of the two wins (contract, section 1.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import yaml

from ratematch.engines.caches import cache_env
from ratematch.engines.settings import Config, fold, lay_over, merge_env
from ratematch.engines.steptimes import step_times_env
from ratematch.engines.trtllm_serve.agreement import NAMED_BACKEND_ENV, expert_slots, has_load_balancer
from ratematch.engines.trtllm_serve.commandline import config_flag, engine_command, engine_launcher
from ratematch.engines.trtllm_serve.contract import load_keys, release_line, there
from ratematch.engines.trtllm_serve.derive import (
    BLOCK,
    KV_FRACTION,
    NO_ENVIRONMENT,
    derive_worker,
)
from ratematch.engines.trtllm_serve.forced import VARIABLE as FORCED
from ratematch.engines.trtllm_serve.forced import forced_env
from ratematch.engines.trtllm_serve.modes import mode_env, quiet_env
from ratematch.engines.trtllm_serve.release import read_version
from ratematch.engines.trtllm_serve.times import times_of_orchestrator
from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Role, ServerGroup
from ratematch.plan.emulated import emulated_model
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import MADE_AT_LAUNCH, PRIVATE, FileSpec, LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.plan.placement import Instance, Placement

KV_FORMATS = {"fp8": "fp8", "fp8_ds_mla": "fp8", "nvfp4": "nvfp4"}
"""Number format behind a ``kv_cache_config.dtype``; anything else, ``auto`` too, is taken as 16-bit."""

# TLLM_LOG_LEVEL makes iteration lines visible; the garbage collector off keeps step times steady (section 7.5).
WORKER_ENV = (
    ("TLLM_LOG_LEVEL", "INFO"),
    ("TRTLLM_SERVER_DISABLE_GC", "1"),
    ("TRTLLM_WORKER_DISABLE_GC", "1"),
)

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml where there is one, five times as fast: the plan of a large sweep renders thousands of files."""

# A tcp-only UCX_TLS inherited from a login shell breaks the KV transfer without an error (section 9, row 8); the
# others choose the backend behind DEFAULT, and an inherited one would choose it differently on another node.
UNSET = ("UCX_TLS", *NAMED_BACKEND_ENV)

INHERITED_UCX = (
    "UCX_CUDA_IPC_ENABLE_MNNVL",
    "UCX_NET_DEVICES",
    "UCX_TCP_AF_PRIO",
    "UCX_IB_GID_INDEX",
    "UCX_IB_TRAFFIC_CLASS",
    "UCX_IB_SL",
    "UCX_IB_MLX5_DEVX",
)
"""What the launchers of 1.4 unset beside UCX_TLS: a container or login shell sets them for other programs. What a
profile or sweep sets is set after that, and :data:`KEEP_UCX` tells the engine to leave it."""

KEEP_UCX = ("TRTLLM_PRESERVE_UCX_ENV", "1")

AUTH_KEY = "internal_request_auth_key"

EPLB_SHM = "TRTLLM_EPLB_SHM_NAME"
"""Servers that share a node would share their expert weights' shared memory under one name (section 13)."""


def plan_launch(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> LaunchPlan:
    """Files and processes: every worker first, the orchestrator once all of them are ready.

    The orchestrator does not retry workers that cannot be reached, so it starts last. What the experiment's mode adds
    to their environment: :mod:`ratematch.engines.trtllm_serve.modes`.
    """
    key = auth_key(experiment)
    files = [
        FileSpec(f"{group.role}.yaml", to_yaml({**worker_config(experiment, group, cluster.environment), **key}))
        for group in experiment.deployment.groups
    ]
    processes = [_worker(experiment, instance, cluster, ready_s) for instance in placement.instances]
    if placement.orchestrator_port is None:
        endpoint = _url(placement.instances[0].host, placement.instances[0].port)
    else:
        files.append(FileSpec("orchestrator.yaml", to_yaml({**orchestrator_config(experiment, placement), **key})))
        processes.append(_orchestrator(experiment, placement, cluster, ready_s))
        endpoint = processes[-1].ready.url.removesuffix("/health")
    return LaunchPlan(tuple(files), tuple(processes), endpoint)


def auth_key(experiment: Experiment) -> Config:
    """The key with which the orchestrator signs what workers take from nobody else: in all files of a deployment or
    in
    none, so not where a worker's file is the user's own. Only where every release of the version has it."""
    deployment = experiment.deployment
    derived = all(group.config is None for group in deployment.groups)
    known = there(load_keys("worker")[AUTH_KEY], read_version(experiment.engine.version))
    return {AUTH_KEY: MADE_AT_LAUNCH} if deployment.needs_orchestrator and derived and known else {}


def _started_with(experiment: Experiment, name: str) -> str:
    """Where a process finds its file, from the launch folder."""
    return f"{PRIVATE}/{name}" if auth_key(experiment) else name


def spare_ports(experiment: Experiment) -> int:
    """None: a server listens on its own port only."""
    return 0


def to_yaml(config: Config) -> str:
    """The text of a file. Lines are never folded, so that a difference is one line."""
    text: str = yaml.dump(config, Dumper=DUMPER, sort_keys=False, default_flow_style=False, width=10**6)
    return text


def worker_config(
    experiment: Experiment, group: ServerGroup, environment: Mapping[str, str] = NO_ENVIRONMENT
) -> Config:
    """The worker YAML of one role: derived defaults with the user's options laid over them, key by key.
    ``environment``: of every server, from the cluster profile."""
    if group.config is not None:
        return group.config
    return lay_over(fold(derive_worker(experiment, group, environment)), group.options)


def kv_settings(group: ServerGroup) -> KvSettings:
    """Share, number format and lengths: the user's, else what :func:`derive_worker` sets or the engine assumes."""
    if group.config is not None:
        given, fraction, dtype = group.config, 0.9, "auto"
    else:
        given, fraction, dtype = group.options, KV_FRACTION[group.role], "fp8"
    kv = given.get("kv_cache_config")
    kv = kv if isinstance(kv, dict) else {}
    seq_len = given.get("max_seq_len")
    share = kv.get("free_gpu_memory_fraction", fraction)
    return KvSettings(
        # What is no number is refused by the contract, in its words.
        float(share) if isinstance(share, (int, float)) and not isinstance(share, bool) else fraction,
        KV_FORMATS.get(str(kv.get("dtype", dtype)), "bf16"),
        bool(given.get("enable_chunked_prefill", False)),
        seq_len if isinstance(seq_len, int) else None,
        expert_slots=expert_slots(given, 0) or 0,
        by_checkpoint=kv.get("dtype", dtype) == "auto",
    )


def orchestrator_config(experiment: Experiment, placement: Placement) -> Config:
    """The orchestrator YAML: who serves which role. A role without servers (gen only) has no instances."""
    config: Config = {
        "hostname": placement.orchestrator_host,
        "port": placement.orchestrator_port,
        "backend": "pytorch",
        **fold(times_of_orchestrator(experiment)),
    }
    roles: tuple[tuple[str, Role], ...] = (("context_servers", "ctx"), ("generation_servers", "gen"))
    for section, role in roles:
        urls = [f"{instance.host}:{instance.port}" for instance in placement.instances if instance.role == role]
        config[section] = {"num_instances": len(urls), "urls": urls}
        router = router_config(experiment, role)
        if urls and router is not None:
            config[section]["router"] = router
    return lay_over(config, experiment.deployment.orchestrator)


def router_config(experiment: Experiment, role: Role) -> Config | None:
    """The router of one role's servers; ``None`` for the engine's default, round_robin.

    A cache-aware router weighs cached blocks against load, so it has to know the workers' own block size and batch;
    the engine copies them only from worker keys in the orchestrator's file, where there are none.
    """
    deployment = experiment.deployment
    group = next((group for group in deployment.groups if group.role == role), None)
    if group is None or (deployment.router == "round_robin" and not deployment.router_args):
        return None
    config: Config = {"type": deployment.router}
    if deployment.router == "kv_cache_aware":
        kv = (group.options if group.config is None else group.config).get("kv_cache_config") or {}
        config["max_batch_size"] = group.max_batch_size
        config["tokens_per_block"] = kv.get("tokens_per_block", BLOCK)
    return {**config, **deployment.router_args}


def unset(experiment: Experiment) -> tuple[str, ...]:
    """Variables that processes do not inherit."""
    inherited = INHERITED_UCX if release_line(experiment.engine.version) == "1.4" else ()
    # An inherited forced acceptance would be in no result.
    return (*UNSET, *inherited, *((FORCED,) if experiment.deployment.mtp else ()))


def _url(host: str, port: int) -> str:
    return f"http://{host}:{port}"


def _environment(
    experiment: Experiment, cluster: Cluster, role: Role | Literal["orchestrator"], unchecked: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    # What the emulator stands for; the real server has no such settings.
    own: tuple[tuple[str, str], ...] = (
        (("RATEMATCH_EMULATED_GPU", cluster.gpu_source), ("RATEMATCH_EMULATED_VERSION", experiment.engine.version))
        if cluster.emulated
        else ()
    )
    if cluster.emulated and unchecked:
        own = (*own, ("RATEMATCH_EMULATED_UNCHECKED", ",".join(unchecked)))
    own = (*own, *emulated_model(experiment)) if cluster.emulated else own
    given = {*cluster.environment, *(name for group in experiment.deployment.groups for name in group.environment)}
    if release_line(experiment.engine.version) == "1.4" and any(name.startswith("UCX_") for name in given):
        own = (*own, KEEP_UCX)
    return (*own, *cluster.environment.items(), *mode_env(experiment, role))


def visible_gpus(instance: Instance, cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """The list of GPUs of an instance that shares a node; one that has nodes to itself sees all of them."""
    gpus = instance.places[0].gpus
    if instance.shares:
        # One list for all nodes of the instance: the engine gives rank k the visible GPU k % GPUs-of-a-node.
        gpus = tuple((instance.first + k) % cluster.gpus_per_node for k in range(cluster.gpus_per_node))
    own = len(gpus) < cluster.gpus_per_node or instance.first > 0
    return (("CUDA_VISIBLE_DEVICES", ",".join(map(str, gpus))),) if own else ()


def _worker(experiment: Experiment, instance: Instance, cluster: Cluster, ready_s: float) -> ProcessSpec:
    argv = (
        *engine_command(cluster),
        "serve",
        experiment.model_path,
        "--host",
        instance.host,
        "--port",
        str(instance.port),
        config_flag(experiment.engine.version),
        _started_with(experiment, f"{instance.role}.yaml"),
    )
    group = next(group for group in experiment.deployment.groups if group.role == instance.role)
    eplb = ((EPLB_SHM, f"ratematch_eplb_{instance.port}"),) if has_load_balancer(group) else ()
    visible = visible_gpus(instance, cluster)
    return ProcessSpec(
        name=instance.name,
        role=instance.role,
        argv=argv,
        env=(
            *merge_env(
                WORKER_ENV,
                quiet_env(experiment),
                cache_env(experiment, cluster),
                _environment(experiment, cluster, instance.role, group.unchecked),
                eplb,
                group.environment.items(),
                forced_env(experiment, group),
                step_times_env(experiment, cluster),
            ),
            *visible,
        ),
        unset=unset(experiment),
        nodes=instance.nodes,
        host=instance.host,
        port=instance.port,
        log=f"{instance.name}.log",
        ready=ReadyProbe(_url(instance.host, instance.port) + "/health", ready_s),
        wave=0,
        ranks=group.mapping.gpus,
        launcher=engine_launcher(cluster),
        shares=instance.shares,
    )


def _orchestrator(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> ProcessSpec:
    host, port = placement.orchestrator_host, placement.orchestrator_port
    assert host is not None and port is not None
    file = _started_with(experiment, "orchestrator.yaml")
    # The orchestrator's own limits (180 s by default) would cut long starts and long requests.
    argv = (*engine_command(cluster), "disaggregated", "-c", file, "-t", "7200", "-r", "7200")
    return ProcessSpec(
        name="orchestrator",
        role="orchestrator",
        argv=argv,
        env=merge_env(
            (("TLLM_LOG_LEVEL", "INFO"),),
            quiet_env(experiment),
            _environment(experiment, cluster, "orchestrator", experiment.deployment.unchecked),
            step_times_env(experiment, cluster),
        ),
        unset=unset(experiment),
        nodes=(host,),
        host=host,
        port=port,
        log="orchestrator.log",
        ready=ReadyProbe(_url(host, port) + "/health", ready_s),
        wave=1,
        further_ports=() if placement.coordinator_port is None else (placement.coordinator_port,),
    )
