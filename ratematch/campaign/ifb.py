"""Which aggregated servers an adaptive sweep measures: those that are predicted to make the IFB front.

They are what deployments are compared with, so they are chosen by their own front, out of a share of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ratematch.campaign.decisions import IfbChoice, SkippedServer
from ratematch.match.pareto import extract_front, hypervolume
from ratematch.plan.budget import minutes_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.plan.sweep import Sweep
from ratematch.simulate.forecasts import forecast_experiment

IFB_CLOSE = 0.25
"""An aggregated server is measured when it is predicted to come this near to the IFB front at some load; within a
budget, at the loads where it does."""
IFB_SHARE = 0.2
"""Of the budget, at most, for aggregated servers; one of each workload is measured in any case."""

Curve = Mapping[Load, tuple[float, float]]
"""Of one server: predicted tok/s/user and tok/s/GPU, by load."""


def choose_ifb(sweep: Sweep, experiments: Sequence[Experiment]) -> tuple[list[Experiment], list[SkippedServer]]:
    """Aggregated servers worth measuring, at which loads, and why the others are left out."""
    chosen: list[Experiment] = []
    skips: list[SkippedServer] = []
    for workload in dict.fromkeys(experiment.workload for experiment in experiments):
        mine = [experiment for experiment in experiments if experiment.workload == workload]
        curves = {experiment.id: _curve(sweep, experiment) for experiment in mine}
        near, far = _near_the_front(mine, curves)
        skips += far
        if sweep.budget.gpu_hours is None:
            chosen += near
            continue
        taken, dear = _within(sweep, near, curves, IFB_SHARE * sweep.budget.gpu_hours / len(sweep.workloads))
        chosen += taken
        skips += dear
    return chosen, skips


def keep_left_out(
    before: IfbChoice | None,
    budget_gpu_hours: float | None,
    chosen: Sequence[Experiment],
    skips: Sequence[SkippedServer],
) -> tuple[list[Experiment], list[SkippedServer]]:
    """``chosen`` without what was left out ``before`` with the same budget, and the others with the reason of then: a
    sweep that was over is not to go on because forecasts have become other ones."""
    if before is None or before.budget_gpu_hours not in (None, budget_gpu_hours):
        return list(chosen), list(skips)
    left_out = {skip.experiment: skip for skip in before.skips}
    stay = [left_out[experiment.id] for experiment in chosen if experiment.id in left_out]
    return [experiment for experiment in chosen if experiment.id not in left_out], [*skips, *stay]


def _curve(sweep: Sweep, experiment: Experiment) -> Curve:
    gpus = experiment.deployment.gpus
    return {
        load: (1 / forecast.tpot_s, forecast.req_s * forecast.osl / gpus)
        for load, forecast in forecast_experiment(experiment, sweep.cluster, sweep.step_times).items()
        if forecast.tpot_s
    }


def _near_the_front(
    experiments: Sequence[Experiment], curves: Mapping[str, Curve]
) -> tuple[list[Experiment], list[SkippedServer]]:
    """Servers that come near the front of all of them at some load, and why the others are left out."""
    near, skips = [], []
    for experiment in experiments:
        nearest = max((_nearness(point, curves) for point in curves[experiment.id].values()), default=1.0)
        if nearest >= 1 - IFB_CLOSE:
            near.append(experiment)
        else:
            skips.append(
                _skip(experiment, f"promises at most {nearest:.0%} of the predicted IFB front at its tok/s/user")
            )
    return near, skips


def _nearness(point: tuple[float, float], curves: Mapping[str, Curve]) -> float:
    """tok/s/GPU over the best that is predicted of any server at that tok/s/user or better."""
    speed, value = point
    return value / max(v for curve in curves.values() for u, v in curve.values() if u >= speed)


def _within(
    sweep: Sweep, experiments: Sequence[Experiment], curves: Mapping[str, Curve], gpu_hours: float
) -> tuple[list[Experiment], list[SkippedServer]]:
    """The servers that add most to the predicted front per GPU-hour, within ``gpu_hours``, at their loads near it."""
    left = {
        experiment.id: replace(
            experiment,
            loads=tuple(
                load
                for load in experiment.loads
                if load not in curves[experiment.id]
                or _nearness(curves[experiment.id][load], curves) >= 1 - IFB_CLOSE
            ),
        )
        for experiment in experiments
    }
    whole = hypervolume(extract_front([p for c in curves.values() for p in c.values()], lambda point: point)) or 1.0
    chosen: list[Experiment] = []
    points: list[tuple[float, float]] = []
    while left:
        gains = {name: _gain(points, curves[name], server.loads) / whole for name, server in left.items()}
        costs = {name: _gpu_hours(sweep, server) for name, server in left.items()}
        fitting = [name for name in left if costs[name] <= gpu_hours or not chosen]
        best = max(fitting, key=lambda name: (gains[name] / costs[name], name), default=None)
        if best is None or (points and gains[best] <= 0):
            break
        server = left.pop(best)
        chosen.append(server)
        points += [curves[best][load] for load in server.loads if load in curves[best]]
        gpu_hours -= costs[best]
    skips = []
    for name, server in left.items():
        gain = f"{_gain(points, curves[name], server.loads) / whole:.1%} to the predicted IFB front"
        rest = f"{max(0.0, gpu_hours):.3g} are left for IFB"
        skips.append(_skip(server, f"it would add {gain} for {_gpu_hours(sweep, server):.3g} GPU-hours, and {rest}"))
    return chosen, skips


def _gpu_hours(sweep: Sweep, experiment: Experiment) -> float:
    return minutes_of(sweep, experiment) * experiment.deployment.gpus / 60


def _gain(points: Sequence[tuple[float, float]], curve: Curve, loads: Sequence[Load]) -> float:
    """Area that a server adds to the front of ``points``."""
    own = [curve[load] for load in loads if load in curve]
    before, after = (extract_front(some, lambda point: point) for some in (points, [*points, *own]))
    return hypervolume(after) - hypervolume(before)


def _skip(experiment: Experiment, why: str) -> SkippedServer:
    return SkippedServer(experiment.workload.label, experiment.id, experiment.label, why)
