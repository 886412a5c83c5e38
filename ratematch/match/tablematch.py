"""A table of rates to the plans and fronts they predict: what ``ratematch match`` shows.

Rows of the table become the configurations that a sweep's measurements become (:mod:`ratematch.match.tablerates`);
from there on the way is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ratematch.errors import Problem, TableError, UserError
from ratematch.match.closedloop import Operating, operate
from ratematch.match.compare import compare_fronts, pair_draws
from ratematch.match.curves import Reading
from ratematch.match.frontier import Front, FrontPoints, Solved, best_of_pairs, front_of_pairs, solve_pairs
from ratematch.match.measuredfront import measure_front
from ratematch.match.notes import describe_queues
from ratematch.match.options import CtxOption
from ratematch.match.pairs import Pair, find_bound, meet_tpot_limit, pair_options, put_in_service
from ratematch.match.pareto import extract_front
from ratematch.match.points import Point, Speedup, objectives
from ratematch.match.question import Question
from ratematch.match.table import TableRow, check_identities, describe_rows, merge_repeats, select_workload
from ratematch.match.tablerates import (
    NO_CTX,
    TableCtx,
    TableGen,
    TableIfb,
    TableNoise,
    keep_options,
    list_options,
    read_ctx,
    read_gen,
    read_ifb,
    read_noise,
)
from ratematch.plan.parallelism import parse_mapping

IFB_SEED = 1
"""Of the draws of the IFB front."""


MOST_LISTED = 50_000
"""Plans that are listed, where all are wanted."""


@dataclass(frozen=True)
class TableOptions:
    """Options of a table beside the question.

    ``osl``: output length to match, ``None`` takes that of most gen rows. ``concurrencies``: requests in flight to
    predict the plans shown at. ``all_plans``: every feasible plan instead of the best of each pair. ``piece_us``:
    what posting one piece of a KV transfer takes of a gen server, for rows with ``kv_pieces``, microseconds.
    """

    osl: int | None = None
    concurrencies: tuple[int, ...] = ()
    all_plans: bool = False
    piece_us: float = 3.2


@dataclass(frozen=True)
class IdealRow:
    """A gen row at its ideal, fractional share of the ctx configuration with most requests/s per GPU."""

    pair: Pair
    row: TableRow
    point: Point
    on_front: bool = False


@dataclass(frozen=True)
class ClosedLoopRow:
    """``x`` ctx and ``y`` gen instances of a pair with a number of requests in flight, as a benchmark holds them.

    TTFT is ctx as it was measured, and what waits beyond the limit; KV transfer, router and uneven arrivals are not
    in it.
    """

    pair: Pair
    x: int
    y: int
    at: Operating


@dataclass(frozen=True)
class TableMatch:
    """``ideal``: of each gen row. ``plans``: the best of every ctx and gen pair (or all of them), best first by the
    objective. ``front`` and ``ifb_front``: ascending tok/s/user; with intervals where the table has repeats.
    ``closed_loop``: each deployment among ``plans`` at the given concurrencies. ``notes``: in words."""

    osl: int
    question: Question
    ideal: tuple[IdealRow, ...]
    plans: tuple[Point, ...]
    front: FrontPoints
    ifb_front: tuple[TableIfb, ...]
    speedup: tuple[Speedup, ...]
    notes: tuple[str, ...]
    closed_loop: tuple[ClosedLoopRow, ...] = ()


def match_table(
    rows: Sequence[TableRow], question: Question, options: TableOptions | None = None, *, name: str
) -> TableMatch:
    """Match the rates of a table. ``question``: filled in. ``name``: what to call the table in messages.

    Raises:
        TableError: nothing can be matched; the message says what is missing.
    """
    options = options or TableOptions()
    rows, osl, notes = select_workload(rows, options.osl, name)
    rows, repeated = merge_repeats(rows)
    notes += [*repeated, *_describe_other_gpus(rows), *check_identities(rows, osl)]
    noise = read_noise(rows)
    ctx = read_ctx([row for row in rows if row.role == "ctx"], question, noise, name, notes)
    gen = read_gen([row for row in rows if row.role == "gen"], osl, noise, notes, options.piece_us * 1e-6)
    notes += _describe_posting(rows, options.piece_us)
    ifb = read_ifb([row for row in rows if row.role == "ifb"], question, osl, notes)
    _check_enough(ctx, gen, ifb, name, notes)
    gen_options = [configuration.option for configuration in gen]
    every = _post(pair_options(list_options(ctx), gen_options))
    notes += _describe_assumed(every, gen)
    limits = question.constraints
    held = put_in_service(meet_tpot_limit(every, limits), limits)
    solved = _solve(held, question, f"OSL {osl}", all_plans=options.all_plans)
    if every and not solved.rows.size:
        notes.append(_describe_no_plan(question))
    best = _sort(solved) if options.all_plans else _best_of_pairs(solved)
    notes += describe_queues(held, question)
    kept = keep_options(ctx)
    notes += _describe_beaten(ctx, kept)
    matched = put_in_service(meet_tpot_limit(_post(pair_options(kept, gen_options)), limits), limits)
    front = front_of_pairs(matched, question, workload=f"OSL {osl}")
    notes += front.notes
    if front.points.num_clamped:
        notes.append(
            f"{front.points.num_clamped} of {len(front.points)} front plans are clamped: their demand lies below the "
            "smallest gen concurrency measured, TPOT is read there"
        )
    ifb_front, speedup = _over_ifb(front, ifb, noise, question)
    closed_loop = _close_loop(solved, best, ctx, options.concurrencies, notes)
    return TableMatch(
        osl=osl,
        question=question,
        ideal=_find_ideal(every, gen, question, osl),
        plans=tuple(solved.point(k) for k in best),
        front=front.points,
        ifb_front=ifb_front,
        speedup=speedup,
        notes=tuple(notes),
        closed_loop=closed_loop,
    )


def _post(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs with what gen rows say of posting as a part of TTFT too."""
    return [replace(pair, posting_s=pair.gen.rates.extra_s) for pair in pairs]


def _describe_other_gpus(rows: Sequence[TableRow]) -> Iterator[str]:
    """Rows whose label names a mapping of another number of GPUs than they say."""
    others: dict[tuple[str, int, int], list[int]] = {}
    for row in rows:
        with suppress(ValueError):  # a label may be any name
            if (gpus := parse_mapping(row.label).gpus) != row.gpus:
                others.setdefault((row.label, gpus, row.gpus), []).extend(row.rows)
    for (label, named, said), numbers in others.items():
        yield f"{describe_rows(numbers)}: {label} is {named} GPUs by its name, and gpus is {said}, which is used"


def _describe_posting(rows: Sequence[TableRow], piece_us: float) -> list[str]:
    """What ``kv_pieces`` are taken for."""
    idle = [row.row for row in rows if row.role != "gen" and row.kv_pieces is not None]
    notes = [f"{describe_rows(idle)}: kv_pieces counts on gen rows only"] if idle else []
    for pieces in sorted({row.kv_pieces for row in rows if row.role == "gen" and row.kv_pieces}):
        numbers = [number for row in rows if row.role == "gen" and row.kv_pieces == pieces for number in row.rows]
        notes.append(
            f"{describe_rows(numbers)}: {pieces:,} pieces x {piece_us:g} us = {pieces * piece_us / 1000:.3g} ms a "
            "request in which gen posts its KV transfer and nobody decodes; --piece-us changes it"
        )
    return notes


def _solve(pairs: Sequence[Pair], question: Question, workload: str, *, all_plans: bool) -> Solved:
    """Every row of every pair, or those that may be the best of it.

    Raises:
        UserError: more deployments fit than can be listed, or looked at.
    """
    if not all_plans:
        return best_of_pairs(pairs, question, workload=workload)
    solved = solve_pairs(pairs, question, workload=workload)
    if solved.rows.size > MOST_LISTED:
        raise UserError(f"{solved.rows.size:,} plans, and {MOST_LISTED:,} are listed at most (lower --max-gpus)")
    return solved


def _check_enough(
    ctx: Sequence[TableCtx], gen: Sequence[TableGen], ifb: Sequence[TableIfb], name: str, notes: list[str]
) -> None:
    """Refuses a table with nothing to match; what is missing of one with something is said in ``notes``."""
    if not (ctx and gen) and not ifb:
        why = [note for note in notes if note.startswith(NO_CTX) or "not on the front" in note]
        fix = "raise the limit" if why else "give ctx and gen rows, or ifb rows"
        raise TableError([Problem(name, "; ".join(["nothing to match", *why]), fix)])
    for role, configurations in (("ctx", ctx), ("gen", gen)):
        if not configurations:
            notes.append(f"no {role} row: nothing is rate-matched, only the ifb front is shown")


def _describe_assumed(pairs: Iterable[Pair], gen: Sequence[TableGen]) -> list[str]:
    """Gen rows that are matched with ctx rows of another MTP."""
    rows_of = {configuration.option.source: configuration.rows for configuration in gen}
    assumed: dict[tuple[int, int], set[int]] = {}
    for pair in pairs:
        ctx, own = pair.ctx.mtp, pair.gen.mtp
        if ctx is not None and own is not None and ctx != own:
            numbers = {number for row in rows_of[pair.gen.source] for number in row.rows}
            assumed.setdefault((ctx, own), set()).update(numbers)
    return [
        f"{describe_rows(numbers)}: no ctx row with mtp={own}; matched with mtp={ctx}, which is faster"
        for (ctx, own), numbers in assumed.items()
    ]


def _describe_beaten(ctx: Sequence[TableCtx], kept: Iterable[CtxOption]) -> list[str]:
    """ctx rows that no front is made of."""
    sources = {option.source for option in kept}
    numbers = [
        number
        for configuration in ctx
        if configuration.option.source not in sources
        for row in configuration.rows
        for number in row.rows
    ]
    if not numbers:
        return []
    return [
        f"{describe_rows(numbers)}: another ctx configuration has no more GPUs, no fewer requests/s and no longer "
        "TTFT; on no front"
    ]


def _describe_no_plan(question: Question) -> str:
    limits = [f"{question.budget_gpus} GPUs"]
    if question.packing is not None and question.nodes is not None:
        limits.append(f"{question.nodes} nodes of {question.gpus_per_node}")
    if question.tpot_ms is not None:
        limits.append(f"TPOT {question.tpot_ms:g} ms")
    if question.constraints.in_service:
        limits.append(f"TTFT {question.ttft_ms:g} ms in service")
    return f"no plan within {', '.join(limits)}"


def _find_ideal(pairs: Sequence[Pair], gen: Sequence[TableGen], question: Question, osl: int) -> tuple[IdealRow, ...]:
    rows: list[IdealRow] = []
    for configuration in gen:
        fed = [pair for pair in pairs if pair.gen is configuration.option]
        if not fed:
            continue
        pair = max(fed, key=lambda pair: (pair.ctx.rates.capacities[-1] / pair.ctx.rates.gpus, -pair.ctx.rates.gpus))
        for row in configuration.rows:
            load = row.concurrency or 0.0
            reading = Reading(load, row.rate, load / row.rate, clamped=False)
            bound = find_bound(pair, reading, question.constraints)
            if bound is not None:
                rows.append(IdealRow(pair, row, bound.point(f"OSL {osl}")))
    front = extract_front(rows, lambda row: objectives(row.point), prefer=lambda row: (row.row.row,))
    on_front = {row.row.row for row in front}
    return tuple(IdealRow(row.pair, row.row, row.point, row.row.row in on_front) for row in rows)


def _over_ifb(
    front: Front, ifb: Sequence[TableIfb], noise: TableNoise, question: Question
) -> tuple[tuple[TableIfb, ...], tuple[Speedup, ...]]:
    """The front of the aggregated servers, and that of the plans over it."""
    by_source = {server.point.sources: server for server in ifb}
    rows = [(server.point, noise.of(server.row)) for server in ifb]
    measured = measure_front(rows, draws=question.draws, seed=IFB_SEED)
    own, other = front.points.objectives(), [objectives(point) for point in measured.front]
    speedup = compare_fronts("rate_matched", own, other, pair_draws(front.draws, measured.draws))
    return tuple(by_source[point.sources] for point in measured.front), tuple(speedup)


def _close_loop(
    solved: Solved, best: Sequence[int], ctx: Sequence[TableCtx], concurrencies: Sequence[int], notes: list[str]
) -> tuple[ClosedLoopRow, ...]:
    """Each deployment among the plans, once, at every concurrency."""
    by_source = {configuration.option.source: configuration for configuration in ctx}
    rows = solved.rows
    closed: list[ClosedLoopRow] = []
    unknown: set[int] = set()
    deployments = dict.fromkeys((int(rows.pair[k]), int(rows.x[k]), int(rows.y[k])) for k in best)
    for number, x, y in deployments if concurrencies else ():
        pair = solved.pairs[number]
        configuration = by_source[pair.ctx.source]
        if configuration.loads_known:
            closed += [ClosedLoopRow(pair, x, y, operate(pair, x, y, concurrency)) for concurrency in concurrencies]
        else:
            unknown |= {number for row in configuration.rows for number in row.rows}
    if unknown:
        notes.append(
            f"{describe_rows(unknown)}: no concurrency and no ttft_ms, so nothing is predicted at a concurrency"
        )
    return tuple(closed)


def _sort(solved: Solved) -> list[int]:
    """Rows, best first by the objective. Equal plans reached by different sums must tie."""
    rows = solved.rows
    score = np.array([float(f"{value:.12g}") for value in solved.score])
    order = np.lexsort((rows.pair, -rows.tok_s_user, rows.gpus, rows.gpus_allocated, -score))
    return [int(k) for k in order]


def _best_of_pairs(solved: Solved) -> list[int]:
    best: dict[int, int] = {}
    for k in _sort(solved):
        best.setdefault(int(solved.rows.pair[k]), k)
    return list(best.values())
