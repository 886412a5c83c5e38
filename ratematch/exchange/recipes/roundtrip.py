"""Checks that an imported sweep gives the recipe back: parses, expands and renders it, and compares every part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ratematch.engines import ENGINES, find_engine
from ratematch.engines.ownyaml import read_own_yaml
from ratematch.engines.refusals import judge_launch
from ratematch.engines.trtllm_serve.forced import VARIABLE as FORCED
from ratematch.engines.trtllm_serve.forced import is_forcing
from ratematch.exchange.recipes.dynamoproof import compare_stack
from ratematch.exchange.recipes.recipe import Recipe, Servers
from ratematch.plan.cluster import Cluster
from ratematch.plan.expansion import expand
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.model import Gpu, Model
from ratematch.plan.placement import nodes_on, place
from ratematch.plan.secret import secret_names
from ratematch.plan.sweepfile import parse_sweep


@dataclass(frozen=True)
class RoundTrip:
    """``differences``: where the rendered deployment is not the recipe's; empty when the import is faithful.

    ``notes``: what is added around it (environment variables, fewer or more nodes), and warnings. ``refusals``: of
    each recipe, in their order, why ``ratematch plan`` refuses its deployment; empty where it does not."""

    differences: tuple[str, ...]
    notes: tuple[str, ...]
    refusals: tuple[tuple[str, ...], ...]


def check_roundtrip(
    text: str,
    source: str,
    recipes: Sequence[Recipe],
    *,
    find_model: Callable[[str], Model],
    find_cluster: Callable[[str], Cluster],
    find_gpu: Callable[[str], Gpu],
) -> RoundTrip:
    """Compare the deployments of a sweep file with the recipes it was written from, in the same order.

    Raises:
        SweepError: the text is no sweep file.
    """

    sizes: list[int] = []

    def enlarge(name: str) -> Cluster:
        # Too few nodes in the profile are told; they must not prevent the comparison.
        cluster = find_cluster(name)
        sizes.append(cluster.nodes)
        most = max(-(-recipe.gpus // cluster.gpus_per_node) + recipe.nodes for recipe in recipes)
        return replace(cluster, nodes=max(cluster.nodes, most))

    sweep = parse_sweep(text, source, find_model=find_model, find_cluster=enlarge, find_gpu=find_gpu, engines=ENGINES)
    (has_nodes,) = sizes
    engine = find_engine(sweep.engine.key)
    experiments = expand(sweep, engine.kv_settings).experiments
    differences: list[str] = []
    notes: list[str] = []
    refusals: list[tuple[str, ...]] = []
    if len(experiments) != len(recipes):
        differences.append(f"{len(recipes)} recipes became {len(experiments)} experiments")
    for recipe, experiment in zip(recipes, experiments, strict=False):
        needed = nodes_on(experiment.deployment, sweep.cluster)
        different, remarks = _compare(recipe, experiment, sweep.cluster, needed)
        differences += [f"{recipe.name}: {text}" for text in different]
        notes += [f"{recipe.name}: {text}" for text in remarks]
        verdict = judge_launch(sweep, experiment)
        notes += [f"{recipe.name}: warning: {text}" for text in verdict.doubts]
        too_few = (
            f"needs {needed} nodes, and cluster {sweep.cluster.name} has {has_nodes}: raise nodes in its profile, or "
            "give --cluster"
        )
        refusals.append((*verdict.refusals, *([too_few] if needed > has_nodes else [])))
        packed = needed - experiment.deployment.service_nodes
        if packed != recipe.nodes:
            notes.append(f"{recipe.name}: the recipe takes {recipe.nodes} nodes, ratematch packs it into {packed}")
    return RoundTrip(tuple(differences), tuple(dict.fromkeys(notes)), tuple(refusals))


def _compare(recipe: Recipe, experiment: Experiment, cluster: Cluster, nodes: int) -> tuple[list[str], list[str]]:
    """(what is not the recipe's, what is added around it)."""
    placement = place(experiment.deployment, cluster, [f"node{index}" for index in range(nodes)], 8000)
    engine = find_engine(experiment.engine.key)
    plan = engine.plan_launch(experiment, placement, cluster, 1.0)
    files = {file.path: read_own_yaml(file.content) for file in plan.files if file.path.endswith(".yaml")}
    differences: list[str] = []
    added: dict[str, str] = {}
    for servers in recipe.servers:
        if _canonical(files.get(f"{servers.role}.yaml")) != _canonical(servers.config):
            differences.append(f"the {servers.role} configuration is not the recipe's")
        instances = [instance for instance in placement.instances if instance.role == servers.role]
        if len(instances) != servers.instances:
            differences.append(f"{len(instances)} {servers.role} servers instead of {servers.instances}")
        sizes = {sum(len(part.gpus) for part in instance.places) for instance in instances}
        if sizes != {servers.mapping.gpus}:
            differences.append(f"{servers.role} servers of {sizes} GPUs instead of {servers.mapping.gpus}")
        for process in plan.processes:
            if process.role == servers.role:
                differing, more = _compare_environment(servers, dict(process.env))
                differences += differing
                added |= more
    notes: list[str] = []
    if recipe.dynamo is not None:
        compared = compare_stack(recipe.dynamo, plan, experiment.engine.version)
        differences += compared.differences
        notes += compared.notes()
    if (experiment.workload.isl, experiment.workload.osl) != (recipe.isl, recipe.osl):
        differences.append(f"workload {experiment.workload.label} instead of {recipe.isl}/{recipe.osl}")
    ladder = tuple(load.concurrency for load in experiment.loads if isinstance(load, Concurrency))
    if ladder != recipe.concurrency:
        differences.append(f"concurrency {ladder} instead of {recipe.concurrency}")
    secrets = {name for servers in recipe.servers for name in secret_names(servers.environment.items())}
    if secrets:
        shown = ", ".join(sorted(secrets))
        notes.append(f"values of secrets are not copied, set them where the sweep is started: {shown}")
    if added:
        shown = " ".join(f"{name}={value}" for name, value in sorted(added.items()))
        notes.append(f"ratematch and cluster {cluster.name} add to the environment: {shown}")
    return list(dict.fromkeys(differences)), notes


def _compare_environment(servers: Servers, given: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    wrong = [
        f"{servers.role}: {name}={given.get(name)} instead of {value}"
        for name, value in servers.environment.items()
        if given.get(name) != value and not (name == FORCED and is_forcing(value, given.get(name)))
    ]
    own = ("CUDA_VISIBLE_DEVICES", "RATEMATCH_")
    more = {
        name: value for name, value in given.items() if name not in servers.environment and not name.startswith(own)
    }
    return wrong, more


def _canonical(value: Any) -> str:
    """Text in which ``1``, ``1.0``, ``true`` and ``"1"`` differ, and the order of keys does not."""
    text: str = yaml.safe_dump(value, sort_keys=True)
    return text
