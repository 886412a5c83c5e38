"""Rates from a table to the plans and fronts they predict: what ``ratematch match`` shows.

``tok_s`` of a table is output tokens/s, and a request asks OSL of them: R_g = T / OSL (published tables count so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.errors import Problem as TableProblem
from ratematch.errors import TableError
from ratematch.match.bootstrap import Factors, NoisyProblem, draw_factors, draw_fronts, draw_solved
from ratematch.match.closedloop import settle
from ratematch.match.compare import compare_fronts, draw_measured_fronts
from ratematch.match.matching import bound_tok_s_gpu, show_ratio, solve_ratio
from ratematch.match.noise import Noise, interval, interval_about, noise_of_mean, pool_noise
from ratematch.match.packing import Packing, allocated_gpus
from ratematch.match.pareto import extract_front
from ratematch.match.solver import LIMITS, Floats, Problem, Rows, front_indices, solve_rows
from ratematch.match.table import (
    Asked,
    Bound,
    ClosedLoopRow,
    IfbRow,
    Sure,
    TableMatch,
    TablePlan,
    TableRow,
    check_identities,
    merge_repeats,
    say_rows,
    select_workload,
)
from ratematch.match.tableread import NO_CTX, CtxRows, GenRows, Pairs, pair_up, read_ctx, read_gen, read_ifb


def match_table(rows: Sequence[TableRow], asked: Asked, *, name: str, all_plans: bool = False) -> TableMatch:
    """Solve a table. ``all_plans``: every feasible (x, y) at every demand instead of the best of each pair.

    Raises:
        TableError: nothing can be matched; the message says what is missing.
    """
    rows, osl, notes = select_workload(rows, asked.osl, name)
    rows, repeated = merge_repeats(rows)
    notes += [*repeated, *check_identities(rows, osl)]
    ctx = read_ctx([row for row in rows if row.role == "ctx"], asked, name, notes)
    gen = read_gen([row for row in rows if row.role == "gen"], osl, notes)
    ifb = read_ifb([row for row in rows if row.role == "ifb"], asked, notes)
    if not (ctx and gen) and not ifb:
        why = [note for note in notes if note.startswith(NO_CTX) or "not on the front" in note]
        fix = "raise the limit" if why else "give ctx and gen rows, or ifb rows"
        raise TableError([TableProblem(name, "; ".join(["nothing to match", *why]), fix)])
    for role, there in (("ctx", ctx), ("gen", gen)):
        if not there:
            notes.append(f"no {role} row: nothing is rate-matched, only the ifb front is shown")
    pairs = pair_up(ctx, gen, notes)
    problems = [Problem(c.rates, g.rates) for c, g in pairs]
    limit_s = None if asked.tpot_ms is None else asked.tpot_ms / 1000
    solved = solve_rows(problems, max_gpus=asked.max_gpus, packing=asked.packing, tpot_limit_s=limit_s)
    if pairs and not solved.size:
        notes.append(_say_none(asked))
    score = solved.score(osl, asked.objective)
    front = front_indices(solved.tok_s_user, score, (solved.gpus_allocated, solved.gpus, solved.pair, solved.x))
    best = _sort(solved, score) if all_plans else _best_of_pairs(solved, score)
    plans = [_plan(solved, int(k), pairs, osl, asked.packing) for k in best]
    front_plans = [_plan(solved, int(k), pairs, osl, asked.packing) for k in front]
    scored = [(row, _ifb_score(row, asked)) for row in ifb]
    ifb_front = extract_front(
        scored, lambda pair: (pair[0].tok_s_user, pair[1]), prefer=lambda pair: (pair[0].gpus, pair[0].label)
    )
    clamped = [plan for plan in front_plans if plan.clamped]
    if clamped:
        notes.append(
            f"{len(clamped)} of {len(front_plans)} front plans are clamped: their demand lies below the smallest gen "
            "concurrency measured, TPOT is read there"
        )
    drawn = draw_table(rows, problems, [(c.row, g.rows) for c, g in pairs], asked, osl)
    speedup = compare_fronts(
        "rate_matched",
        [(plan.tok_s_user, float(score[k])) for k, plan in zip(front, front_plans, strict=True)],
        [(row.tok_s_user, value) for row, value in ifb_front],
        pair_fronts(drawn, [(row.tok_s_user, value) for row, value in scored]),
    )
    bounds = _bounds(pairs, osl, asked)
    closed = _close_loop(solved, best, pairs, osl, asked, notes) if asked.concurrencies else []
    return TableMatch(
        osl=osl,
        rate_matched=bounds,
        plans=tuple(plans),
        front=tuple(front_plans),
        ifb_front=tuple(row for row, _ in ifb_front),
        ifb_scores=tuple(value for _, value in ifb_front),
        speedup=tuple(speedup),
        notes=tuple(notes),
        closed_loop=tuple(closed),
        sure=tuple(judge_row(drawn, solved, int(k), score, osl) for k in front) if drawn is not None else (),
    )


def _say_none(asked: Asked) -> str:
    limits = [f"{asked.max_gpus} GPUs"]
    if asked.packing is not None and asked.packing.nodes is not None:
        limits.append(f"{asked.packing.nodes} nodes of {asked.packing.gpus_per_node}")
    if asked.tpot_ms is not None:
        limits.append(f"TPOT {asked.tpot_ms:g} ms")
    return f"no plan within {', '.join(limits)}"


def _bounds(pairs: Pairs, osl: int, asked: Asked) -> tuple[Bound, ...]:
    rows: list[tuple[CtxRows, GenRows, TableRow, float]] = []
    for g in dict.fromkeys(id(g) for _, g in pairs):
        fed = [(c, gen) for c, gen in pairs if id(gen) == g]
        c, gen = max(fed, key=lambda pair: (pair[0].row.rate / pair[0].row.gpus, -pair[0].row.gpus))
        for row in gen.rows:
            tpot_ms = 1000 * (row.concurrency or 0) / row.rate
            if asked.tpot_ms is None or tpot_ms <= asked.tpot_ms:
                rows.append((c, gen, row, bound_tok_s_gpu(osl, c.row.gpus, c.row.rate, row.gpus, row.rate / osl)))
    points = [(row.rate / (row.concurrency or 1), value) for _, _, row, value in rows]
    front = set(extract_front(range(len(points)), lambda k: points[k], prefer=lambda k: (rows[k][2].row,)))
    return tuple(
        Bound(
            ctx_label=c.row.label,
            gen_label=gen.label,
            mtp=gen.mtp,
            concurrency=row.concurrency or 0.0,
            ratio=show_ratio(solve_ratio(c.row.rate, row.rate / osl)),
            req_s_gen=row.rate / osl,
            req_s_ctx=c.row.rate,
            tpot_ms=1000 * (row.concurrency or 0.0) / row.rate,
            tok_s_user=points[k][0],
            tok_s_gpu=value,
            on_front=k in front,
            extra=row.extra,
        )
        for k, (c, gen, row, value) in enumerate(rows)
    )


def _close_loop(
    rows: Rows,
    best: Sequence[int],
    pairs: Pairs,
    osl: int,
    asked: Asked,
    notes: list[str],
) -> list[ClosedLoopRow]:
    """Each deployment among the plans, once, at every concurrency asked for."""
    found: list[ClosedLoopRow] = []
    unknown: list[int] = []
    for number, x, y in dict.fromkeys((int(rows.pair[k]), int(rows.x[k]), int(rows.y[k])) for k in best):
        ctx, gen = pairs[number]
        if ctx.loaded is None:
            unknown += ctx.row.rows
            continue
        gpus = x * ctx.row.gpus + y * gen.rates.gpus
        for concurrency in asked.concurrencies:
            at = settle(ctx.loaded, gen.rates, x, y, concurrency)
            found.append(
                ClosedLoopRow(
                    ctx_label=ctx.row.label,
                    gen_label=gen.label,
                    x=x,
                    y=y,
                    gpus=gpus,
                    concurrency=concurrency,
                    req_s=at.req_s,
                    limit=at.limit,
                    concurrency_per_gen=at.req_s * osl * at.tpot_s / y,
                    ttft_ms=at.ttft_s * 1000,
                    tpot_ms=at.tpot_s * 1000,
                    tok_s_user=1 / at.tpot_s,
                    tok_s=at.req_s * osl,
                    tok_s_gpu=at.req_s * osl / gpus,
                    clamped=at.clamped,
                )
            )
    if unknown:
        notes.append(f"{say_rows(unknown)}: no concurrency and no ttft_ms, so nothing is predicted at a concurrency")
    return found


def _sort(rows: Rows, score: Floats) -> list[int]:
    order = np.lexsort((rows.pair, -rows.tok_s_user, rows.gpus, rows.gpus_allocated, -_rounded(score)))
    return [int(k) for k in order]


def _rounded(score: Floats) -> Floats:
    # Equal plans reached by different sums must tie.
    return np.array([float(f"{value:.12g}") for value in score])


def _best_of_pairs(rows: Rows, score: Floats) -> list[int]:
    best: dict[int, int] = {}
    for k in _sort(rows, score):
        best.setdefault(int(rows.pair[k]), k)
    return list(best.values())


def _plan(rows: Rows, k: int, pairs: Pairs, osl: int, packing: Packing | None) -> TablePlan:
    ctx, gen = pairs[int(rows.pair[k])]
    plan = rows.plan(k)
    allocated = int(rows.gpus_allocated[k])
    tok_s = plan.req_s * osl
    gen_rate = gen.rates.curve.max_rate if plan.limit == "ctx" else plan.gen.rate
    return TablePlan(
        ctx_label=ctx.row.label,
        gen_label=gen.label,
        x=plan.x,
        y=plan.y,
        gpus=plan.gpus,
        gpus_allocated=allocated,
        nodes=int(rows.nodes[k]) if packing is not None else None,
        req_s=plan.req_s,
        limit=LIMITS[int(rows.limit[k])],
        concurrency=plan.gen.load * plan.y,
        concurrency_per_gen=plan.gen.load,
        tpot_ms=plan.tpot_s * 1000,
        tok_s_user=1 / plan.tpot_s,
        tok_s=tok_s,
        tok_s_gpu=tok_s / plan.gpus,
        tok_s_gpu_allocated=tok_s / allocated,
        ratio=show_ratio(solve_ratio(ctx.row.rate, gen_rate / osl)),
        clamped=plan.clamped,
    )


def _ifb_score(row: IfbRow, asked: Asked) -> float:
    """An aggregated server in the objective's unit: whole copies of it, in the budget or on whole nodes."""
    if asked.objective == "tok_s_in_budget":
        return row.tok_s * (asked.max_gpus // row.gpus)
    if asked.objective == "per_allocated_gpu" and asked.packing is not None:
        return row.tok_s / allocated_gpus(row.gpus, asked.packing)
    return row.tok_s_gpu


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
