"""Pairs of measured configurations to the rate-matched rows that are shown, with how sure each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.bootstrap import Factors, NoisyProblem, RowDraws, draw_factors, draw_fronts, draw_solved
from ratematch.match.feasibility import Site, feasible_rows
from ratematch.match.noise import interval, interval_about
from ratematch.match.objective import Counting
from ratematch.match.pairs import Pair, pose, row_point
from ratematch.match.points import Point
from ratematch.match.solver import Floats, Ints, Rows, front_indices, near_front, solve_rows
from ratematch.plan.load import Constraints

MOST_ROWS = 5000
"""More rows than this are not turned into points: the rest is neither drawn nor chosen."""

SHOWN_WITHIN = 0.2
"""Which rows are kept of more: those within this share of the front at their tok/s/user."""

TIE_CHANCE = 0.05
"""A row off the front that is on it in this share of draws or more cannot be told from it."""

MOST_TIES = 200
"""Rows nearest to the front that are tried for a tie."""


@dataclass(frozen=True)
class Frontier:
    """``plans``: rows shown, of ``num_rows`` solved. ``front``: ascending tok/s/user. ``draws``: the front of each
    bootstrap draw; empty when no noise is known. ``notes``: what the site cannot carry."""

    plans: tuple[Point, ...]
    num_rows: int
    front: tuple[Point, ...]
    ties: tuple[Point, ...]
    notes: tuple[str, ...]
    draws: tuple[tuple[tuple[float, float], ...], ...]


def find_frontier(
    pairs: Sequence[Pair],
    *,
    workload: str,
    constraints: Constraints,
    max_gpus: int,
    site: Site | None = None,
    draws: int = 0,
    seed: int = 0,
    counting: Counting | None = None,
) -> Frontier:
    """Every row of every pair, its front, and with ``draws`` > 0 the intervals of the front and what ties with it.

    ``site``: rows that it cannot carry are left out; nodes are counted on it. Rows are of deployments without a
    common divisor: k copies have the same figures per used GPU. ``counting``: which GPUs tok/s/GPU is over, those in
    use unless told; over others copies differ, and none is left out.
    """
    counting = counting or Counting()
    limit_s = None if constraints.tpot_ms is None else constraints.tpot_ms / 1000
    problems = [pose(pair) for pair in pairs]
    packing = site.packing if site is not None else None
    coprime = counting.objective == "per_used_gpu"
    rows = solve_rows(problems, max_gpus=max_gpus, packing=packing, coprime=coprime, tpot_limit_s=limit_s)
    notes: list[str] = []
    if site is not None:
        feasible, notes = feasible_rows(rows, pairs, site)
        rows = rows.take(feasible)
    osl = np.array([pair.gen.rates.tokens_per_request + 1 for pair in pairs])
    score = rows.score(osl[rows.pair], counting.objective) / counting.unit if rows.size else np.zeros(0)
    flagged = np.array([len(pair.flags) for pair in pairs], dtype=np.int64)
    front = front_indices(
        rows.tok_s_user,
        score,
        (flagged[rows.pair], rows.gen_clamped, rows.gpus, rows.ctx_load / rows.ctx_rate, rows.pair, rows.x),
    )
    kept = np.arange(rows.size)
    if rows.size > MOST_ROWS:
        kept = np.flatnonzero(near_front(rows.tok_s_user, score, SHOWN_WITHIN))
    # Points are compared by value: the front's own must be among the plans.
    points = {
        int(k): replace(row_point(pairs[int(rows.pair[k])], rows, int(k), workload), tok_s_gpu=float(score[k]))
        for k in {*kept, *front}
    }
    if constraints.ttft_ms is not None:
        bunched = {k for k in points if pairs[int(rows.pair[k])].bunching}
        points |= {k: _flag_ttft(points[k], constraints.ttft_ms) for k in bunched}
    drawn_fronts: list[tuple[Floats, Floats]] = []
    ties: list[Point] = []
    if draws and rows.size and any(_noise_known(pair) for pair in pairs):
        noisy = [NoisyProblem(p, pair.ctx.noise, pair.gen.noise) for p, pair in zip(problems, pairs, strict=True)]
        factors = draw_factors(noisy, draws=draws, seed=seed)
        drawn_fronts = [
            (u, p / counting.unit)
            for u, p in draw_fronts(
                problems,
                factors,
                max_gpus=max_gpus,
                osl=list(osl),
                objective=counting.objective,
                packing=packing,
                tpot_limit_s=limit_s,
            )
        ]
        for k in (int(k) for k in front):
            points[k] = _add_intervals(points[k], _draw(rows, k, score, pairs, factors, drawn_fronts))
        ties = _find_ties(rows, score, front, pairs, factors, drawn_fronts, workload)
    return Frontier(
        plans=tuple(points[k] for k in sorted(points)),
        num_rows=rows.size,
        front=tuple(points[int(k)] for k in front),
        ties=tuple(ties),
        notes=tuple(notes),
        draws=tuple(tuple((float(a), float(b)) for a, b in zip(u, p, strict=True)) for u, p in drawn_fronts),
    )


def _flag_ttft(point: Point, limit_ms: float) -> Point:
    """ctx rows are within the limit as measured; in bunches, which calibration adds, a plan may not be."""
    if point.ttft_ms <= limit_ms:
        return point
    return replace(point, flags=(*point.flags, f"TTFT over the limit of {limit_ms:g} ms with prompts in bunches"))


def _noise_known(pair: Pair) -> bool:
    return any(noise is not None for noise in (*pair.ctx.noise, *pair.gen.noise))


def _draw(
    rows: Rows,
    k: int,
    score: Floats,
    pairs: Sequence[Pair],
    factors: Factors,
    fronts: Sequence[tuple[Floats, Floats]],
) -> RowDraws:
    pair = pairs[int(rows.pair[k])]
    osl = pair.gen.rates.tokens_per_request + 1
    return draw_solved(pose(pair), factors, rows, k, score=float(score[k]), osl=osl, fronts=fronts)


def _add_intervals(point: Point, drawn: RowDraws) -> Point:
    low, high = interval_about(point.tok_s_gpu, drawn.score)
    ratio_low, ratio_high = interval(drawn.ratio)
    return replace(
        point,
        tok_s_gpu_low=low,
        tok_s_gpu_high=high,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        front_chance=drawn.on_front,
    )


def _in_digits(rows: Rows, score: Floats, k: int) -> tuple[str, str]:
    """The objectives of row ``k`` to twelve digits."""
    return f"{rows.tok_s_user[k]:.11e}", f"{score[k]:.11e}"


def _find_ties(
    rows: Rows,
    score: Floats,
    front: Ints,
    pairs: Sequence[Pair],
    factors: Factors,
    fronts: Sequence[tuple[Floats, Floats]],
    workload: str,
) -> list[Point]:
    """Rows off the front that are on it in at least ``TIE_CHANCE`` of the draws, likeliest first."""
    known = [noise.rel for pair in pairs for noise in (*pair.ctx.noise, *pair.gen.noise) if noise is not None]
    near = np.flatnonzero(near_front(rows.tok_s_user, score, min(0.5, 4 * max(known))))
    near = np.setdiff1d(near, front)
    # Copies of a deployment have the same figures and are no news: only the smallest is tried.
    near = near[np.argsort(rows.gpus[near], kind="stable")]
    seen = {_in_digits(rows, score, int(k)) for k in front}
    fresh: dict[tuple[str, str], int] = {}
    for k in (int(k) for k in near):
        fresh.setdefault(_in_digits(rows, score, k), k)
    near = np.array([k for digits, k in fresh.items() if digits not in seen], dtype=np.int64)
    if near.size > MOST_TIES:
        us, ps = rows.tok_s_user[front], score[front]
        best = ps[np.minimum(np.searchsorted(us, rows.tok_s_user[near]), ps.size - 1)]
        near = near[np.argsort(-(score[near] / best), kind="stable")[:MOST_TIES]]
    ties = []
    for k in (int(k) for k in near):
        drawn = _draw(rows, k, score, pairs, factors, fronts)
        if drawn.on_front >= TIE_CHANCE:
            point = row_point(pairs[int(rows.pair[k])], rows, k, workload)
            ties.append(_add_intervals(replace(point, tok_s_gpu=float(score[k])), drawn))
    return sorted(ties, key=lambda point: (-(point.front_chance or 0), point.label, point.req_s))
