"""Which deployment to run for a given tok/s/user, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ratematch.match.pareto import find_hole, linear_at, step_at
from ratematch.match.points import Point, WorkloadAnalysis, objectives

TARGETS = (20.0, 50.0, 100.0)
"""tok/s/user at which a report recommends a deployment when nobody names others."""

LEAST_NOISE, MOST_NOISE = 0.02, 0.05
"""A measured point this much (a share) below a target is taken to reach it; more, up to the second, where its own
interval is wider. Repeats of a load on real servers differ by 0.1 to 4 %; an interval inside one load says less."""

WORTH_NAMING = 1.02
"""A predicted deployment is named beside the measured one when it has this much more tok/s/GPU."""


@dataclass(frozen=True)
class Between:
    """A measured deployment between two of its loads that lie on either side of a speed: ``slow`` and ``fast``, and
    the tok/s/GPU on the line between them, which nobody measured."""

    slow: Point
    fast: Point
    tok_s_gpu: float


@dataclass(frozen=True)
class Recommendation:
    """The best deployment whose users get ``at`` tok/s or more, within noise; ``point`` is ``None`` when none does.

    Measured deployments come before predicted ones. ``over_ifb``: its tok/s/GPU over that of the IFB front at
    ``at``, read between its neighbouring points (``None``: the front ends before, or it is the IFB point itself).
    ``promising``: a predicted deployment that was not measured and promises more. ``fastest``: most tok/s/user that
    anything reaches. ``beaten``: disaggregated deployments were measured end to end at ``at``, and the IFB point is
    better than the line between their points. ``between``: what promises more than ``point`` on the line between
    two of its own loads. ``hole``: tok/s/user of the IFB points around ``at`` when they are so far apart that
    ``over_ifb`` rests on the line between them.
    """

    at: float
    point: Point | None
    over_ifb: float | None = None
    promising: Point | None = None
    fastest: float | None = None
    beaten: bool = False
    hole: tuple[float, float] | None = None
    between: Between | None = None

    @property
    def measured(self) -> bool:
        return self.point is not None and self.point.kind != "rate_matched"


def recommend(workload: WorkloadAnalysis, at: float) -> Recommendation:
    """The deployment to run for users who want ``at`` tok/s each: most tok/s/GPU among those that give it."""
    fronts = (*workload.end_to_end, *workload.ifb, *workload.rate_matched)
    fastest = max((point.tok_s_user for point in fronts), default=None)
    measured = _best((*workload.end_to_end, *workload.ifb), at)
    predicted = _best(workload.rate_matched, at)
    point = measured or predicted
    if point is None:
        return Recommendation(at, None, fastest=fastest)
    ifb_front = [objectives(p) for p in workload.ifb]
    ifb = linear_at(ifb_front, at) or step_at(ifb_front, at)
    over = point.tok_s_gpu / ifb if ifb and point.kind != "ifb" else None
    hole = find_hole(ifb_front, at) if over is not None else None
    better = predicted if predicted is not None and predicted.tok_s_gpu > WORTH_NAMING * point.tok_s_gpu else None
    promising = better if measured is not None and better is not None and better.label != point.label else None
    between = _between(workload, at, point) if measured is not None else None
    beaten = point.kind == "ifb" and _best(workload.end_to_end, at) is not None
    beaten = beaten and (between is None or between.slow.kind == "ifb")
    return Recommendation(at, point, over, promising, fastest, beaten, hole, between)


def _between(workload: WorkloadAnalysis, at: float, point: Point) -> Between | None:
    """The measured deployment with most tok/s/GPU on the line between its loads around ``at``, where that is worth
    naming beside ``point``: by the step alone the better of two may look the worse where points are far apart."""
    lines = [
        Between(slow, fast, linear_at([objectives(slow), objectives(fast)], at) or 0.0)
        for front in (workload.end_to_end, workload.ifb)
        for slow, fast in pairwise(sorted(front, key=objectives))
        if slow.label == fast.label and slow.tok_s_user < at < fast.tok_s_user
    ]
    best = max(lines, key=lambda line: line.tok_s_gpu, default=None)
    return best if best is not None and best.tok_s_gpu > WORTH_NAMING * point.tok_s_gpu else None


def recommend_all(workload: WorkloadAnalysis, targets: Iterable[float] = TARGETS) -> list[Recommendation]:
    return [recommend(workload, at) for at in sorted(set(targets))]


def _best(points: Sequence[Point], at: float) -> Point | None:
    reached = [point for point in points if point.tok_s_user >= at * (1 - _noise(point))]
    return max(reached, key=lambda point: (point.tok_s_gpu, point.tok_s_user, -point.gpus), default=None)


def _noise(point: Point) -> float:
    """By how much (a share) another run of ``point`` may differ; what is predicted has none. At one concurrency
    tok/s/user and tok/s/GPU move together."""
    if point.kind == "rate_matched":
        return 0.0
    low, high = point.tok_s_gpu_low, point.tok_s_gpu_high
    half = (high - low) / 2 / point.tok_s_gpu if low is not None and high is not None else 0.0
    return min(max(half, LEAST_NOISE), MOST_NOISE)
