"""The launch plan of an experiment in virtual time: what would be launched, without launching anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ratematch.engines import find_engine
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import FIRST_PORT, nodes_on, place, placement_to_json
from ratematch.simulate.compiled.build import make_ready
from ratematch.store import layout
from ratematch.store.files import write_json, write_text


def plan_simulation(
    experiment: Experiment, cluster: Cluster, launch: Path | None = None, *, forecast: bool = False
) -> LaunchPlan:
    """What a launch would write and start, for the emulator; written to ``launch``, where that is given.
    ``forecast``: for a forecast, which does not run it in virtual time. Else what runs it is made ready: the
    compiled loop is built, where it is not there yet.

    Without it this is a forecast of real servers, whose image may take keys that no shipped contract knows. The
    emulator knows nothing of them either: it goes without, as without those that a sweep marks ``!unchecked``.

    Raises:
        UserError: the engine would refuse it. PlacementError: it does not fit on the cluster.
    """
    engine = find_engine(experiment.engine.key)
    if not forecast and (why := engine.why_no_simulation()):
        raise UserError(f"{experiment.engine.name} cannot be simulated: {why}")
    stand_in = replace(cluster, emulated=True)
    nodes = [f"node{index}" for index in range(nodes_on(experiment.deployment, cluster))]
    placement = place(experiment.deployment, stand_in, nodes, FIRST_PORT)  # nothing listens on these ports
    experiment = replace(experiment, model_path=experiment.model)  # nobody reads the weights, wherever they are
    plan = engine.plan_launch(experiment, placement, stand_in, 1.0)
    refused = engine.check_launch(plan, experiment)
    if refused and launch is None and not cluster.emulated:
        experiment = _without_unknown_keys(experiment, refused)
        plan = engine.plan_launch(experiment, placement, stand_in, 1.0)
        refused = engine.check_launch(plan, experiment)
    if refused:
        raise UserError("the engine would refuse its files: " + "; ".join(refused))
    if not forecast:
        make_ready()
    if launch is not None:
        for file in plan.files:
            write_text(launch / file.path, file.content)
        write_json(launch / layout.PLACEMENT, placement_to_json(placement))
    return plan


def _without_unknown_keys(experiment: Experiment, refused: Sequence[str]) -> Experiment:
    """``experiment`` with the keys that ``refused`` names (``gen.yaml: kv_cache_config.new: ...``) left unchecked."""
    named = [(file, rest.partition(":")[0]) for file, _, rest in (line.partition(": ") for line in refused)]

    def of(group: ServerGroup | None) -> ServerGroup | None:
        if group is None:
            return None
        keys = (key for file, key in named if file == f"{group.role}.yaml")
        return replace(group, unchecked=(*group.unchecked, *keys))

    whole = experiment.deployment
    deployment = replace(whole, ctx=of(whole.ctx), gen=of(whole.gen), agg=of(whole.agg))
    return replace(experiment, deployment=deployment)
