"""Fronts of measured rows: which rows may stand on one, and how it might have looked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ratematch.match.compare import draw_measured_fronts
from ratematch.match.figures import OVER_LIMIT
from ratematch.match.noise import Noise
from ratematch.match.objective import OVER_BUDGET
from ratematch.match.pareto import extract_front
from ratematch.match.points import DrawnFronts, Point, objectives


@dataclass(frozen=True)
class MeasuredFront:
    """``points``: every row. ``front``: ascending tok/s/user. ``draws``: the front of each bootstrap draw, empty when
    the noise of no row is known."""

    points: tuple[Point, ...]
    front: tuple[Point, ...]
    draws: DrawnFronts


def measure_front(rows: Sequence[tuple[Point, Noise | None]], *, draws: int, seed: int) -> MeasuredFront:
    """The front of measured ``rows``, each with the noise of its rate."""
    allowed = [(point, noise) for point, noise in rows if may_stand(point)]
    points, noises = [point for point, _ in allowed], [noise for _, noise in allowed]
    drawn: DrawnFronts = ()
    if draws and any(noises):
        fronts = draw_measured_fronts([objectives(p) for p in points], noises, draws=draws, seed=seed)
        drawn = tuple(tuple(front) for front in fronts)
    return MeasuredFront(tuple(point for point, _ in rows), make_front(points), drawn)


def may_stand(point: Point) -> bool:
    """Whether a measured row keeps the limits and the budget."""
    return not any(flag.startswith((OVER_LIMIT, OVER_BUDGET)) for flag in point.flags)


def make_front(points: Iterable[Point]) -> tuple[Point, ...]:
    """Without dominated or duplicate rows, ascending tok/s/user; of equals the one with fewer GPUs, then TTFT."""
    return extract_front(
        points, objectives, prefer=lambda p: (len(p.flags), p.gpus, p.ttft_ms, p.label, p.sources, p.req_s)
    )
