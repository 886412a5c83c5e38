"""Fronts as arrays: what whole instances of ctx and gen servers give, on a fixed grid of tok/s/user.

Reports use the exact solver of :mod:`ratematch.match`. This one is fast enough for the thousands of fronts of a
single decision: it reads generation curves at a few points between measured loads instead of everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID = np.geomspace(4.0, 2000.0, 240)
"""tok/s/user at which fronts are kept."""
WIDTHS = np.diff(GRID, prepend=0.0)
BETWEEN = 4
"""Steps in which a generation curve is read between two loads."""


@dataclass(frozen=True)
class Side:
    """Rates of one instance: of ctx its capacity, ``req_s`` of shape (1,); of gen by load, with ``tok_s_user``."""

    gpus: int
    req_s: Floats
    tok_s_user: Floats


def empty_front() -> Floats:
    return np.zeros_like(GRID)


def hypervolume(front: Floats) -> float:
    """Area under a front, tok/s/user x tok/s/GPU, from (0, 0)."""
    return float(front @ WIDTHS)


def gain(front: Floats, other: Floats, weights: Floats | None = None) -> float:
    """Hypervolume that ``other`` adds to ``front``, with ``weights`` of every tok/s/user."""
    added = np.maximum(other - front, 0.0)
    return float(added @ (WIDTHS if weights is None else WIDTHS * weights))


def front_of(ctx: Side, gen: Side, osl: float, max_gpus: int, *, ceil_only: bool = False) -> Floats:
    """tok/s/GPU of the best deployment that gives at least ``GRID`` tok/s/user. Shape of ``GRID``.

    Every number of gen instances is tried with the fewest ctx instances that keep up, or with all that there is room
    for and generation throttled to what they supply. ``ceil_only``: one gen instance and the ratio rounded up, as
    some tools do.
    """
    if not gen.req_s.size or ctx.req_s[0] <= 0:
        return empty_front()
    low = np.arange(max(1, gen.req_s.size - 1))
    high = np.minimum(low + 1, gen.req_s.size - 1)
    at_load = best_ratio(ctx, gen.gpus, _read_stretches(gen.req_s, low, high), osl, max_gpus, ceil_only)
    one = np.zeros(at_load.size, dtype=np.int64)
    return np.asarray(_spread(one, _read_stretches(gen.tok_s_user, low, high), at_load, 1)[0])


def stretches_of(ctx: Side, gen: Side, osl: float, max_gpus: int) -> Floats:
    """Fronts of every stretch of a generation curve, of shape (loads, loads, grid).

    ``[i, j]``: of the loads i < j and what is read between them; ``[i, i]``: of one load. The front of a set of loads
    is the maximum over its neighbouring pairs.
    """
    size = gen.req_s.size
    fronts = np.zeros((size, size, GRID.size))
    if not size or ctx.req_s[0] <= 0:
        return fronts
    low, high = np.triu_indices(size)
    at_load = best_ratio(ctx, gen.gpus, _read_stretches(gen.req_s, low, high), osl, max_gpus, False)
    which = np.repeat(np.arange(low.size), BETWEEN + 1)
    fronts[low, high] = _spread(which, _read_stretches(gen.tok_s_user, low, high), at_load, low.size)
    return fronts


def best_ratio(ctx: Side, gpus: int, req_s: Floats, osl: float, max_gpus: int, ceil_only: bool = False) -> Floats:
    """tok/s/GPU of the best ratio with gen instances of ``gpus`` GPUs at each of these requests/s.

    Shape of ``req_s``; 0 where nothing fits.
    """
    y = np.arange(1, 2 if ceil_only else max_gpus // gpus + 1)[:, None]
    if not y.size:
        return np.zeros_like(req_s)
    x = ctx_instances(y, gpus, req_s, ctx.gpus, ctx.req_s[0], max_gpus, ceil_only=ceil_only)
    served = np.minimum(x * ctx.req_s[0], y * req_s)
    # A ctx-limited deployment runs its gen instances at a lower load, which is another point of the same curve: here
    # it is kept at the slower speed of the fuller one, and met again at that point.
    return np.asarray(np.where(x >= 1, served * osl / (x * ctx.gpus + y * gpus), 0.0).max(axis=0))


def ctx_instances(
    y: Floats | NDArray[np.int64],
    gen_gpus: Floats | int,
    gen_req_s: Floats,
    ctx_gpus: Floats | int,
    ctx_req_s: Floats | float,
    max_gpus: int,
    *,
    ceil_only: bool = False,
) -> Floats:
    """The fewest ctx instances that keep up with ``y`` gen instances, or all that there is room for; 0: none fits.

    GPUs and requests/s are those of one instance; all broadcast against ``y``. ``ceil_only``: never fewer than keep
    up, so 0 where those do not fit.
    """
    room = np.maximum((max_gpus - y * gen_gpus) // ctx_gpus, 0)
    wanted = np.maximum(np.ceil(y * gen_req_s / ctx_req_s - 1e-9), 1)
    return np.asarray(np.where(wanted <= room, wanted, 0.0) if ceil_only else np.minimum(wanted, room))


def _spread(which: Ints, speed: Floats, value: Floats, rows: int) -> Floats:
    """Points onto the grid, each into the row ``which``: the best ``value`` of all that are at least as fast."""
    fronts = np.zeros((rows, GRID.size))
    place = np.searchsorted(GRID, speed * (1 + 1e-12), side="right") - 1
    np.maximum.at(fronts, (which, np.maximum(place, 0)), np.where(place >= 0, value, 0.0))
    return np.asarray(np.maximum.accumulate(fronts[:, ::-1], axis=1)[:, ::-1])


def _read_stretches(values: Floats, low: Ints, high: Ints) -> Floats:
    """``values`` at the loads ``low``, ``high`` and between them, geometrically: ``BETWEEN`` + 1 of each stretch, one
    after the other."""
    steps = np.linspace(0.0, 1.0, BETWEEN + 1)
    logs = np.log(values)
    return np.asarray(np.exp(logs[low, None] * (1 - steps) + logs[high, None] * steps).ravel())
