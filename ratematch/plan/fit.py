"""Whether the servers of a whole deployment hold what they are asked to: for those that nothing thins out."""

from __future__ import annotations

from collections.abc import Callable

from ratematch.plan.capacity import KvSettings, find_capacity
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.model import Gpu, Model


def why_unfit(
    experiment: Experiment, model: Model, gpu: Gpu, kv_of: Callable[[ServerGroup], KvSettings]
) -> list[str]:
    """Why the deployment cannot run its workload, with the sum; empty when it can.

    Each server must hold one request at least. In gen_only it must hold its whole share of every load, because it
    waits for that share before its first step; elsewhere more requests than slots only wait, as prompts in flight do.
    """
    found = []
    for group in experiment.deployment.groups:
        try:
            capacity = find_capacity(group, experiment.workload, model, gpu, kv_of(group))
        except ValueError as error:
            found.append(f"{group.role}: {error}")
            continue
        if capacity.requests < 1:
            found.append(f"{group.role} {group.mapping.label}: {capacity.explanation}")
        elif experiment.mode == "gen_only" and group.role == "gen":
            most = max((load.concurrency for load in experiment.loads if isinstance(load, Concurrency)), default=0)
            share = most // group.instances
            if share > capacity.requests:
                waits = f"waits for {most} / {group.instances} servers = {share} requests before its first step"
                found.append(
                    f"gen {group.mapping.label}: {waits}, and holds {capacity.requests}: {capacity.explanation}"
                )
    return found
