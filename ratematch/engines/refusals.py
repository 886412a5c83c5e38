"""What the launch of an experiment would be refused for, before anything is started: placement, files, memory."""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.engines import find_engine
from ratematch.engines.installed import InstalledSchema
from ratematch.errors import PlacementError
from ratematch.plan.capacity import why_unfit
from ratematch.plan.experiment import Experiment
from ratematch.plan.formats import rate_of
from ratematch.plan.memory import default_precision
from ratematch.plan.model import Model
from ratematch.plan.placement import nodes_on, place
from ratematch.plan.rules import check_placement
from ratematch.plan.sweep import Sweep


@dataclass(frozen=True)
class LaunchVerdict:
    """``refusals``: why an experiment cannot run. ``doubts``: what a person should know though nothing is refused."""

    refusals: tuple[str, ...]
    doubts: tuple[str, ...] = ()


def judge_launch(sweep: Sweep, experiment: Experiment, installed: InstalledSchema | None = None) -> LaunchVerdict:
    """What is known of the launch of one of the sweep's experiments, on made-up nodes. ``installed``: what the
    servers' own package says it takes, where it was asked."""
    engine = find_engine(experiment.engine.key)
    nodes = [f"node{index}" for index in range(nodes_on(experiment.deployment, sweep.cluster))]
    try:
        placement = place(experiment.deployment, sweep.cluster, nodes, 8000)
    except PlacementError as error:
        return LaunchVerdict((str(error),))
    plan = engine.plan_launch(experiment, placement, sweep.cluster, 1.0)
    model = sweep.model_under(experiment.workload.precision)
    refusals = (
        *check_placement(placement, sweep.cluster.gpus_per_node, sweep.cluster.packing),
        *engine.check_launch(plan, experiment, model, installed),
        *why_unfit(experiment, model, sweep.gpu, engine.kv_settings),
    )
    doubts = (
        ()
        if refusals
        else (*engine.doubt_launch(plan, experiment, model, installed), *_doubt_precision(sweep, model))
    )
    return LaunchVerdict(refusals, doubts)


def _doubt_precision(sweep: Sweep, model: Model) -> list[str]:
    """Weights in a format that the GPUs do not compute in: some engines widen them, others refuse them."""
    precision = default_precision(model, sweep.gpu)
    try:
        rate_of(sweep.gpu, precision)
    except ValueError:
        return [
            f"{sweep.gpu.name} does not compute in {precision}, the precision of {model.name}: TensorRT-LLM refuses "
            "such weights, vLLM widens some of them; nothing is predicted for them"
        ]
    return []
