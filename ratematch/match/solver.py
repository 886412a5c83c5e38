"""All whole deployments of all measured pairs at once: the arithmetic of :mod:`ratematch.match.matching` on arrays.

A row is a pair (one ctx and one gen configuration), x ctx and y gen instances, and a demand. Demands are those of
:func:`ratematch.match.matching.plan_curve`: every measured gen point and ctx capacity that the deployment reaches,
and its limit min(x R_c, y R_g). Nothing is rounded or left out; tests hold every row against the scalar solver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratematch.match.cells import Cells, Ints, tabulate_cells
from ratematch.match.curves import SAME, Bools, Floats, Reading, throttle_all
from ratematch.match.inservice import InService
from ratematch.match.matching import Ctx, Gen, Limit, Objective, Plan
from ratematch.match.packing import Packing

Column = NDArray[Any]

LIMITS: tuple[Limit, ...] = ("ctx", "gen", "both")


@dataclass(frozen=True)
class MatchProblem:
    """One ctx and one gen configuration. ``loads`` and ``tail``: TPOT at the percentile of the limit over mean TPOT,
    at each measured load of gen (empty: judged at the mean). ``at_limit``: which gen point is read where TPOT meets
    its limit. ``in_service``: what holds a deployment to a TTFT limit in service."""

    ctx: Ctx[float]
    gen: Gen[float]
    loads: tuple[float, ...] = ()
    tail: tuple[float, ...] = ()
    at_limit: int | None = None
    in_service: InService | None = None

    def feeding(self, x: Ints, y: Ints) -> Floats:
        """As how many ctx instances at their highest rate the ``x`` of each cell count: fewer where TTFT is over its
        limit before they reach it. Equal shapes."""
        if self.in_service is None:
            return np.asarray(x, dtype=np.float64)
        top = np.minimum(x * self.ctx.capacities[-1], y * self.gen.max_req_s)
        within = self.in_service.most_req_s(x, y, top)
        return np.asarray(np.where(within < top, within / self.ctx.capacities[-1], x))


@dataclass(frozen=True)
class Rows:
    """Columns of equal length, one entry a row.

    ``pair``: index of the problem. ``limit``: index into ``LIMITS``. ``ctx_*`` and ``gen_*``: operating point of one
    instance (load in flight, rate per second). ``ctx_index`` and ``gen_index``: the demand is the smaller of what the
    ctx capacity and the gen point of these numbers allow.
    """

    pair: Ints
    x: Ints
    y: Ints
    gpus: Ints
    nodes: Ints
    gpus_allocated: Ints
    req_s: Floats
    limit: Ints
    ctx_load: Floats
    ctx_rate: Floats
    ctx_clamped: Bools
    gen_load: Floats
    gen_rate: Floats
    gen_clamped: Bools
    ctx_index: Ints
    gen_index: Ints

    @property
    def size(self) -> int:
        return int(self.pair.size)

    @property
    def tpot_s(self) -> Floats:
        return self.gen_load / self.gen_rate

    @property
    def tok_s_user(self) -> Floats:
        return self.gen_rate / self.gen_load

    def take(self, which: Column) -> Rows:
        """The rows at these indices, or where a mask is true."""
        return Rows(**{field.name: getattr(self, field.name)[which] for field in fields(Rows)})

    def plans(self, which: Ints) -> Iterator[Plan[float]]:
        """Rows as the scalar solver returns them."""
        columns = (self.x, self.y, self.gpus, self.req_s, self.limit)
        ctx, gen = (self.ctx_load, self.ctx_rate, self.ctx_clamped), (self.gen_load, self.gen_rate, self.gen_clamped)
        values = (column[which].tolist() for column in (*columns, *ctx, *gen))
        for x, y, gpus, req_s, limit, ctx_load, ctx_rate, ctx_clamped, gen_load, gen_rate, gen_clamped in zip(
            *values, strict=True
        ):
            yield Plan(
                x=x,
                y=y,
                gpus=gpus,
                req_s=req_s,
                limit=LIMITS[limit],
                ctx=Reading(ctx_load, ctx_rate, ctx_load / ctx_rate, ctx_clamped),
                gen=Reading(gen_load, gen_rate, gen_load / gen_rate, gen_clamped),
            )

    def score(self, osl: float | Floats, objective: Objective) -> Floats:
        """Output tok/s, or tok/s/GPU, that ``objective`` asks for. ``osl``: one, or one a row."""
        tok_s = self.req_s * osl
        match objective:
            case "per_used_gpu":
                return np.asarray(tok_s / self.gpus)
            case "per_allocated_gpu":
                return np.asarray(tok_s / self.gpus_allocated)
            case "tok_s_in_budget":
                return np.asarray(tok_s)


def solve_rows(
    problems: Sequence[MatchProblem],
    *,
    max_gpus: int,
    packing: Packing | None = None,
    coprime: bool = False,
    tpot_limit_s: float | None = None,
) -> Rows:
    """Every row of every problem: problem by problem, cells by y then x, demands ascending.

    ``tpot_limit_s`` filters last, after matching and throttling.
    """
    parts = []
    for k, problem in enumerate(problems):
        cells = tabulate_cells(problem.ctx.gpus, problem.gen.gpus, max_gpus, packing, coprime)
        if cells.size:
            parts.append(solve_cells(k, problem, cells, tpot_limit_s))
    return join_rows(parts)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """All rows of ``parts``, one after the other."""
    return Rows(**{field.name: _join(parts, field.name) for field in fields(Rows)})


def _join(parts: Sequence[Rows], name: str) -> Column:
    if not parts:
        kind = Rows.__annotations__[name]
        return np.zeros(0, dtype={"Ints": np.int64, "Bools": np.bool_}.get(kind, np.float64))
    return np.concatenate([getattr(part, name) for part in parts])


def solve_cells(number: int, problem: MatchProblem, cells: Cells, tpot_limit_s: float | None) -> Rows:
    """The rows of some cells of ``problem``, the ``number``-th of its list."""
    ctx, gen = problem.ctx, problem.gen
    capacities = np.array(ctx.capacities)
    gen_req_s = np.array([gen.req_s(rate) for rate in gen.curve.rates])
    last_ctx, last_gen = capacities.size - 1, gen_req_s.size - 1
    x, y = problem.feeding(cells.x, cells.y)[:, None], cells.y[:, None]

    most_ctx, most_gen = x * capacities[-1], y * gen_req_s[-1]
    top = np.minimum(most_ctx, most_gen)
    both = _same(most_ctx, most_gen)
    top_limit = np.where(both, 2, np.where(most_ctx < most_gen, 0, 1))

    # Columns: the lower ctx capacities, the gen points, the limit of the deployment.
    demand = np.concatenate([x * capacities[:-1], y * gen_req_s, top], axis=1)
    ctx_index = np.concatenate([np.arange(last_ctx), np.full(gen_req_s.size + 1, last_ctx)])
    gen_index = np.concatenate([np.full(last_ctx, last_gen), np.arange(gen_req_s.size), [last_gen]])
    side = np.concatenate([np.zeros(last_ctx, dtype=np.int64), np.ones(gen_req_s.size + 1, dtype=np.int64)])
    limit = np.broadcast_to(side, demand.shape).copy()
    limit[:, -1:] = top_limit
    kept = (demand < top) & ~_same(demand, top)
    kept[:, -1] = True
    kept &= demand > 0

    order = np.argsort(np.where(kept, demand, np.inf), axis=1, kind="stable")
    demand, kept, limit = (np.take_along_axis(values, order, axis=1) for values in (demand, kept, limit))
    kept[:, 1:] &= ~_same(demand[:, 1:], demand[:, :-1])

    cell, _ = np.nonzero(kept)
    req_s = demand[kept]
    xs, ys = cells.x[cell], cells.y[cell]
    # The minimum undoes the last-digit rounding of (y * rate) / y.
    ctx_rate = np.minimum(req_s / xs, ctx.curve.max_rate)
    alone = np.minimum(gen.alone_tok_s(req_s / ys), gen.curve.max_rate)
    gen_rate = req_s / ys * gen.tokens_per_request if gen.extra_s else alone
    ctx_load, ctx_clamped = throttle_all(np.array(ctx.curve.loads), np.array(ctx.curve.rates), ctx_rate)
    gen_load, gen_clamped = throttle_all(np.array(gen.curve.loads), np.array(gen.curve.rates), alone)
    rows = Rows(
        pair=np.full(req_s.size, number, dtype=np.int64),
        x=xs,
        y=ys,
        gpus=cells.gpus[cell],
        nodes=cells.nodes[cell],
        gpus_allocated=cells.gpus_allocated[cell],
        req_s=req_s,
        limit=limit[kept],
        ctx_load=ctx_load,
        ctx_rate=ctx_rate,
        ctx_clamped=ctx_clamped,
        gen_load=gen_load,
        gen_rate=gen_rate,
        gen_clamped=gen_clamped,
        ctx_index=ctx_index[order[kept]],
        gen_index=gen_index[order[kept]],
    )
    if tpot_limit_s is None:
        return rows
    tail = np.interp(gen_load, problem.loads, problem.tail) if problem.loads else 1.0
    return rows.take(rows.tpot_s * tail <= tpot_limit_s)


def _same(a: Floats, b: Floats) -> Bools:
    return np.asarray(np.abs(a - b) <= SAME * np.maximum(np.abs(a), np.abs(b)))


def near_front(u: Floats, p: Floats, margin: float = SAME) -> Bools:
    """Which points no other beats by more than the share ``margin`` in ``p`` at equal or better ``u``."""
    if u.size == 0:
        return np.zeros(0, dtype=np.bool_)
    order = np.argsort(-u, kind="stable")
    us, best = u[order], np.maximum.accumulate(p[order])
    # The best of all points with this u or more: look at the last of those whose u is equal within the last digits.
    reach = np.searchsorted(-us, -us * (1 - SAME), side="right") - 1
    near = np.zeros(u.size, dtype=np.bool_)
    near[order] = p[order] >= best[reach] * (1 - margin)
    return near


def front_indices(u: Floats, p: Floats, prefer: Iterable[Column] = ()) -> Ints:
    """Indices of the front of (u, p), ascending in u, without dominated or duplicate points.

    ``prefer``: columns that decide between points equal in both to twelve digits, smallest first, most important
    first.
    """
    candidates = np.flatnonzero(near_front(u, p))
    if candidates.size == 0:
        return candidates
    rounded_u = np.array([float(f"{value:.12g}") for value in u[candidates]])
    rounded_p = np.array([float(f"{value:.12g}") for value in p[candidates]])
    keys = [column[candidates] for column in prefer][::-1]
    order = np.lexsort([*keys, -rounded_p, -rounded_u])
    values = rounded_p[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    return candidates[order[values > before]][::-1]
