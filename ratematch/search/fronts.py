"""Fronts as arrays, quickly: what ctx and gen servers give in whole instances, on a fixed grid of tok/s/user.

The exact solver of :mod:`ratematch.match` decides what is reported; this one is asked thousands of times for a single
decision. It differs in reading generation curves at a few points between measured loads, not everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID = np.geomspace(4.0, 2000.0, 240)
"""tok/s/user at which fronts are kept."""
WIDTHS = np.diff(GRID, prepend=0.0)
BETWEEN = 4
"""Steps that the stretch between two loads of a generation curve is read in."""


@dataclass(frozen=True)
class Side:
    """Rates of one instance. ctx: ``req_s`` of shape (1,), its capacity. gen: by load, with ``tok_s_user``."""

    gpus: int
    req_s: Floats
    tok_s_user: Floats


def empty_front() -> Floats:
    return np.zeros_like(GRID)


def hypervolume(front: Floats) -> float:
    """Area under a front, tok/s/user x tok/s/GPU, from (0, 0)."""
    return float(front @ WIDTHS)


def gain(front: Floats, other: Floats, weights: Floats | None = None) -> float:
    """Hypervolume that ``other`` adds to ``front``, each tok/s/user weighted."""
    added = np.maximum(other - front, 0.0)
    return float(added @ (WIDTHS if weights is None else WIDTHS * weights))


def front_of(ctx: Side, gen: Side, osl: float, max_gpus: int, *, ceil_only: bool = False) -> Floats:
    """tok/s/GPU of the best deployment that gives at least ``GRID`` tok/s/user. Shape of ``GRID``.

    Every number of gen instances, fed by the fewest ctx instances that keep up, or by all that there is room for,
    with generation throttled to what they supply. ``ceil_only``: one gen instance and the ratio rounded up, as some
    tools do.
    """
    if not gen.req_s.size or ctx.req_s[0] <= 0:
        return empty_front()
    req_s, speed = _read_between(gen)
    at_load = best_ratio(ctx, gen.gpus, req_s, osl, max_gpus, ceil_only)
    return np.asarray(_spread(np.zeros(req_s.size, dtype=int), speed, at_load, 1)[0])


def stretches_of(ctx: Side, gen: Side, osl: float, max_gpus: int) -> Floats:
    """Fronts of every stretch of a generation curve, of shape (loads, loads, grid): ``[i, j]`` is that of the loads i
    and j and what is read between them, i = j one load alone. The front of any loads is the maximum over its
    neighbours'."""
    size = gen.req_s.size
    fronts = np.zeros((size, size, GRID.size))
    if not size or ctx.req_s[0] <= 0:
        return fronts
    low, high = np.triu_indices(size)
    steps = np.linspace(0.0, 1.0, BETWEEN + 1)

    def read(values: Floats) -> Floats:
        logs = np.log(values)
        return np.asarray(np.exp(logs[low, None] * (1 - steps) + logs[high, None] * steps).ravel())

    at_load = best_ratio(ctx, gen.gpus, read(gen.req_s), osl, max_gpus, False)
    which = np.repeat(np.arange(low.size), steps.size)
    fronts[low, high] = _spread(which, read(gen.tok_s_user), at_load, low.size)
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


def _spread(which: NDArray[np.int64], speed: Floats, value: Floats, rows: int) -> Floats:
    """Points onto the grid, each into the row ``which``: the best of all that are at least as fast."""
    fronts = np.zeros((rows, GRID.size))
    place = np.searchsorted(GRID, speed * (1 + 1e-12), side="right") - 1
    np.maximum.at(fronts, (which, np.maximum(place, 0)), np.where(place >= 0, value, 0.0))
    return np.asarray(np.maximum.accumulate(fronts[:, ::-1], axis=1)[:, ::-1])


def _read_between(gen: Side) -> tuple[Floats, Floats]:
    """Rates and speeds at the loads and between them, geometrically."""
    size = gen.req_s.size
    if size == 1:
        return gen.req_s, gen.tok_s_user
    at = np.linspace(0, size - 1, BETWEEN * (size - 1) + 1)
    known = np.arange(size)
    return (
        np.exp(np.interp(at, known, np.log(gen.req_s))),
        np.exp(np.interp(at, known, np.log(gen.tok_s_user))),
    )
