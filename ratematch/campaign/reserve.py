"""GPU-hours that are kept for end-to-end runs while ctx and gen servers are searched, and which run is sent first.

Runs and servers spend one budget, so both are held against the same price: the share of the front that a GPU-hour
must bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ratematch.campaign.decisions import ReservedHours
from ratematch.campaign.endtoend import EndToEnd
from ratematch.campaign.turn import Turn
from ratematch.match.choose import RunChoice
from ratematch.plan.workload import Workload
from ratematch.search.decide import Choice as ServerChoice
from ratematch.search.price import Pricing, settle_price
from ratematch.search.view import View


@dataclass
class _RunCost:
    """GPU-hours of the end-to-end runs that would be worth it at a pricing of one workload's hours.

    ``choices``: those runs, as of the last call.
    """

    runs: EndToEnd
    workload: Workload
    gpu_hours: float
    turn: Turn
    choices: list[RunChoice] = field(default_factory=list)

    def __call__(self, pricing: Pricing) -> float:
        self.choices = self.runs.worth(self.turn, self.workload, pricing, self.gpu_hours)
        return sum(choice.gpu_hours for choice in self.choices)


def reserve_hours(
    runs: EndToEnd, turn: Turn, workload: Workload, view: View, gpu_hours: float, before: float
) -> tuple[Pricing, ReservedHours]:
    """The pricing of the ``gpu_hours`` of ``workload``, and what it keeps of them for end-to-end runs.

    ``before``: GPU-hours that were kept at the last decision; most often they still hold.
    """
    cost = _RunCost(runs, workload, gpu_hours, turn)
    pricing, kept = settle_price(view, gpu_hours, cost, before)
    return pricing, ReservedHours(kept, pricing.price, tuple(choice.deployment.label for choice in cost.choices))


def best_runs(
    runs: EndToEnd,
    turn: Turn,
    pricings: Mapping[str, Pricing],
    reserved: Mapping[str, ReservedHours],
    gpu_hours: float,
) -> dict[str, RunChoice]:
    """By workload, the end-to-end run of measured servers that brings most per GPU-hour, if that is worth its price.

    ``pricings``, ``reserved``: see :func:`reserve_hours`, by workload. ``gpu_hours``: all that are left.
    """
    best: dict[str, RunChoice] = {}
    for workload in runs.sweep.workloads:
        label = workload.label
        others = sum(hours.gpu_hours for other, hours in reserved.items() if other != label)
        if run := runs.find_next(turn, workload, pricings[label], max(0.0, gpu_hours - others)):
            best[label] = run
    return best


def why_wait(run: RunChoice, server: ServerChoice | None, *, alone: bool) -> str | None:
    """Why an end-to-end run is not sent before ``server``, the one that would be started next; ``None``: it is sent.

    ``alone``: nothing else is under way.
    """
    worth = f"{run.share_per_hour:.2%} of the front a GPU-hour, with a chance of {run.chance:.0%} to stay on it"
    if server is None:
        return "servers are searched to the end: chosen with what IFB shows" if alone else None
    if server.urgency[0]:
        return f"{worth}; {server.label} comes first: without it nothing is known of its family"
    if server.gain / server.gpu_hours >= run.share_per_hour:
        return f"{worth}; {server.label} brings {server.gain / server.gpu_hours:.2%}"
    return None
