"""The launch plan of an experiment in virtual time: what would be launched, without launching anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ratematch.engines import find_engine
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import FIRST_PORT, nodes_on, place, placement_to_json
from ratematch.store import layout
from ratematch.store.files import write_json, write_text


def plan_simulation(experiment: Experiment, cluster: Cluster, launch: Path | None = None) -> LaunchPlan:
    """What a launch would write and start, for the emulator; written to ``launch``, where that is given.

    Raises:
        UserError: the engine would refuse it. PlacementError: it does not fit on the cluster.
    """
    engine = find_engine(experiment.engine.name)
    if why := engine.why_no_simulation():
        raise UserError(f"{experiment.engine.name} cannot be simulated: {why}")
    stand_in = replace(cluster, emulated=True)
    nodes = [f"node{index}" for index in range(nodes_on(experiment.deployment, cluster))]
    placement = place(experiment.deployment, stand_in, nodes, FIRST_PORT)  # nothing listens on these ports
    weightless = replace(experiment, model_path=experiment.model)  # nobody reads the weights, wherever they are
    plan = engine.plan_launch(weightless, placement, stand_in, 1.0)
    if refused := engine.check_launch(plan, experiment):
        raise UserError("the engine would refuse its files: " + "; ".join(refused))
    if launch is not None:
        for file in plan.files:
            write_text(launch / file.path, file.content)
        write_json(launch / layout.PLACEMENT, placement_to_json(placement))
    return plan
