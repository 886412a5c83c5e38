"""One front over another, with intervals from fronts drawn again (:mod:`ratematch.match.bootstrap`).

Comparisons hold on the overlap of interactivity only; hypervolume counts all of both fronts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ratematch.match.noise import Floats, Noise, draw, interval_about
from ratematch.match.pareto import (
    Front,
    extract_front,
    find_overlap,
    hypervolume,
    interactivity_at,
    log_grid,
    overlap_area_ratio,
    speed_up,
)
from ratematch.match.points import Comparison, EqualThroughput, Kind, Speedup

GRID = 9
"""Interactivities (and throughputs) at which fronts are compared, log-spaced over their overlap; of interactivities
also those where the linear ratio is smallest and largest."""

ENOUGH = 0.9
"""Share of draws in which a comparison must exist for an interval: from fewer it would be one of those draws only."""

Drawn = Sequence[tuple[Front, Front]]
"""In each bootstrap draw, both fronts."""


def pair_draws(a: Sequence[Front], b: Sequence[Front]) -> Drawn:
    """Both fronts draw by draw; empty when the noise of either is not known."""
    return list(zip(a, b, strict=True)) if a and b else ()


def compare_fronts(kind: Kind, a: Front, b: Front, drawn: Drawn = ()) -> list[Speedup]:
    """tok/s/GPU of ``a`` over ``b`` at equal tok/s/user, step and linear; empty without an overlap."""
    overlap = find_overlap(a, b)
    if overlap is None:
        return []
    places = {float(u) for u in log_grid(*overlap, GRID)} | set(_extreme_places(a, b))
    return [_compare_at(kind, a, b, u, drawn) for u in sorted(places)]


def _compare_at(kind: Kind, a: Front, b: Front, u: float, drawn: Drawn) -> Speedup:
    pairs = [speed_up(x, y, u) for x, y in drawn]
    step, linear = speed_up(a, b, u)
    steps, lines = _span(step, [a for a, _ in pairs]), _span(linear, [b for _, b in pairs])
    return Speedup(kind, u, step, linear, *steps, *lines)


def _extreme_places(a: Front, b: Front) -> tuple[float, float] | tuple[()]:
    """tok/s/user where ``a`` over ``b``, both linear, is smallest and where it is largest.

    Between neighbouring points both are lines and their ratio is monotone, so both lie at points of the fronts or at
    the ends of the overlap.
    """
    overlap = find_overlap(a, b)
    if overlap is None:
        return ()
    places = {*overlap, *(u for front in (a, b) for u, _ in front if overlap[0] < u < overlap[1])}
    us = np.array(sorted(places))
    # All places at once: the front of a large site has as many points as it has ratios.
    above, below = (np.interp(us, *np.array(front).T) for front in (a, b))
    us, ratios = us[below > 0], above[below > 0] / below[below > 0]
    if not us.size:
        return ()
    return float(us[np.argmin(ratios)]), float(us[np.flatnonzero(ratios == ratios.max())[-1]])


def sum_up(kind: Kind, a: Front, b: Front, drawn: Drawn = ()) -> Comparison | None:
    """The whole of ``a`` over the whole of ``b``: hypervolume and overlap area, and interactivity at equal tok/s/GPU.

    ``None`` when a front is empty. Hypervolume is against (0, 0) on linear axes: its ratio depends on both.
    """
    if not a or not b:
        return None

    def volume(x: Front, y: Front) -> float | None:
        return hypervolume(x) / hypervolume(y) if x and y else None

    low, high = max(a[-1][1], b[-1][1]), min(a[0][1], b[0][1])
    levels = [float(p) for p in log_grid(low, high, GRID)] if low <= high else []
    return Comparison(
        kind=kind,
        hypervolume_ratio=volume(a, b),
        hypervolume_interval=_ends(volume, a, b, drawn),
        area_ratio=overlap_area_ratio(a, b),
        area_interval=_ends(overlap_area_ratio, a, b, drawn),
        interactivity=tuple(row for p in levels if (row := _at_equal_throughput(a, b, p, drawn)) is not None),
    )


def _at_equal_throughput(a: Front, b: Front, p: float, drawn: Drawn) -> EqualThroughput | None:
    ratio = _interactivity(a, b, p)
    if ratio is None:
        return None
    return EqualThroughput(p, ratio, *_span(ratio, [_interactivity(x, y, p) for x, y in drawn]))


def _interactivity(a: Front, b: Front, p: float) -> float | None:
    first, second = interactivity_at(a, p), interactivity_at(b, p)
    return first / second if first and second else None


def _ends(of: Callable[[Front, Front], float | None], a: Front, b: Front, drawn: Drawn) -> tuple[float, float] | None:
    low, high = _span(of(a, b), [of(x, y) for x, y in drawn])
    return None if low is None or high is None else (low, high)


def _span(estimate: float | None, values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    if not estimate or not known or len(known) < ENOUGH * len(values):
        return None, None
    return interval_about(estimate, np.array(known))


def draw_measured_fronts(
    points: Sequence[tuple[float, float]], noises: Sequence[Noise | None], *, draws: int, seed: int
) -> list[list[tuple[float, float]]]:
    """Fronts of measured (u, p) points as they might have been: both move with the rate, at the same concurrency."""
    rng = np.random.default_rng(seed)
    factors: list[Floats] = [draw(noise, draws, rng) for noise in noises]
    return [
        list(
            extract_front(
                [(u * float(f[k]), p * float(f[k])) for (u, p), f in zip(points, factors, strict=True)],
                lambda point: point,
            )
        )
        for k in range(draws)
    ]
