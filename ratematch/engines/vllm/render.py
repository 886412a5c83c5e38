"""Experiment + Placement -> the processes of a vLLM deployment. There are no files: everything is a flag."""

from __future__ import annotations

import sys
from dataclasses import replace

from ratematch.engines.caches import cache_env
from ratematch.engines.settings import merge_env
from ratematch.engines.steptimes import step_times_env
from ratematch.engines.vllm.contract import to_argv
from ratematch.engines.vllm.options import server_options
from ratematch.engines.vllm.router import health_path, router_argv
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.emulated import emulated_model
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.plan.placement import Instance, Placement

SERVER_ENV = (("VLLM_NO_USAGE_STATS", "1"),)
"""Nothing is sent from machines that are measured, and most of them have no way out."""

LENGTH_FLAG = "--max-model-len"

SIDE_HOST, SIDE_PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"

# A tcp-only UCX_TLS inherited from a login shell makes NIXL send KV caches through the host.
UNSET = ("UCX_TLS",)


def engine_command(cluster: Cluster) -> tuple[str, ...]:
    """What starts ``vllm``, or the emulator in its place."""
    own = (sys.executable, "-m", "ratematch.emulator.vllm") if cluster.emulated else ("vllm",)
    return cluster.command or own


def engine_launcher(cluster: Cluster) -> tuple[str, ...]:
    """Nothing but what the profile says: a server starts its own ranks."""
    return cluster.launcher or ()


def side_channels(experiment: Experiment) -> int:
    """Ports for the side channels of NIXL: one for each data-parallel rank of a server that hands KV caches over."""
    groups = experiment.deployment.groups
    return sum(group.instances * group.mapping.dp_ranks for group in groups if group.role != "agg")


def plan_launch(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> LaunchPlan:
    """Processes: every server first, the orchestrator once all of them are ready. ctx or gen alone answers itself."""
    deployment = experiment.deployment
    groups = {group.role: group for group in deployment.groups}
    processes = []
    following = max(placement.ports) + 1
    held = {name: (host, port) for name, host, port in placement.side_channels}
    for instance in placement.instances:
        group = groups[instance.role]
        side = held.get(instance.name, (instance.host, following))
        processes.append(_server(experiment, group, instance, side, cluster, ready_s))
        if instance.name not in held and instance.role != "agg":
            following += group.mapping.dp_ranks
    if placement.orchestrator_port is None:
        endpoint = f"http://{placement.instances[0].host}:{placement.instances[0].port}"
    else:
        processes.append(_orchestrator(experiment, placement, cluster, ready_s))
        endpoint = f"http://{placement.orchestrator_host}:{placement.orchestrator_port}"
    return LaunchPlan((), tuple(processes), endpoint)


def does_for(plan: LaunchPlan, other: LaunchPlan) -> bool:
    """Are its servers those of ``other``, or the same ones for longer sequences? KV caches are given out block by
    block as a request grows, so a larger ``max_model_len`` makes wider tables of blocks, and batches of shorter
    requests what they were."""
    alike = [
        (*_without_length(mine), *_without_length(theirs))
        for mine, theirs in zip(plan.processes, other.processes, strict=False)
    ]
    return (
        len(plan.processes) == len(other.processes)
        and (plan.files, plan.endpoint) == (other.files, other.endpoint)
        and all(mine == theirs and longest >= length for mine, longest, theirs, length in alike)
    )


def _without_length(spec: ProcessSpec) -> tuple[ProcessSpec, int]:
    """The process without its ``--max-model-len``, and that; 0 where it has none, or none that is a number."""
    argv = spec.argv
    at = argv.index(LENGTH_FLAG) if LENGTH_FLAG in argv[:-1] else None
    if at is None or not argv[at + 1].isdigit():
        return spec, 0
    return replace(spec, argv=(*argv[:at], *argv[at + 2 :])), int(argv[at + 1])


def _emulated(experiment: Experiment, cluster: Cluster, unchecked: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What the emulator stands for; the real server has no such settings."""
    if not cluster.emulated:
        return ()
    variables = (
        ("RATEMATCH_EMULATED_GPU", cluster.gpu_source),
        ("RATEMATCH_EMULATED_VERSION", experiment.engine.version),
        *emulated_model(experiment),
    )
    return (*variables, ("RATEMATCH_EMULATED_UNCHECKED", ",".join(unchecked))) if unchecked else variables


def _server(
    experiment: Experiment,
    group: ServerGroup,
    instance: Instance,
    side: tuple[str, int],
    cluster: Cluster,
    ready_s: float,
) -> ProcessSpec:
    argv = (
        *engine_command(cluster),
        "serve",
        experiment.model_path,
        *("--host", instance.host, "--port", str(instance.port)),
        *to_argv(server_options(experiment, group)),
    )
    channel = ((SIDE_HOST, side[0]), (SIDE_PORT, str(side[1]))) if instance.role != "agg" else ()
    # An instance that has a node to itself needs no list: the engine sees the node's GPUs.
    gpus = instance.places[0].gpus
    visible = (("CUDA_VISIBLE_DEVICES", ",".join(map(str, gpus))),) if len(gpus) < cluster.gpus_per_node else ()
    return ProcessSpec(
        name=instance.name,
        role=instance.role,
        argv=argv,
        env=(
            *merge_env(
                SERVER_ENV,
                channel,
                cache_env(experiment, cluster, ("VLLM_CACHE_ROOT", "vllm")),
                _emulated(experiment, cluster, group.unchecked),
                cluster.environment.items(),
                group.environment.items(),
                step_times_env(experiment, cluster),
            ),
            *visible,
        ),
        unset=UNSET,
        nodes=instance.nodes,
        host=instance.host,
        port=instance.port,
        log=f"{instance.name}.log",
        ready=ReadyProbe(f"http://{instance.host}:{instance.port}/health", ready_s),
        wave=0,
        # The server starts its own ranks, so Slurm starts one process.
        ranks=1,
        launcher=engine_launcher(cluster),
    )


def _orchestrator(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> ProcessSpec:
    host, port = placement.orchestrator_host, placement.orchestrator_port
    assert host is not None and port is not None
    deployment = experiment.deployment
    outside = deployment.router == "command"
    return ProcessSpec(
        name="orchestrator",
        role="orchestrator",
        argv=router_argv(deployment, placement, ready_s),
        env=merge_env(
            _emulated(experiment, cluster, ()), cluster.environment.items(), step_times_env(experiment, cluster)
        ),
        unset=UNSET,
        nodes=(host,),
        host=host,
        port=port,
        log="orchestrator.log",
        ready=ReadyProbe(f"http://{host}:{port}{health_path(deployment)}", ready_s),
        wave=1,
        inside=outside,
    )
