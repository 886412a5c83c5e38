"""What can be refused before anything is started: files the engine would not take, weights that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratematch.engines import find_engine
from ratematch.errors import PlacementError, Problem, SweepError
from ratematch.plan.experiment import Experiment
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.sweep import Expansion, Sweep, expand


def expand_sweep(sweep: Sweep) -> Expansion:
    """The sweep's experiments, with what its engine does with memory taken into account."""
    return expand(sweep, find_engine(sweep.engine.name).kv_settings)


def refuse_unlaunchable(sweep: Sweep, experiments: Sequence[Experiment], *, here: bool) -> None:
    """Render every experiment on made-up nodes and let the engine's contract judge the files.

    ``here``: servers will start on this machine, so a weights path can be looked for.

    Raises:
        SweepError: with every different problem once, and the first experiment that has it.
    """
    problems: dict[str, Problem] = {}
    if here and "/" in sweep.model_path and not Path(sweep.model_path).exists():
        where = f"{sweep.source}: model"
        fix = "give the folder of the checkpoint, or model_paths in the cluster profile"
        problems["path"] = Problem(where, f"{sweep.model_path} does not exist", fix)
    for experiment in experiments:
        for what in _refusals(sweep, experiment):
            problems.setdefault(
                what, Problem(f"{sweep.source}: {experiment.stage} {experiment.deployment.label}", what)
            )
    if problems:
        raise SweepError(list(problems.values()))


def _refusals(sweep: Sweep, experiment: Experiment) -> list[str]:
    engine = find_engine(experiment.engine.name)
    nodes = [f"node{index}" for index in range(nodes_needed(experiment.deployment, sweep.cluster.gpus_per_node))]
    try:
        placement = place(experiment.deployment, sweep.cluster, nodes, 8000)
    except PlacementError as error:
        return [str(error)]
    return engine.check_launch(engine.plan_launch(experiment, placement, sweep.cluster, 1.0), experiment)
