"""Which deployments may be the best where one will be chosen: at a given tok/s/user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ratematch.match.gain import DIFFERS
from ratematch.match.pareto import Front, step_at
from ratematch.match.points import Point

Key = tuple[tuple[str, ...], int, int]
"""Which servers were measured for a deployment (ctx, gen), and how many of each it has."""

MOST = 40
"""For one tok/s/user: more than these are never run."""


def key_of(point: Point) -> Key:
    return point.sources, point.ctx, point.gen


def find_fullest(points: Iterable[Point]) -> dict[Key, Point]:
    """Of each deployment the row with most tok/s/GPU."""
    best: dict[Key, Point] = {}
    for point in points:
        key = key_of(point)
        if key not in best or point.tok_s_gpu > best[key].tok_s_gpu:
            best[key] = point
    return best


def find_contenders(plans: Sequence[Point], front: Front, choose_at: Sequence[float]) -> dict[Key, list[Point]]:
    """By deployment, the rows of ``plans`` at the tok/s/user of ``choose_at`` for which it may turn out the best.

    A row at u is the one with most tok/s/GPU of those that are as fast. A deployment may be the best where it is
    predicted within what deployments usually differ from their prediction of the rate-matched ``front``.
    """
    found: dict[Key, list[Point]] = {}
    for speed in choose_at:
        best = step_at(front, speed)
        if best is None:
            continue
        rows = find_fullest(point for point in plans if point.tok_s_user >= speed)
        near = [point for point in rows.values() if point.tok_s_gpu >= (1 - DIFFERS) * best]
        for point in sorted(near, key=lambda point: (-point.tok_s_gpu, point.label))[:MOST]:
            found.setdefault(key_of(point), []).append(point)
    return found
