"""What ``ratematch match`` says of a table of rates, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.match.objective import score_unit
from ratematch.match.points import Point, Speedup
from ratematch.match.tablematch import ClosedLoopRow, IdealRow, TableMatch
from ratematch.match.tablerates import TableIfb
from ratematch.show.console import print_table, show_value, thin_places
from ratematch.show.headline import HOW, state_gain
from ratematch.show.streamed import Streamed

PLAN_COLUMNS = ("ctx + gen", "GPUs", "req/s", "limit", "C/gen", "TPOT ms", "tok/s/user")
SCORES: dict[str, tuple[str, str]] = {
    "per_used_gpu": ("tok/s/GPU", "output tok/s per GPU in use"),
    "per_allocated_gpu": ("tok/s/GPU", "output tok/s per GPU of the nodes taken"),
    "tok_s_in_budget": ("tok/s", "output tok/s within the budget"),
}
"""Column and words of each objective: fronts and plans are shown by what they are ordered by."""

Json = dict[str, Any]


def match_to_json(match: TableMatch) -> Json:
    """``rate_matched``, ``plans``, ``front``, ``ifb_front`` and ``speedup``, each a list of flat rows; and
    ``closed_loop``, where concurrencies were asked for. Plans that are held to a TTFT limit in service have it."""
    in_service = match.question.constraints.in_service

    def plan(point: Point) -> Json:
        return _plan_to_json(point) | ({"ttft_ms": point.ttft_ms} if in_service else {})

    content: Json = {
        "rate_matched": [_ideal_to_json(row) for row in match.ideal],
        "plans": [plan(point) for point in match.plans],
        "front": Streamed(match.front, plan),
        "ifb_front": [_ifb_to_json(server) for server in match.ifb_front],
        "speedup": [asdict(row) for row in match.speedup],
    }
    if match.closed_loop:
        content["closed_loop"] = [_closed_to_json(row) for row in match.closed_loop]
    return content


def _ideal_to_json(ideal: IdealRow) -> Json:
    """``req_s_gen`` and ``req_s_ctx``: requests/s of one instance each."""
    point, row = ideal.point, ideal.row
    return {
        "ctx_label": point.ctx_mapping,
        "gen_label": point.gen_mapping,
        "mtp": row.mtp,
        "concurrency": row.concurrency,
        "ratio": point.ratio,
        "req_s_gen": point.req_s,
        "req_s_ctx": ideal.pair.ctx.rates.capacities[-1],
        "tpot_ms": point.tpot_ms,
        "tok_s_user": point.tok_s_user,
        "tok_s_gpu": point.tok_s_gpu,
        "on_front": ideal.on_front,
        "extra": row.extra,
    }


def _plan_to_json(point: Point) -> Json:
    """``concurrency``: requests decoding in all gen instances. ``nodes`` is ``null`` and ``gpus_allocated`` the used
    GPUs when nobody said how many GPUs a node has."""
    allocated = point.gpus_allocated or point.gpus
    return {
        "ctx_label": point.ctx_mapping,
        "gen_label": point.gen_mapping,
        "x": point.ctx,
        "y": point.gen,
        "gpus": point.gpus,
        "gpus_allocated": allocated,
        "nodes": point.nodes,
        "req_s": point.req_s,
        "limit": point.limit,
        "concurrency": _decoding(point) * point.gen,
        "concurrency_per_gen": _decoding(point),
        "tpot_ms": point.tpot_ms,
        "tok_s_user": point.tok_s_user,
        "tok_s": point.tok_s,
        "tok_s_gpu": point.tok_s / point.gpus,
        "tok_s_gpu_allocated": point.tok_s / allocated,
        "ratio": point.ratio,
        "clamped": point.clamped,
    }


def _decoding(point: Point) -> float:
    """Requests decoding in one gen instance, Little's law: its tok/s over those of one user."""
    return point.tok_s / point.gen * point.tpot_ms / 1000


def _ifb_to_json(server: TableIfb) -> Json:
    row, point = server.row, server.point
    return {
        "label": row.label,
        "mtp": row.mtp,
        "gpus": row.gpus,
        "concurrency": row.concurrency,
        "tpot_ms": point.tpot_ms,
        "ttft_ms": row.ttft_ms,
        "tok_s_user": point.tok_s_user,
        "tok_s": point.tok_s,
        "tok_s_gpu": point.tok_s / point.gpus,
        "extra": row.extra,
    }


def _closed_to_json(row: ClosedLoopRow) -> Json:
    """``limit``: what bounds the rate, ``null`` while the deployment could do more."""
    ctx, gen, at = row.pair.ctx, row.pair.gen, row.at
    gpus = row.x * ctx.rates.gpus + row.y * gen.rates.gpus
    return {
        "ctx_label": ctx.label,
        "gen_label": gen.label,
        "x": row.x,
        "y": row.y,
        "gpus": gpus,
        "concurrency": at.concurrency,
        "req_s": at.req_s,
        "limit": at.limit,
        "concurrency_per_gen": at.req_s * gen.osl * at.tpot_s / row.y,
        "ttft_ms": at.ttft_s * 1000,
        "tpot_ms": at.tpot_s * 1000,
        "tok_s_user": 1 / at.tpot_s,
        "tok_s": at.req_s * gen.osl,
        "tok_s_gpu": at.req_s * gen.osl / gpus,
        "clamped": at.clamped,
    }


def print_match(match: TableMatch, console: Console) -> None:
    """Ideal ratios, best plans, both fronts and the speed-up; notes are printed by the caller."""
    if match.ideal:
        print_table(
            f"ideal ratio of each gen row, OSL {match.osl} (upper limit: no whole deployment reaches more)",
            ("ctx", "gen", "conc.", "ctx:gen", "tok/s/user", "tok/s/GPU"),
            [
                (
                    row.point.ctx_mapping,
                    row.point.gen_mapping,
                    row.row.concurrency,
                    row.point.ratio,
                    row.point.tok_s_user,
                    row.point.tok_s_gpu,
                )
                for row in match.ideal
            ],
            console,
        )
        console.print()
    if match.plans:
        _print_plans(match, console)
    if match.closed_loop:
        _print_closed_loop(match.closed_loop, console)
    if match.ifb_front:
        _print_ifb(match, console)
    if match.speedup:
        _print_speedup(match.speedup, console)
    elif match.front and match.ifb_front:
        console.print(Text("speed-up over IFB: undefined, the two fronts share no tok/s/user"))
    clamped = match.front.num_clamped or any(point.clamped for point in match.plans)
    if clamped or any(row.at.clamped for row in match.closed_loop):
        console.print(
            Text("* below the smallest gen concurrency measured: TPOT is read there, the real one is lower")
        )


def _print_plans(match: TableMatch, console: Console) -> None:
    column, words = SCORES[match.question.objective]
    unit = score_unit(match.question)
    in_service = match.question.constraints.in_service
    columns = (*PLAN_COLUMNS, column, "TTFT ms" if in_service else "ideal")
    print_table(f"plans, best first by {words}", columns, _plan_rows(match.plans, unit, in_service), console)
    console.print()
    figures = zip(match.front.gpus(), match.front.objectives(), strict=True)
    shown = [match.front[at] for at in thin_places([(gpus, *point) for gpus, point in figures])]
    few = f" ({len(shown)} of {len(match.front)} rows, all with --json)" if len(shown) < len(match.front) else ""
    print_table(f"front of the plans{few}", columns, _plan_rows(shown, unit, in_service), console)
    if any(point.front_chance is not None for point in shown):
        console.print()
        print_table(
            "how sure the front is, by the table's repeats",
            ("ctx + gen", column, "95 %", "ideal", "95 %", "on front"),
            [_interval_row(point, unit) for point in shown],
            console,
        )
    last = "TTFT: mean, in service" if in_service else "ideal: ctx:gen ratio of the rates"
    console.print(Text(f"C/gen: requests decoding in one gen instance; {last}"))
    console.print()


def _print_ifb(match: TableMatch, console: Console) -> None:
    unit = score_unit(match.question)
    print_table(
        "IFB front (measured)",
        ("server", "GPUs", "conc.", "TPOT ms", "TTFT ms", "tok/s/user", SCORES[match.question.objective][0]),
        [
            (
                server.row.label,
                server.row.gpus,
                server.row.concurrency,
                server.point.tpot_ms,
                server.row.ttft_ms,
                server.point.tok_s_user,
                server.point.tok_s_gpu * unit,
            )
            for server in match.ifb_front
        ],
        console,
    )
    console.print()


def _print_closed_loop(rows: Sequence[ClosedLoopRow], console: Console) -> None:
    print_table(
        "plans with so many requests in flight (TTFT without KV transfer, router and uneven arrivals)",
        ("ctx + gen", "in flight", "req/s", "limit", "TTFT ms", "TPOT ms", "tok/s/user", "tok/s/GPU"),
        [
            (
                f"{row['x']}x{row['ctx_label']}+{row['y']}x{row['gen_label']}",
                row["concurrency"],
                row["req_s"],
                (row["limit"] or "-") + (" *" if row["clamped"] else ""),
                row["ttft_ms"],
                row["tpot_ms"],
                row["tok_s_user"],
                row["tok_s_gpu"],
            )
            for row in map(_closed_to_json, rows)
        ],
        console,
    )
    console.print()


def _print_speedup(rows: Sequence[Speedup], console: Console) -> None:
    intervals = any(row.step_low is not None for row in rows)
    names = ("tok/s/user", "step", "linear", *(("step 95 %", "linear 95 %") if intervals else ()))
    cells = [
        (
            row.tok_s_user,
            row.step,
            row.linear,
            *((_span(row.step_low, row.step_high), _span(row.linear_low, row.linear_high)) if intervals else ()),
        )
        for row in rows
    ]
    console.print(Text(state_gain(rows, HOW["rate_matched"]), style="bold"))
    print_table("speed-up over IFB at equal tok/s/user", names, cells, console)
    console.print(
        Text("step: best points at that tok/s/user or faster, safe for an SLO; linear: between neighbouring points")
    )


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _plan_rows(plans: Sequence[Point], unit: float, in_service: bool) -> list[tuple[Any, ...]]:
    """``in_service``: plans are held to a TTFT limit in service, and have their TTFT in place of the ideal ratio,
    which knows of no queue."""
    whole = all(point.gpus_allocated in (None, point.gpus) for point in plans)
    return [
        (
            *_plan_row(point, point.gpus if whole else f"{point.gpus}/{point.gpus_allocated}", unit),
            point.ttft_ms if in_service else point.ratio,
        )
        for point in plans
    ]


def _plan_row(point: Point, gpus: int | str, unit: float) -> tuple[Any, ...]:
    return (
        point.label,
        gpus,
        point.req_s,
        (point.limit or "-") + (" *" if point.clamped else ""),
        _decoding(point),
        point.tpot_ms,
        point.tok_s_user,
        point.tok_s_gpu * unit,
    )


def _interval_row(point: Point, unit: float) -> tuple[Any, ...]:
    low, high = point.tok_s_gpu_low, point.tok_s_gpu_high
    ends = [None if value is None else value * unit for value in (low, high)]
    return (
        point.label,
        point.tok_s_gpu * unit,
        f"{show_value(ends[0])} to {show_value(ends[1])}",
        point.ratio,
        f"{show_value(point.ratio_low)} to {show_value(point.ratio_high)}",
        "-" if point.front_chance is None else f"{point.front_chance:.0%}",
    )
