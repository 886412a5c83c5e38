"""The solve again and again with rates as they might have been measured: intervals and chances of being on the front.

Each draw multiplies every measured rate by a factor from its own noise (:mod:`ratematch.match.noise`); TPOT follows
from the identity C / T. A configuration that is part of several pairs has one factor in all of them.

Only the front of a draw is wanted, and for that the cells need not be visited one by one. A gen point k with rate
R_k can be fed by the cells with y / x <= R_c / R_k; of these only the best y / GPUs counts, a prefix maximum over
cells sorted by y / x. A deployment limited by ctx reads the gen curve at a rate that depends on x / y alone, so of
copies of a ratio only the best x / GPUs counts. Both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ratematch.match.cells import Cells, tabulate_cells
from ratematch.match.curves import SAME, Floats
from ratematch.match.matching import Objective
from ratematch.match.noise import Noise, draw
from ratematch.match.packing import Packing
from ratematch.match.solver import MatchProblem, Rows

DrawnFront = tuple[Floats, Floats]
"""(u, p) of the front of one draw: u strictly ascending, p strictly falling."""

CHUNK = 1_000_000
"""Candidates held at a time: memory, not results."""


@dataclass(frozen=True)
class Factors:
    """For problem k: ``ctx[k]`` (draws x capacities) and ``gen[k]`` (draws x gen points), rates drawn / measured."""

    ctx: tuple[Floats, ...]
    gen: tuple[Floats, ...]

    @property
    def draws(self) -> int:
        return int(self.gen[0].shape[0]) if self.gen else 0


@dataclass(frozen=True)
class NoisyProblem:
    """A problem with the noise of each ctx capacity and each gen point (``None``: not known, taken as measured)."""

    problem: MatchProblem
    ctx: tuple[Noise | None, ...] = field(default=())
    gen: tuple[Noise | None, ...] = field(default=())


def draw_factors(problems: Sequence[NoisyProblem], *, draws: int, seed: int) -> Factors:
    """Factors for all problems. The same ``Ctx`` or ``Gen`` object gets the same factors wherever it appears."""
    rng = np.random.default_rng(seed)
    known: dict[int, Floats] = {}

    def of(side: object, noises: Sequence[Noise | None], size: int) -> Floats:
        if id(side) not in known:
            padded = [*noises, *[None] * (size - len(noises))]
            known[id(side)] = np.stack([draw(noise, draws, rng) for noise in padded], axis=1)
        return known[id(side)]

    ctx = tuple(of(noisy.problem.ctx, noisy.ctx, len(noisy.problem.ctx.capacities)) for noisy in problems)
    gen = tuple(of(noisy.problem.gen, noisy.gen, len(noisy.problem.gen.curve.rates)) for noisy in problems)
    return Factors(ctx, gen)


def pool_rising(rates: Floats) -> Floats:
    """Nearest non-falling rates along the last axis (isotonic least squares), for many curves at once.

    Min-max formula: the value at k is the largest over i <= k of the smallest over j >= k of mean(i..j).
    """
    if bool(np.all(rates[..., 1:] >= rates[..., :-1])):
        return rates
    size = rates.shape[-1]
    sums = np.concatenate([np.zeros((*rates.shape[:-1], 1)), np.cumsum(rates, axis=-1)], axis=-1)
    pooled = np.empty_like(rates)
    for k in range(size):
        best = np.full(rates.shape[:-1], -np.inf)
        for i in range(k + 1):
            means = (sums[..., k + 1 :] - sums[..., i : i + 1]) / np.arange(k + 1 - i, size + 1 - i)
            np.maximum(best, means.min(axis=-1), out=best)
        pooled[..., k] = best
    return pooled


@dataclass(frozen=True)
class _Drawn:
    """One problem's rates in every draw: capacities (draws x J), tok/s of gen alone (draws x K)."""

    problem: MatchProblem
    capacities: Floats
    tok_s: Floats
    loads: Floats

    @property
    def req_s(self) -> Floats:
        """Requests/s that an instance absorbs in service."""
        return np.asarray(self.problem.gen.req_s(self.tok_s))


def _drawn(problem: MatchProblem, ctx: Floats, gen: Floats) -> _Drawn:
    return _Drawn(
        problem,
        np.array(problem.ctx.capacities) * ctx,
        pool_rising(np.array(problem.gen.curve.rates) * gen),
        np.array(problem.gen.curve.loads),
    )


def _read_loads(drawn: _Drawn, rate: Floats) -> Floats:
    """Load at which each draw's gen curve gives ``rate`` (draws x anything, not above the draw's highest rate)."""
    loads, tok_s = drawn.loads, drawn.tok_s
    at = np.where(rate < tok_s[:, :1], rate * (loads[0] / tok_s[:, :1]), loads[0])
    for k in range(1, loads.size):
        low, high = tok_s[:, k - 1 : k], tok_s[:, k : k + 1]
        inside = (rate > low * (1 + SAME)) & (rate <= high * (1 + SAME))
        span = np.where(high > low, high - low, 1.0)
        at = np.where(inside, loads[k - 1] + (loads[k] - loads[k - 1]) * (rate - low) / span, at)
    return np.asarray(at)


@dataclass(frozen=True)
class _CellTable:
    """What the front needs of the cells of one pair of sizes, denominators (GPUs that count) divided out."""

    feed_ratio: Floats  # y / x, ascending
    feed_best: Floats  # the largest y / denominator among cells with this y / x or less
    ctx_ratio: Floats  # x / y, each once
    ctx_best: Floats  # the largest x / denominator among cells of this ratio


def _tabulate(cells: Cells, feeding: Floats, objective: Objective) -> _CellTable | None:
    """``feeding``: as how many ctx instances the x of each cell count, see :class:`MatchProblem`. ``None`` where none
    counts."""
    cells, x = cells.take(feeding > 0), feeding[feeding > 0]
    if not cells.size:
        return None
    count: Floats = {
        "per_used_gpu": cells.gpus,
        "per_allocated_gpu": cells.gpus_allocated,
        "tok_s_in_budget": np.ones_like(cells.gpus),
    }[objective].astype(np.float64)
    order = np.argsort(cells.y / x, kind="stable")
    ratio = (cells.y / x)[order]
    best = np.maximum.accumulate((cells.y / count)[order])
    ctx_ratio, owner = np.unique(x / cells.y, return_inverse=True)
    ctx_best = np.zeros(ctx_ratio.size)
    np.maximum.at(ctx_best, owner, x / count)
    return _CellTable(ratio, best, ctx_ratio, ctx_best)


def draw_fronts(
    problems: Sequence[MatchProblem],
    factors: Factors,
    *,
    max_gpus: int,
    osl: float | Sequence[float],
    objective: Objective = "per_used_gpu",
    packing: Packing | None = None,
    tpot_limit_s: float | None = None,
) -> list[DrawnFront]:
    """The front of each draw, as (u, p): u strictly ascending, p strictly falling. ``osl``: one, or one a problem."""
    osls = [float(osl)] * len(problems) if isinstance(osl, int | float) else [float(value) for value in osl]
    tables = [
        _tabulate(cells, problem.feeding(cells.x, cells.y), objective)
        for problem in problems
        for cells in [tabulate_cells(problem.ctx.gpus, problem.gen.gpus, max_gpus, packing)]
    ]
    width = sum(
        len(problem.gen.curve.rates) + len(problem.ctx.capacities) * table.ctx_ratio.size
        for problem, table in zip(problems, tables, strict=True)
        if table is not None
    )
    step = max(1, CHUNK // max(1, width))
    fronts: list[DrawnFront] = []
    for first in range(0, factors.draws, step):
        part = slice(first, first + step)
        points = [
            _candidates(_drawn(problem, ctx[part], gen[part]), table, of_osl, tpot_limit_s)
            for problem, table, ctx, gen, of_osl in zip(problems, tables, factors.ctx, factors.gen, osls, strict=True)
            if table is not None
        ]
        if not points:
            fronts += [(np.zeros(0), np.zeros(0))] * len(range(*part.indices(factors.draws)))
            continue
        u = np.concatenate([of_pair[0] for of_pair in points], axis=1)
        p = np.concatenate([of_pair[1] for of_pair in points], axis=1)
        fronts += [_front(u[k], p[k]) for k in range(u.shape[0])]
    return fronts


def _candidates(drawn: _Drawn, table: _CellTable, osl: float, tpot_limit_s: float | None) -> tuple[Floats, Floats]:
    """(u, p), draws x candidates each; p is 0 where a candidate does not exist in a draw."""
    problem = drawn.problem
    most = drawn.capacities[:, -1:] / drawn.req_s
    cell = np.searchsorted(table.feed_ratio, most * (1 + SAME), side="right") - 1
    fed = np.where(cell >= 0, table.feed_best[np.maximum(cell, 0)], 0.0) * drawn.req_s * osl
    loads = np.broadcast_to(drawn.loads, drawn.tok_s.shape)
    gen, in_service = problem.gen, drawn.req_s * problem.gen.tokens_per_request
    us, ps = [in_service / loads], [_within(problem, loads, in_service, fed, tpot_limit_s)]
    if problem.at_limit is not None:  # with other rates the limit is met at a load beside it: it is in every draw
        ps[0][:, problem.at_limit] = fed[:, problem.at_limit]
    for j in range(drawn.capacities.shape[1]):
        capacity = drawn.capacities[:, j : j + 1]
        highest = drawn.req_s[:, -1:]
        exists = capacity * table.ctx_ratio <= highest * (1 + SAME)
        req_s = np.minimum(capacity * table.ctx_ratio, highest)
        rate = req_s * gen.tokens_per_request
        load = _read_loads(drawn, np.minimum(gen.alone_tok_s(req_s), drawn.tok_s[:, -1:]))
        us.append(rate / load)
        p = np.where(exists, capacity * table.ctx_best * osl, 0.0)
        ps.append(_within(problem, load, rate, p, tpot_limit_s))
    return np.concatenate(us, axis=1), np.concatenate(ps, axis=1)


def _within(problem: MatchProblem, load: Floats, rate: Floats, p: Floats, tpot_limit_s: float | None) -> Floats:
    if tpot_limit_s is None:
        return p
    tail = np.interp(load, problem.loads, problem.tail) if problem.loads else 1.0
    return np.where(load / rate * tail <= tpot_limit_s, p, 0.0)


def _front(u: Floats, p: Floats) -> tuple[Floats, Floats]:
    u, p = u[p > 0], p[p > 0]
    order = np.lexsort((-p, -u)) if u.size < 2000 else np.argsort(-u)
    u, p = u[order], p[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(p)[:-1]]) if p.size else p
    u, p = u[p > before], p[p > before]
    order = np.lexsort((-p, -u))  # equal u: only the best stays
    u, p = u[order], p[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(p)[:-1]]) if p.size else p
    return u[p > before][::-1], p[p > before][::-1]


@dataclass(frozen=True)
class RowDraws:
    """One row of the solver in every draw. ``ratio``: ideal ctx:gen ratio. ``on_front``: share of draws."""

    req_s: Floats
    tok_s_user: Floats
    score: Floats
    ratio: Floats
    on_front: float


def draw_solved(
    problem: MatchProblem,
    factors: Factors,
    rows: Rows,
    k: int,
    *,
    score: float,
    osl: float,
    fronts: Sequence[DrawnFront],
) -> RowDraws:
    """What row ``k`` of the solver, which is of ``problem``, would have been in each draw: demand = min(x capacity,
    y gen point), gen read there.

    ``score``: what its front is ordered by, which tells the GPUs that count: demand x OSL / ``score``. On the front:
    no point of the draw's front with as much u has more.
    """
    number, y = int(rows.pair[k]), int(rows.y[k])
    x = float(problem.feeding(rows.x[k : k + 1], rows.y[k : k + 1])[0])
    ctx_index, gen_index = int(rows.ctx_index[k]), int(rows.gen_index[k])
    drawn = _drawn(problem, factors.ctx[number], factors.gen[number])
    req_s = np.minimum(x * drawn.capacities[:, ctx_index], y * drawn.req_s[:, gen_index])
    each = np.minimum(req_s / y, drawn.req_s[:, -1])
    alone = np.minimum(problem.gen.alone_tok_s(each), drawn.tok_s[:, -1])
    u = each * problem.gen.tokens_per_request / _read_loads(drawn, alone[:, None])[:, 0]
    denominator = float(rows.req_s[k] * osl / score)
    scores = req_s * osl / denominator
    on = [_best_at(front, value) <= p * (1 + SAME) for front, value, p in zip(fronts, u, scores, strict=True)]
    ratio = drawn.req_s[:, gen_index] / drawn.capacities[:, -1]
    return RowDraws(req_s, u, scores, ratio, float(np.mean(on)) if on else 0.0)


def _best_at(front: tuple[Floats, Floats], u: float) -> float:
    """Most p with ``u`` or more; 0 above the front."""
    index = int(np.searchsorted(front[0], u * (1 - SAME), side="left"))
    return float(front[1][index]) if index < front[1].size else 0.0
