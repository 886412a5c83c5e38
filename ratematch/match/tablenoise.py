"""A table's rates drawn again by the spread of its repeats, through the whole solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratematch.match.bootstrap import Factors, NoisyProblem, draw_factors, draw_fronts, draw_solved
from ratematch.match.compare import draw_measured_fronts
from ratematch.match.noise import Floats, Noise, interval, interval_about, noise_of_mean, pool_noise
from ratematch.match.solver import Problem, Rows
from ratematch.match.table import TableRow
from ratematch.match.tablepoints import Asked, Sure

DRAWS = 200
"""Bootstrap draws: the ends of a 95 % interval then move by a few per cent of its width."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class DrawnTable:
    """``fronts``: of the plans, in each draw. ``pooled``: relative deviation of one run of the table."""

    problems: tuple[Problem, ...]
    factors: Factors
    fronts: tuple[tuple[Floats, Floats], ...]
    pooled: Noise


def draw_table(
    rows: Sequence[TableRow],
    problems: Sequence[Problem],
    measured: Sequence[tuple[TableRow, Sequence[TableRow]]],
    asked: Asked,
    osl: int,
) -> DrawnTable | None:
    """The plans as they might have been measured; ``None`` without repeats. ``measured``: of each problem its ctx row
    and its gen rows by concurrency."""
    pooled = pool_noise([row.spread for row in rows if row.spread])
    if pooled is None or pooled.rel == 0 or not problems:
        return None

    def noise(row: TableRow) -> Noise | None:
        return noise_of_mean(len(row.rows), pooled, [None])

    noisy = [
        NoisyProblem(problem, (noise(ctx),), tuple(noise(row) for row in gen))
        for problem, (ctx, gen) in zip(problems, measured, strict=True)
    ]
    factors = draw_factors(noisy, draws=DRAWS, seed=0)
    fronts = draw_fronts(
        problems,
        factors,
        max_gpus=asked.max_gpus,
        osl=osl,
        objective=asked.objective,
        packing=asked.packing,
        tpot_limit_s=None if asked.tpot_ms is None else asked.tpot_ms / 1000,
    )
    return DrawnTable(tuple(problems), factors, tuple(fronts), pooled)


def judge_row(drawn: DrawnTable, rows: Rows, k: int, score: Floats, osl: int) -> Sure:
    """How sure row ``k`` is, a row of the front; ``score``: what the front is ordered by."""
    problem = drawn.problems[int(rows.pair[k])]
    found = draw_solved(problem, drawn.factors, rows, k, score=float(score[k]), osl=osl, fronts=drawn.fronts)
    return Sure(*interval_about(float(score[k]), found.score), *interval(found.ratio), found.on_front)


def pair_fronts(drawn: DrawnTable | None, ifb: Points) -> list[tuple[Points, Points]]:
    """In each draw the front of the plans and that of the aggregated servers; ``ifb``: their (tok/s/user, score)."""
    if drawn is None or not ifb:
        return []
    measured = draw_measured_fronts(ifb, [drawn.pooled] * len(ifb), draws=DRAWS, seed=1)
    return [
        ([(float(a), float(b)) for a, b in zip(u, p, strict=True)], other)
        for (u, p), other in zip(drawn.fronts, measured, strict=True)
    ]
