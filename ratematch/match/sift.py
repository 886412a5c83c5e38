"""The rows that a front, or the best of a pair, may be made of, out of budgets with millions of deployments.

Cells are looked at a block at a time and most are left out before they are solved, by what their best row could be.
Nothing that could stand on the front, or tie with a row on it, is left out: what is found is exactly what
:func:`ratematch.match.solver.solve_rows` of all cells gives, and tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.errors import UserError
from ratematch.match.cells import Budget, Cells, blocks, sample_cells
from ratematch.match.curves import Bools, Floats, throttle_all
from ratematch.match.matching import Objective
from ratematch.match.packing import Packing
from ratematch.match.solver import MatchProblem, Rows, join_rows, near_front, solve_cells

MARGIN = 1e-7
"""What is left out is worse than something kept by more than this share: far above the last digits of a float."""

MOST_CELLS = 20_000_000
"""Deployments that are looked at: some seconds."""

MOST_WAITING = 100_000
"""Rows that are held before those that later ones have beaten are dropped."""

MOST_BARS = 4000
"""Points of the front so far that others are held against."""


@dataclass(frozen=True)
class Search:
    """What is searched: ``problems`` with the ``osl`` of each, their budget, and what a row is judged by."""

    problems: Sequence[MatchProblem]
    osl: Sequence[float]
    max_gpus: int
    packing: Packing | None = None
    coprime: bool = False
    tpot_limit_s: float | None = None
    objective: Objective = "per_used_gpu"

    def budget(self, problem: MatchProblem) -> Budget:
        """The cells of one of the problems."""
        return Budget(problem.ctx.gpus, problem.gen.gpus, self.max_gpus, self.packing, self.coprime)

    def num_cells(self) -> int:
        """How many deployments fit, copies and what the nodes cannot carry counted too."""
        return sum(self.budget(problem).count() for problem in self.problems)

    def check_size(self, most: int = MOST_CELLS) -> None:
        """Refuses a search that would not end in a sensible time.

        Raises:
            UserError: more than ``most`` deployments fit.
        """
        number = self.num_cells()
        if number > most:
            raise UserError(
                f"{number:,} deployments of {len(self.problems):,} pairs of ctx and gen servers fit "
                f"{self.max_gpus:,} GPUs, and at most {most:,} are looked at (lower --max-gpus)"
            )

    def count(self, cells: Cells) -> Floats:
        """GPUs that the score of each cell is over; 1 where it is output tok/s."""
        match self.objective:
            case "per_used_gpu":
                return cells.gpus.astype(np.float64)
            case "per_allocated_gpu":
                return cells.gpus_allocated.astype(np.float64)
            case "tok_s_in_budget":
                return np.ones(cells.size)


def sift_front(search: Search) -> Rows:
    """The rows that no other beats by more than ``MARGIN``: those of the front and all that tie with them."""
    bars = _Bars()
    for k, problem in enumerate(search.problems):
        sample = sample_cells(search.budget(problem))
        sample = sample.take(_may_stand(search, k, sample, bars))
        bars.raise_by(*_figures(search, k, solve_cells(k, problem, sample, search.tpot_limit_s)))
    front, parts, waiting = join_rows([]), [], 0
    for cells, numbers in _by_size(search):
        for k in numbers:
            hopeful = cells.take(_may_stand(search, k, cells, bars))
            rows = solve_cells(k, search.problems[k], hopeful, search.tpot_limit_s)
            u, p = _figures(search, k, rows)
            kept = bars.reached(u, p)
            bars.raise_by(u[kept], p[kept])
            parts.append(rows.take(kept))
            waiting += parts[-1].size
        if waiting > max(MOST_WAITING, front.size // 2):
            front, parts, waiting = _near(search, [front, *parts]), [], 0
    return _near(search, [front, *parts])


def _near(search: Search, parts: Sequence[Rows]) -> Rows:
    """The rows of ``parts`` near their front."""
    rows = join_rows(parts)
    score = rows.score(np.array(search.osl)[rows.pair], search.objective) if rows.size else np.zeros(0)
    return rows.take(near_front(rows.tok_s_user, score, MARGIN))


def sift_best(search: Search) -> Rows:
    """Of each problem the rows whose score is its best, to the last digits."""
    best = [0.0] * len(search.problems)
    parts: list[list[Rows]] = [[] for _ in best]
    for cells, numbers in _by_size(search):
        for k in numbers:
            most = _most(search, k, cells)
            first = cells.take(np.argsort(-most)[:1])
            best[k] = max(best[k], _best_score(search, k, first))
            hopeful = cells.take(most >= best[k] * (1 - MARGIN))
            rows = solve_cells(k, search.problems[k], hopeful, search.tpot_limit_s)
            _, score = _figures(search, k, rows)
            best[k] = max(best[k], float(score.max(initial=0.0)))
            parts[k].append(rows.take(score >= best[k] * (1 - MARGIN)))
    joined = [join_rows(own) for own in parts]
    return join_rows(
        [rows.take(_figures(search, k, rows)[1] >= best[k] * (1 - MARGIN)) for k, rows in enumerate(joined)]
    )


def _best_score(search: Search, k: int, cells: Cells) -> float:
    """Of the rows of some cells of the ``k``-th problem; 0 where they have none."""
    _, score = _figures(search, k, solve_cells(k, search.problems[k], cells, search.tpot_limit_s))
    return float(score.max(initial=0.0))


def _by_size(search: Search) -> Iterator[tuple[Cells, list[int]]]:
    """Every block of cells, once for all the problems with instances of these sizes; and their numbers."""
    numbers: dict[Budget, list[int]] = {}
    for k, problem in enumerate(search.problems):
        numbers.setdefault(search.budget(problem), []).append(k)
    for budget, own in numbers.items():
        for cells in blocks(budget):
            yield cells, own


def _figures(search: Search, k: int, rows: Rows) -> tuple[Floats, Floats]:
    return rows.tok_s_user, rows.score(search.osl[k], search.objective)


def _most(search: Search, k: int, cells: Cells) -> Floats:
    """What no row of a cell exceeds: the score at its highest demand."""
    problem = search.problems[k]
    gen = problem.gen.req_s(_highest_rate(problem, search.tpot_limit_s))
    demand = np.minimum(problem.feeding(cells.x, cells.y) * problem.ctx.capacities[-1], cells.y * gen)
    return np.asarray(demand * search.osl[k] / search.count(cells))


def _highest_rate(problem: MatchProblem, tpot_limit_s: float | None) -> float:
    """No gen instance within the TPOT limit has more tok/s; 0 when there is none.

    Between two measured loads the tail, TPOT alone, and what posting makes of it are no lower than at the lower of
    both, which is all that is used. Below the first TPOT alone stays, and posting takes ever less.
    """
    curve, gen = problem.gen.curve, problem.gen
    if tpot_limit_s is None:
        return curve.max_rate
    tpot = np.array(curve.loads) / np.array(curve.rates)
    posting = 1 / (1 - gen.req_s(np.array(curve.rates)) * gen.extra_s)
    least_posting = np.minimum(posting, [1.0, *posting[:-1]])
    tail = np.interp(curve.loads, problem.loads, problem.tail) if problem.loads else np.ones_like(tpot)
    highest = 0.0
    for at, rate in enumerate(curve.rates):
        before = max(at - 1, 0)
        inside = np.array([t for t, load in zip(problem.tail, problem.loads, strict=True)]) if problem.loads else tail
        least_tail = float(min(tail[before], tail[at], inside.min(initial=np.inf)))
        least_tpot = min(tpot[before], tpot[at]) * least_posting[at]
        if least_tpot * least_tail <= tpot_limit_s * (1 + MARGIN):
            highest = rate
    return highest


def _may_stand(search: Search, k: int, cells: Cells, bars: _Bars) -> Bools:
    """Which cells have a demand whose score reaches the front so far at the tok/s/user that it gives."""
    problem, per_count = search.problems[k], search.osl[k] / search.count(cells)
    gen, curve = problem.gen, problem.gen.curve
    loads, rates = np.array(curve.loads), np.array(curve.rates)
    most_gen = cells.y * gen.req_s(curve.max_rate)
    feeding = problem.feeding(cells.x, cells.y)
    reached = np.zeros(cells.size, dtype=np.bool_)
    for rate, load in zip(curve.rates, curve.loads, strict=True):
        demand = cells.y * gen.req_s(rate)
        fed = demand <= feeding * problem.ctx.capacities[-1] * (1 + MARGIN)
        reached |= fed & (
            demand * per_count >= bars.at(gen.req_s(rate) * gen.tokens_per_request / load) * (1 - MARGIN)
        )
    for capacity in problem.ctx.capacities:
        demand = feeding * capacity
        rest = np.flatnonzero(~reached & (demand > 0) & (demand <= most_gen * (1 + MARGIN)))
        if not rest.size:
            continue
        given = demand[rest] / cells.y[rest]
        held, _ = throttle_all(loads, rates, np.minimum(gen.alone_tok_s(given), curve.max_rate))
        given = given * gen.tokens_per_request
        reached[rest] = demand[rest] * per_count[rest] >= bars.at(given / held) * (1 - MARGIN)
    return reached


class _Bars:
    """Points of rows that exist: what another row with as much u has to reach in p."""

    def __init__(self) -> None:
        self._u: Floats = np.zeros(0)
        self._p: Floats = np.zeros(0)

    def raise_by(self, u: Floats, p: Floats) -> None:
        """Takes further points in; of many the front is thinned, which leaves less out and nothing wrongly."""
        u, p = np.concatenate([self._u, u]), np.concatenate([self._p, p])
        order = np.lexsort((-p, -u))
        u, p = u[order], p[order]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(p)[:-1]]) if p.size else p
        u, p = u[p > before][::-1], p[p > before][::-1]
        step = -(-u.size // MOST_BARS) if u.size else 1
        self._u, self._p = u[::step], p[::step]

    def at(self, u: Floats | float) -> Floats:
        """Most p of a point with clearly more than ``u``; 0 where there is none."""
        index = np.searchsorted(self._u, np.asarray(u) * (1 + MARGIN), side="left")
        known = np.concatenate([self._p, [0.0]])
        return np.asarray(known[np.minimum(index, self._p.size)])

    def reached(self, u: Floats, p: Floats) -> Bools:
        """Which points none of these beats clearly."""
        return np.asarray(p >= self.at(u) * (1 - MARGIN))
