"""Which deployment to run for a given tok/s/user, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ratematch.match.pareto import step_at
from ratematch.match.points import Point, WorkloadAnalysis, objectives

TARGETS = (20.0, 50.0, 100.0)
"""tok/s/user at which a report recommends a deployment when nobody names others."""

WORTH_NAMING = 1.02
"""A predicted deployment is named beside the measured one when it has this much more tok/s/GPU."""


@dataclass(frozen=True)
class Recommendation:
    """The best deployment whose users get ``at`` tok/s or more; ``point`` is ``None`` when none does.

    Measured deployments come before predicted ones. ``over_ifb``: its tok/s/GPU over the best IFB point that reaches
    ``at`` (``None``: no IFB point does, or it is the IFB point itself). ``promising``: a predicted deployment that
    was not measured and promises more. ``fastest``: most tok/s/user that anything reaches. ``beaten``: disaggregated
    deployments were measured end to end at ``at``, and the IFB point is better.
    """

    at: float
    point: Point | None
    over_ifb: float | None = None
    promising: Point | None = None
    fastest: float | None = None
    beaten: bool = False

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
    ifb = step_at([objectives(p) for p in workload.ifb], at)
    over = point.tok_s_gpu / ifb if ifb and point.kind != "ifb" else None
    better = predicted if predicted is not None and predicted.tok_s_gpu > WORTH_NAMING * point.tok_s_gpu else None
    promising = better if measured is not None and better is not None and better.label != point.label else None
    beaten = point.kind == "ifb" and _best(workload.end_to_end, at) is not None
    return Recommendation(at, point, over, promising, fastest, beaten)


def recommend_all(workload: WorkloadAnalysis, targets: Iterable[float] = TARGETS) -> list[Recommendation]:
    return [recommend(workload, at) for at in sorted(set(targets))]


def _best(points: Sequence[Point], at: float) -> Point | None:
    reached = [point for point in points if point.tok_s_user >= at]
    return max(reached, key=lambda point: (point.tok_s_gpu, point.tok_s_user, -point.gpus), default=None)
