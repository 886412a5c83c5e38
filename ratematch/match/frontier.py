"""Pairs of measured configurations to the rate-matched rows that are shown, with how sure each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from ratematch.match.bootstrap import (
    DrawnFront,
    Factors,
    NoisyProblem,
    RowDraws,
    draw_factors,
    draw_fronts,
    draw_solved,
)
from ratematch.match.cells import Ints
from ratematch.match.curves import Floats
from ratematch.match.feasibility import Links, feasible_rows
from ratematch.match.noise import interval, interval_about
from ratematch.match.objective import score_unit
from ratematch.match.pairs import Pair, row_points, to_problem
from ratematch.match.points import DrawnFronts, Point
from ratematch.match.question import Question
from ratematch.match.sift import Search, sift_best, sift_front
from ratematch.match.solver import Rows, front_indices, near_front, solve_rows

MOST_ROWS = 5000
"""More rows than this are not turned into points: the rest is neither drawn nor chosen."""

MOST_HELD = 2_000_000
"""More deployments than this are not solved whole: the rows of each would have to be held."""

SOLVED_WHOLE = 100_000
"""So few deployments are solved at once rather than sifted, which is faster where there are many pairs of them."""

MOST_DRAWN = 200_000
"""More deployments than this are not drawn again and again."""

SHOWN_WITHIN = 0.2
"""Which rows are kept of more: those within this share of the front at their tok/s/user."""

DIGITS = 1e-9
"""An interval that is no wider than this share of its figure has no width."""
TIE_CHANCE = 0.05
"""A row off the front that is on it in this share of draws or more is as good within the noise."""

MOST_TIES = 200
"""Rows nearest to the front that are tried for a tie."""


SEED = 0
"""Of the draws."""


@dataclass(frozen=True)
class Frontier:
    """``plans``: rows shown, of ``num_rows`` solved. ``front``: ascending tok/s/user. ``draws``: the front of each
    bootstrap draw; empty when no noise is known. ``notes``: what the site cannot carry."""

    plans: tuple[Point, ...]
    num_rows: int
    front: tuple[Point, ...]
    ties: tuple[Point, ...]
    notes: tuple[str, ...]
    draws: DrawnFronts


@dataclass(frozen=True)
class Front:
    """``points``: ascending tok/s/user. ``draws``: as of :class:`Frontier`. ``notes``: what was left out."""

    points: FrontPoints
    draws: DrawnFronts
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Solved:
    """Every row of every pair that the machines can carry. ``score``: tok/s/GPU over the GPUs that count."""

    pairs: tuple[Pair, ...]
    rows: Rows
    score: Floats
    workload: str
    notes: tuple[str, ...] = ()

    def pair(self, k: int) -> Pair:
        """The pair that row ``k`` is of."""
        return self.pairs[int(self.rows.pair[k])]

    def point(self, k: int) -> Point:
        """Row ``k`` as a point, its tok/s/GPU over the GPUs that count."""
        return next(self.points(np.array([k])))

    def points(self, which: Ints) -> Iterator[Point]:
        """Rows as points, some at a time: memory, not results."""
        for first in range(0, which.size, MOST_ROWS):
            part = which[first : first + MOST_ROWS]
            yield from row_points(self.pairs, self.rows, part, self.score, self.workload)

    def front(self) -> Ints:
        """Rows on the front, ascending tok/s/user; of equal ones that with fewer flags, GPUs, and TTFT."""
        rows = self.rows
        flagged = np.array([len(pair.flags) for pair in self.pairs], dtype=np.int64)
        ttft_s = rows.ctx_load / rows.ctx_rate
        prefer = (flagged[rows.pair], rows.gen_clamped, rows.gpus, ttft_s, rows.pair, rows.x)
        return front_indices(rows.tok_s_user, self.score, prefer)


class FrontPoints(Sequence[Point]):
    """The rows of a front, ascending tok/s/user. Each becomes a point when somebody looks at it: a budget of
    thousands of GPUs has a ratio, and so a row, for every digit of tok/s/user."""

    def __init__(self, solved: Solved, front: Ints, drawn: Drawn | None = None):
        self._solved, self._front, self._drawn = solved, front, drawn

    def __len__(self) -> int:
        return int(self._front.size)

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> list[Point]: ...
    def __getitem__(self, index: int | slice) -> Point | list[Point]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        k = int(self._front[index])
        point = self._solved.point(k)
        return point if self._drawn is None else _add_intervals(point, _draw_row(self._solved, k, self._drawn))

    def __iter__(self) -> Iterator[Point]:
        if self._drawn is None:
            return self._solved.points(self._front)
        return (self[at] for at in range(len(self)))

    def objectives(self) -> list[tuple[float, float]]:
        """(tok/s/user, tok/s/GPU) of each, as the points have them."""
        rows = self._solved.rows
        u = 1 / (rows.gen_load[self._front] / rows.gen_rate[self._front])
        return list(zip(u.tolist(), self._solved.score[self._front].tolist(), strict=True))

    def gpus(self) -> list[int]:
        """GPUs of each."""
        return [int(value) for value in self._solved.rows.gpus[self._front]]

    @property
    def num_clamped(self) -> int:
        """How many are read at the lowest gen load measured."""
        return int(np.count_nonzero(self._solved.rows.gen_clamped[self._front]))


@dataclass(frozen=True)
class Drawn:
    """Rates as they might have been measured: their ``factors``, and the front of each draw."""

    factors: Factors
    fronts: tuple[DrawnFront, ...]


def solve_pairs(
    pairs: Sequence[Pair], question: Question, *, workload: str, links: Links | None = None, copies: bool = True
) -> Solved:
    """Every row of every pair within the question's limits.

    ``copies``: also deployments whose instances have a common divisor. ``links``: what KV transfers go over; rows
    that need more are left out, and said in ``notes``.

    Raises:
        UserError: so many deployments fit that they cannot all be held.
    """
    _search(pairs, question, copies=copies).check_size(MOST_HELD)
    rows = solve_rows(
        [to_problem(pair) for pair in pairs],
        max_gpus=question.budget_gpus,
        packing=question.packing,
        coprime=not copies,
        tpot_limit_s=_tpot_limit_s(question),
    )
    feasible, notes = feasible_rows(rows, pairs, links, question.segment_gpus)
    rows = rows.take(feasible)
    osl = np.array([pair.gen.osl for pair in pairs])
    score = rows.score(osl[rows.pair], question.objective) / score_unit(question) if rows.size else np.zeros(0)
    return Solved(tuple(pairs), rows, score, workload, tuple(notes))


def best_of_pairs(pairs: Sequence[Pair], question: Question, *, workload: str) -> Solved:
    """Of each pair the rows with the best score, to the last digits; from as many deployments as can be looked at.

    Raises:
        UserError: more fit.
    """
    search = _search(pairs, question, copies=True)
    search.check_size()
    if question.segment_gpus is not None or search.num_cells() <= SOLVED_WHOLE:
        return solve_pairs(pairs, question, workload=workload)
    return _solved(search, sift_best(search), pairs, question, workload)


def front_of_pairs(pairs: Sequence[Pair], question: Question, *, workload: str) -> Front:
    """The front alone, from as many deployments as can be looked at: what :func:`find_frontier` has as its front.

    Raises:
        UserError: more fit.
    """
    search = _search(pairs, question, copies=question.objective != "per_used_gpu")
    search.check_size()
    if question.segment_gpus is not None or search.num_cells() <= SOLVED_WHOLE:
        solved = solve_pairs(pairs, question, workload=workload, copies=not search.coprime)
    else:
        solved = _solved(search, sift_front(search), pairs, question, workload)
    notes: tuple[str, ...] = ()
    drawn = None
    if question.draws and any(_noise_known(pair) for pair in pairs) and search.num_cells() > MOST_DRAWN:
        notes = (
            f"no intervals: {search.num_cells():,} deployments fit, and they are drawn for up to {MOST_DRAWN:,}",
        )
    else:
        drawn = _draw_all(solved, question)
    return Front(FrontPoints(solved, solved.front(), drawn), _fronts_of(drawn), notes)


def _search(pairs: Sequence[Pair], question: Question, *, copies: bool) -> Search:
    return Search(
        [to_problem(pair) for pair in pairs],
        [pair.gen.osl for pair in pairs],
        question.budget_gpus,
        packing=question.packing,
        coprime=not copies,
        tpot_limit_s=_tpot_limit_s(question),
        objective=question.objective,
    )


def _solved(search: Search, rows: Rows, pairs: Sequence[Pair], question: Question, workload: str) -> Solved:
    osl = np.array(search.osl)
    score = rows.score(osl[rows.pair], question.objective) / score_unit(question) if rows.size else np.zeros(0)
    return Solved(tuple(pairs), rows, score, workload)


def _fronts_of(drawn: Drawn | None) -> DrawnFronts:
    return tuple(
        tuple((float(a), float(b)) for a, b in zip(u, p, strict=True))
        for u, p in (drawn.fronts if drawn is not None else ())
    )


def find_frontier(
    pairs: Sequence[Pair], question: Question, *, workload: str, links: Links | None = None
) -> Frontier:
    """Every row of every pair, its front, and, where noise is known, its intervals and what ties with it.

    Rows are of deployments without a common divisor where tok/s/GPU is over used GPUs: k copies have the same
    figures. Over others copies differ, and none is left out.
    """
    copies = question.objective != "per_used_gpu"
    solved = solve_pairs(pairs, question, workload=workload, links=links, copies=copies)
    rows = solved.rows
    front = solved.front()
    kept = np.arange(rows.size)
    if rows.size > MOST_ROWS:
        kept = np.flatnonzero(near_front(rows.tok_s_user, solved.score, SHOWN_WITHIN))
    # Points are compared by value: the front's own must be among the plans.
    shown = np.union1d(kept, front)
    points = dict(zip(shown.tolist(), solved.points(shown), strict=True))
    if question.ttft_ms is not None:
        bunched = {k for k in points if solved.pair(k).bunching}
        points |= {k: _flag_ttft(points[k], question.ttft_ms) for k in bunched}
    drawn = _draw_all(solved, question)
    ties: list[Point] = []
    if drawn is not None:
        for k in (int(k) for k in front):
            points[k] = _add_intervals(points[k], _draw_row(solved, k, drawn))
        ties = _find_ties(solved, front, drawn)
    return Frontier(
        plans=tuple(points[k] for k in sorted(points)),
        num_rows=rows.size,
        front=tuple(points[int(k)] for k in front),
        ties=tuple(ties),
        notes=solved.notes,
        draws=_fronts_of(drawn),
    )


def _tpot_limit_s(question: Question) -> float | None:
    return None if question.tpot_ms is None else question.tpot_ms / 1000


def _flag_ttft(point: Point, limit_ms: float) -> Point:
    """ctx rows are within the limit as measured; in bunches, which calibration adds, a plan may not be."""
    if point.ttft_ms <= limit_ms:
        return point
    return replace(point, flags=(*point.flags, f"TTFT over the limit of {limit_ms:g} ms with prompts in bunches"))


def _noise_known(pair: Pair) -> bool:
    return any(noise is not None for noise in (*pair.ctx.noise, *pair.gen.noise))


def _draw_all(solved: Solved, question: Question) -> Drawn | None:
    """The fronts of every draw; ``None`` when there is nothing to draw, or the noise of no rate is known."""
    if not question.draws or not solved.rows.size or not any(_noise_known(pair) for pair in solved.pairs):
        return None
    problems = [to_problem(pair) for pair in solved.pairs]
    noisy = [NoisyProblem(p, pair.ctx.noise, pair.gen.noise) for p, pair in zip(problems, solved.pairs, strict=True)]
    factors = draw_factors(noisy, draws=question.draws, seed=SEED)
    fronts = draw_fronts(
        problems,
        factors,
        max_gpus=question.budget_gpus,
        osl=[pair.gen.osl for pair in solved.pairs],
        objective=question.objective,
        packing=question.packing,
        tpot_limit_s=_tpot_limit_s(question),
    )
    unit = score_unit(question)
    return Drawn(factors, tuple((u, p / unit) for u, p in fronts))


def _draw_row(solved: Solved, k: int, drawn: Drawn) -> RowDraws:
    pair = solved.pair(k)
    osl = pair.gen.osl
    score = float(solved.score[k])
    return draw_solved(to_problem(pair), drawn.factors, solved.rows, k, score=score, osl=osl, fronts=drawn.fronts)


def _add_intervals(point: Point, drawn: RowDraws) -> Point:
    """Where the noise of what limits a row is not known, its draws are all alike: it has no interval then."""
    low, high = interval_about(point.tok_s_gpu, drawn.score)
    known = high - low > DIGITS * point.tok_s_gpu
    ratio_low, ratio_high = interval(drawn.ratio)
    return replace(
        point,
        tok_s_gpu_low=low if known else None,
        tok_s_gpu_high=high if known else None,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        front_chance=drawn.on_front,
    )


def _in_digits(solved: Solved, which: Ints) -> list[tuple[str, str]]:
    """The objectives of some rows to twelve digits."""
    u, p = solved.rows.tok_s_user[which].tolist(), solved.score[which].tolist()
    return [(f"{a:.11e}", f"{b:.11e}") for a, b in zip(u, p, strict=True)]


def _find_ties(solved: Solved, front: Ints, drawn: Drawn) -> list[Point]:
    """Rows off the front that are on it in at least ``TIE_CHANCE`` of the draws, likeliest first."""
    rows, score = solved.rows, solved.score
    known = [noise.rel for pair in solved.pairs for noise in (*pair.ctx.noise, *pair.gen.noise) if noise is not None]
    near = np.flatnonzero(near_front(rows.tok_s_user, score, min(0.5, 4 * max(known))))
    near = np.setdiff1d(near, front)
    # Copies of a deployment have the same figures and are no news: only the smallest is tried.
    near = near[np.argsort(rows.gpus[near], kind="stable")]
    on_front = set(_in_digits(solved, front))
    smallest: dict[tuple[str, str], int] = {}
    for k, digits in zip(near.tolist(), _in_digits(solved, near), strict=True):
        smallest.setdefault(digits, k)
    near = np.array([k for digits, k in smallest.items() if digits not in on_front], dtype=np.int64)
    if near.size > MOST_TIES:
        us, ps = rows.tok_s_user[front], score[front]
        best = ps[np.minimum(np.searchsorted(us, rows.tok_s_user[near]), ps.size - 1)]
        near = near[np.argsort(-(score[near] / best), kind="stable")[:MOST_TIES]]
    ties = []
    for k in (int(k) for k in near):
        row = _draw_row(solved, k, drawn)
        if row.on_front >= TIE_CHANCE:
            ties.append(_add_intervals(solved.point(k), row))
    return sorted(ties, key=lambda point: (-(point.front_chance or 0), point.label, point.req_s))
