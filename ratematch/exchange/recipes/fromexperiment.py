"""An experiment of ours as a recipe: what srt-slurm would start for the same servers, frontends and load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ratematch.engines import find_engine
from ratematch.engines.dynamo.stack import FORCED_VARIABLES
from ratematch.engines.ownyaml import read_own_yaml
from ratematch.engines.settings import lay_over
from ratematch.engines.trtllm_serve.forced import VARIABLE as FORCED
from ratematch.errors import Problem, RecipeError
from ratematch.exchange.recipes.choices import FP4
from ratematch.exchange.recipes.dynamostack import DynamoStack, NamedRelease
from ratematch.exchange.recipes.recipe import Recipe, Servers
from ratematch.exchange.recipes.srtwrite import Schema, recipe_text
from ratematch.exchange.recipes.sweeptext import sweep_name
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Options, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.load import Concurrency
from ratematch.plan.memory import default_precision
from ratematch.plan.placement import nodes_on, place

NATIVE, DYNAMO = "trtllm-serve", "dynamo"


@dataclass(frozen=True)
class Exported:
    """``files``: recipes by file name. ``notes``: what a reader should know; ``left_out``: experiments that have no
    recipe, and why."""

    files: dict[str, str]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


def export_recipes(name: str, experiments: Sequence[Experiment], cluster: Cluster, schema: Schema) -> Exported:
    """A recipe for each whole deployment among ``experiments``, of a sweep called ``name``.

    Raises:
        RecipeError: none of them has one.
    """
    files: dict[str, str] = {}
    notes: list[str] = []
    left_out: list[str] = []
    problems: list[Problem] = []
    for experiment in experiments:
        own = name if len(experiments) == 1 else f"{name}-{experiment.label}"
        try:
            recipe = replace(recipe_of(experiment, cluster), name=own)
            text = recipe_text(recipe, schema)
        except RecipeError as error:
            problems += error.problems
            left_out += [f"{experiment.label}: {problem.what}" for problem in error.problems]
            continue
        file = f"{sweep_name(own)}.yaml"
        files[file if file not in files else f"{sweep_name(own)}-{experiment.id[:8]}.yaml"] = text
        if not cluster.container:
            notes.append(f"model.container is {recipe.images[0]}: name an image so in srtslurm.yaml")
    if not files:
        raise RecipeError(problems)
    return Exported(files, tuple(dict.fromkeys(notes)), tuple(left_out))


def recipe_of(experiment: Experiment, cluster: Cluster) -> Recipe:
    """The recipe that starts the servers of ``experiment`` and loads them alike.

    Raises:
        RecipeError: srt-slurm has no such servers or load. PlacementError: it does not fit the cluster.
    """
    if problems := [Problem(experiment.label, what, fix) for what, fix in _impossible(experiment, cluster)]:
        raise RecipeError(problems)
    nodes = nodes_on(experiment.deployment, cluster)
    placement = place(experiment.deployment, cluster, [f"node{index}" for index in range(nodes)], 8000)
    plan = find_engine(experiment.engine.key).plan_launch(experiment, placement, cluster, 1.0)
    files = {file.path: read_own_yaml(file.content) for file in plan.files if file.path.endswith(".yaml")}
    ladder = [load for load in experiment.loads if isinstance(load, Concurrency)]
    first, engine = ladder[0], experiment.engine
    native = engine.name == NATIVE
    return Recipe(
        name=experiment.label,
        source=experiment.label,
        kind="experiment",
        model=experiment.model_path,
        images=(cluster.container.image if cluster.container else f"{engine.name}-trtllm",),
        gpu=cluster.gpu,
        gpus_per_node=cluster.gpus_per_node,
        servers=tuple(_servers(group, files, plan) for group in experiment.deployment.groups),
        isl=experiment.workload.isl,
        osl=experiment.workload.osl,
        osl_ratio=experiment.workload.osl_ratio,
        concurrency=tuple(sorted({load.concurrency for load in ladder})),
        requests_per_slot=round(first.num_requests / first.concurrency, 2),
        warmup_per_slot=round(first.warmup / first.concurrency, 2),
        nodes=nodes - experiment.deployment.service_nodes,
        orchestrator=_orchestrator(experiment) if native else {},
        version=engine.version if native else engine.backend_version,
        precision=_precision(experiment, cluster),
        dynamo=None if native else stack_of_settings(engine.version, engine.settings),
    )


def _orchestrator(experiment: Experiment) -> Options:
    """What stands in the orchestrator's YAML beside the servers: its router, and keys of one's own above it."""
    deployment = experiment.deployment
    keys: Options = {}
    if deployment.router != "round_robin" or deployment.router_args:
        router = {"router": {"type": deployment.router, **deployment.router_args}}
        keys = {"context_servers": router, "generation_servers": router}
    return lay_over(keys, deployment.orchestrator)


def _precision(experiment: Experiment, cluster: Cluster) -> str:
    """As recipes call it: all formats of 4 bits are fp4."""
    name = experiment.workload.precision
    if not name:
        name = default_precision(load_model(experiment.model), load_gpu(cluster.gpu_source))
    return "fp4" if name in FP4 else name


def _impossible(experiment: Experiment, cluster: Cluster) -> list[tuple[str, str]]:
    wrong = []
    engine = experiment.engine
    if engine.name not in (NATIVE, DYNAMO) or (engine.name == DYNAMO and engine.backend != "trtllm"):
        wrong.append((f"recipes of TensorRT-LLM are written, and {engine.label} is something else", ""))
    if experiment.stage not in ("ifb", "e2e"):
        what = f"srt-slurm runs whole deployments, and this is the {experiment.stage} stage alone"
        wrong.append((what, "choose an ifb or e2e experiment, or one of deployments"))
    if not any(isinstance(load, Concurrency) for load in experiment.loads):
        wrong.append(("srt-slurm's load is a closed loop, and none of its loads is one", "give it a concurrency"))
    if cluster.emulated:
        wrong.append((f"cluster {cluster.name} is emulated, and srt-slurm starts real servers", "give --cluster"))
    return wrong


def _servers(group: ServerGroup, files: Mapping[str, Any], plan: LaunchPlan) -> Servers:
    """A configuration written by somebody is given back with its own environment; a derived one with all that the
    plan sets alike for every server of the role."""
    config = group.config if group.config is not None else files[f"{group.role}.yaml"]
    environments = [dict(process.env) for process in plan.processes if process.role == group.role]
    environment = dict(group.environment)
    environment |= {name: value for name, value in environments[0].items() if name == FORCED}
    if group.config is None:
        alike = {
            name: value
            for name, value in environments[0].items()
            if all(other.get(name) == value for other in environments)
            and name not in FORCED_VARIABLES
            and not name.startswith(OF_THIS_START)
        }
        environment = {**alike, **environment}
    return Servers(group.role, group.instances, group.mapping, config, environment, "", "", "")


OF_THIS_START = ("CUDA_VISIBLE_DEVICES", "RATEMATCH_", "TRTLLM_EPLB_SHM_NAME")
"""Beginnings of variables that srt-slurm's launcher sets itself, or that belong to one start."""


def stack_of_settings(release: str, settings: Mapping[str, Any]) -> DynamoStack:
    """Dynamo's part of a recipe from the settings of an engine, which are all filled in."""
    planes = settings["request_plane"], settings["event_plane"]
    mode = settings["router_mode"]
    return DynamoStack(
        frontends=settings["frontends"],
        nginx=settings["nginx"],
        router_mode=mode,
        frontend_args=dict(settings["frontend_args"]),
        frontend_env=dict(settings["frontend_env"]),
        worker_args=dict(settings["worker_args"]),
        discovery=settings["discovery"],
        request_plane=planes[0],
        event_plane=planes[1],
        nats="nats" in planes,
        nats_max_payload_mb=settings.get("nats_max_payload_mb"),
        infra_node=bool(settings.get("service_nodes")),
        releases=(NamedRelease(release, "engine.version"),),
    )
