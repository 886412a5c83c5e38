"""Fronts of (tok/s/user, tok/s/GPU): both are to be maximised.

``u`` is interactivity in tok/s/user, ``p`` throughput in tok/s/GPU. A front is a sequence of (u, p), u strictly
ascending and p strictly falling.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Front = Sequence[tuple[float, float]]


def extract_front(
    items: Iterable[T],
    objectives: Callable[[T], tuple[float, float]],
    prefer: Callable[[T], tuple[object, ...]] = lambda item: (),
) -> tuple[T, ...]:
    """The items that no other dominates, ascending in u; of items with equal objectives only one.

    Dominated: another item is at least as good in both objectives and better in one. ``prefer``: sort key that
    decides between equal ones (smallest first); with a total order the result does not depend on the items' order.
    """

    def order(pair: tuple[tuple[float, float], T]) -> tuple[object, ...]:
        (u, p), item = pair
        return (-u, -p, *prefer(item))

    best = float("-inf")
    front: list[T] = []
    for (_, p), item in sorted(((objectives(item), item) for item in items), key=order):
        if p > best:
            best = p
            front.append(item)
    return tuple(reversed(front))


CLEARLY = 1e-9
"""Share by which a point beats another beyond the last digits of a float."""


def not_beaten(points: Front) -> list[int]:
    """Which of many points (in any order) no other beats clearly in both: all of the front are among them."""
    if not points:
        return []
    u, p = np.array(points, dtype=np.float64).T
    order = np.argsort(-u, kind="stable")
    best = np.concatenate([[0.0], np.maximum.accumulate(p[order])])
    faster = np.searchsorted(-u[order], -u * (1 + CLEARLY), side="left")
    return [int(k) for k in np.flatnonzero(p >= best[faster] * (1 - CLEARLY))]


def step_at(front: Front, u: float) -> float | None:
    """Most tok/s/GPU with ``u`` tok/s/user or more: what one configuration achieves under that SLO.

    ``None`` above the highest u of the front.
    """
    at = bisect_left(front, u, key=_u)
    return front[at][1] if at < len(front) else None


def _u(point: tuple[float, float]) -> float:
    return point[0]


def linear_at(front: Front, u: float) -> float | None:
    """tok/s/GPU at ``u`` on the line between neighbouring points: the convention of plots, no configuration has it.

    ``None`` outside the front: never extrapolated.
    """
    if not front or not front[0][0] <= u <= front[-1][0]:
        return None
    at = bisect_left(front, u, key=_u)
    us, ps = zip(*front[max(0, at - 1) : at + 1], strict=True)
    return float(np.interp(u, us, ps))


def find_hole(front: Front, u: float, fall: float = 0.1) -> tuple[float, float] | None:
    """The neighbouring points of ``front`` around ``u`` between which tok/s/GPU falls by more than ``fall`` (a
    share): what it is at ``u``, nobody measured. ``None`` where a point lies at ``u``, or outside the front."""
    for (low, before), (high, after) in pairwise(front):
        if low < u < high:
            return (low, high) if after < (1 - fall) * before else None
    return None


def find_overlap(a: Front, b: Front) -> tuple[float, float] | None:
    """The range of u that both fronts cover; ``None`` when there is none."""
    if not a or not b:
        return None
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    return (low, high) if low <= high else None


def speed_up(a: Front, b: Front, u: float) -> tuple[float | None, float | None]:
    """(step, linear) ratio of tok/s/GPU of ``a`` over ``b`` at equal ``u``; ``None`` outside the overlap."""
    overlap = find_overlap(a, b)
    if overlap is None or not overlap[0] <= u <= overlap[1]:
        return None, None
    return _ratio(step_at(a, u), step_at(b, u)), _ratio(linear_at(a, u), linear_at(b, u))


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def interactivity_at(front: Front, p: float) -> float | None:
    """The dual of :func:`step_at`: highest tok/s/user with ``p`` tok/s/GPU or more; ``None`` above the front."""
    reached = bisect_right(front, -p, key=lambda point: -point[1])
    return front[reached - 1][0] if reached else None


def hypervolume(front: Front, reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """Area that the front dominates above ``reference``: sum of (u_k - u_{k-1}) x p_k, tok/s/user x tok/s/GPU.

    Ratios of hypervolumes depend on the reference and on linear axes. Points below the reference count nothing.
    """
    area, last_u = 0.0, reference[0]
    for u, p in front:
        if u > last_u and p > reference[1]:
            area += (u - last_u) * (p - reference[1])
            last_u = u
    return area


def overlap_area_ratio(a: Front, b: Front) -> float | None:
    """Area under ``a`` over area under ``b``, both linear, on the overlap of u only; ``None`` without an overlap."""
    overlap = find_overlap(a, b)
    if overlap is None or overlap[0] == overlap[1]:
        return None
    return _area(a, *overlap) / _area(b, *overlap)


def _area(front: Front, low: float, high: float) -> float:
    us, ps = (np.array(values) for values in zip(*front, strict=True))
    grid = np.array([low, *us[(us > low) & (us < high)], high])
    heights = np.interp(grid, us, ps)
    return float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(grid)))


def log_grid(low: float, high: float, num: int) -> NDArray[np.float64]:
    """``num`` values from ``low`` to ``high``, equally spaced in logarithm; one value when both are equal."""
    if low == high:
        return np.array([low])
    grid = np.geomspace(low, high, num)
    grid[0], grid[-1] = low, high  # geomspace may leave the range by the last digit
    return grid
