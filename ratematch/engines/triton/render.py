"""Experiment + Placement -> model repository, start script and the one process of a Triton deployment."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ratematch.engines.settings import merge_env
from ratematch.engines.steptimes import step_times_env
from ratematch.engines.triton.build import BUILD_KEYS, build_command, build_script, emulated_config, engine_dir
from ratematch.engines.triton.derive import LIMITS, OWN, engine_values, orchestrator_values
from ratematch.engines.triton.ranks import MODELS, ORCHESTRATOR, World, world_of
from ratematch.engines.triton.repository import fill, read_template, refuse_unknown
from ratematch.engines.triton.startscript import NAME, REPOSITORY, Listening, model_links, start_script
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.emulated import emulated_model
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import FileSpec, LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.plan.placement import Placement
from ratematch.plan.requestapi import RequestApi

RELEASE = "triton"
"""Key of ``release_paths`` in a cluster profile."""

STAND_INS = Path(__file__).parents[2] / "emulator" / "triton" / "release"
"""What an emulated server is filled with: templates and model files in the form of a release."""

TRANSFER = "TRTLLM_USE_MPI_KVCACHE"
"""Turns the hand-over of KV caches on, over MPI as the backend has it; without one of them requests are refused."""

TEXT = ("preprocessing", "postprocessing", "ensemble")


def engine_command(cluster: Cluster) -> tuple[str, ...]:
    """What starts a server, or the emulated one in its place."""
    own = (sys.executable, "-m", "ratematch.emulator.triton") if cluster.emulated else ("tritonserver",)
    return cluster.command or own


def engine_launcher(cluster: Cluster) -> tuple[str, ...]:
    """Nothing but what the profile says: the start script starts the ranks."""
    return cluster.launcher or ()


def spare_ports(experiment: Experiment) -> int:
    """gRPC and metrics, beside HTTP."""
    return 2


def request_api(experiment: Experiment) -> RequestApi:
    """Token ids to the orchestrator, or straight to the one engine; texts of a data set to the ensemble."""
    if experiment.workload.file and not experiment.workload.tokenizer and experiment.stage in ("e2e", "ifb"):
        return RequestApi("generate", "ensemble")
    groups = experiment.deployment.groups
    return RequestApi("generate-ids", ORCHESTRATOR if len(groups) > 1 else MODELS[groups[0].role])


def models_of(experiment: Experiment) -> tuple[str, ...]:
    """The models of the repository. What text goes through is there where an experiment stands for the service."""
    engines = tuple(MODELS[group.role] for group in experiment.deployment.groups)
    orchestrator = (ORCHESTRATOR,) if len(engines) > 1 else ()
    return (*engines, *orchestrator, *(TEXT if experiment.stage in ("e2e", "ifb") else ()))


def plan_launch(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> LaunchPlan:
    """One process, which is all ranks: rank 0 answers. Its role is that of what it serves; a pair counts as gen.

    Raises:
        UserError: the profile names no release, or what is there is none.
    """
    world = world_of(placement, cluster.gpus_per_node)
    listening = _listening(placement)
    files = (
        *_configurations(experiment, world, cluster),
        FileSpec(NAME, _script(experiment, world, listening, cluster)),
        FileSpec("build-engines.sh", build_script(experiment)),
    )
    role = experiment.deployment.groups[-1].role
    # Emulated servers have no ranks: the first node's stands for all.
    several = len(world.shares) > 1 and not cluster.emulated
    visible = world.visible
    spec = ProcessSpec(
        name="triton",
        role=role,
        argv=("bash", NAME),
        env=(
            *_environment(experiment, cluster),
            *((("CUDA_VISIBLE_DEVICES", ",".join(map(str, visible))),) if visible else ()),
        ),
        unset=("UCX_TLS",),
        nodes=tuple(world.shares) if several else (world.first_node,),
        host=listening.host,
        port=listening.http,
        log="triton.log",
        ready=ReadyProbe(f"http://{listening.host}:{listening.http}/v2/health/ready", ready_s),
        # On one node mpirun starts the ranks inside one task.
        ranks=world.size if several else 1,
        launcher=engine_launcher(cluster),
        shares=tuple(world.shares.values()) if several else (),
        further_ports=(listening.grpc, listening.metrics),
        metrics_port=listening.metrics,
    )
    return LaunchPlan(files, (spec,), f"http://{listening.host}:{listening.http}")


def _listening(placement: Placement) -> Listening:
    http = placement.orchestrator_port or placement.instances[0].port
    following = max(placement.ports) + 1
    return Listening(placement.orchestrator_host or placement.instances[0].host, http, following, following + 1)


def _release(cluster: Cluster) -> Path:
    """Where templates come from."""
    given = dict(cluster.release_paths).get(RELEASE)
    if given is None and not cluster.emulated:
        raise UserError(
            f"cluster profile {cluster.name}: names no release of Triton's models: give release_paths: {{triton: "
            "FOLDER}, the folder all_models of a TensorRT-LLM release up to 1.2 (out of the image: /app/all_models)"
        )
    if given is not None and not Path(given).is_absolute():
        raise UserError(f"cluster profile {cluster.name}: release_paths.triton: {given} is no absolute path")
    return Path(given) if given is not None else STAND_INS


def _configurations(experiment: Experiment, world: World, cluster: Cluster) -> list[FileSpec]:
    """``config.pbtxt`` of every model; and, where servers are emulated, what their engines were built with."""
    release = _release(cluster)
    groups = {MODELS[group.role]: group for group in experiment.deployment.groups}
    engine = ORCHESTRATOR if len(groups) > 1 else next(iter(groups))
    _refuse_unknown(experiment, release)
    files = []
    for model in models_of(experiment):
        template, group = read_template(release, model), groups.get(model)
        if group is None:
            text = fill(template, orchestrator_values(experiment), engine=engine if model == "ensemble" else "")
        else:
            values = {**engine_values(experiment, group), **_placed(world, group)}
            if cluster.emulated:
                values |= {"triton_backend": "python", "engine_dir": f"engines/{model}"}
                files.append(FileSpec(f"engines/{model}/config.json", emulated_config(experiment, group)))
            text = fill(template, values, copies=group.instances)
        files.append(FileSpec(f"{REPOSITORY}/{model}/config.pbtxt", text))
    return files


def _refuse_unknown(experiment: Experiment, release: Path) -> None:
    """What a person gives is a placeholder of the release, or of the engine's build; marked ``!unchecked``, it may be
    anything."""
    deployment = experiment.deployment
    for group in deployment.groups:
        given = group.options.keys() - {*BUILD_KEYS, *LIMITS, *OWN, *group.unchecked}
        refuse_unknown(group.role, sorted(given), [read_template(release, MODELS[group.role])])
    if given := deployment.orchestrator.keys() - {*OWN, *deployment.unchecked}:
        refuse_unknown(
            "orchestrator", sorted(given), [read_template(release, model) for model in (ORCHESTRATOR, *TEXT)]
        )


def _placed(world: World, group: ServerGroup) -> dict[str, str]:
    participants = world.participants(group.role)
    nodes = len(dict.fromkeys(node for place in world.of(group.role) for node in place.nodes))
    return {
        **({"participant_ids": participants} if participants else {}),
        "gpu_device_ids": world.gpu_groups(group.role),
        "num_nodes": str(nodes),
    }


def _script(experiment: Experiment, world: World, listening: Listening, cluster: Cluster) -> str:
    code = STAND_INS if cluster.emulated else _release(cluster)
    engines = [
        (engine_dir(experiment, group), shlex.join(build_command(experiment, group)))
        for group in experiment.deployment.groups
        if not cluster.emulated
    ]
    return start_script(
        f"{experiment.label}, experiment {experiment.id}",
        world,
        listening,
        engine_command(cluster),
        model_links(models_of(experiment), str(code)),
        engines,
        emulated=cluster.emulated,
    )


def _environment(experiment: Experiment, cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """Of all ranks: one MPI job has one environment."""
    emulated = (
        ("RATEMATCH_EMULATED_GPU", cluster.gpu_source),
        ("RATEMATCH_EMULATED_VERSION", experiment.engine.version),
        *emulated_model(experiment),
    )
    given = [pair for group in experiment.deployment.groups for pair in group.environment.items()]
    chosen = {name for name, _ in (*cluster.environment.items(), *given)}
    pair = len(experiment.deployment.groups) > 1
    own = ((TRANSFER, "1"),) if pair and not any(name in TRANSFERS for name in chosen) else ()
    return merge_env(
        own,
        emulated if cluster.emulated else (),
        cluster.environment.items(),
        given,
        step_times_env(experiment, cluster),
    )


TRANSFERS = (TRANSFER, "TRTLLM_USE_UCX_KVCACHE")
