"""What ``ratematch match`` found, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.match.points import Speedup
from ratematch.match.table import ClosedLoopRow, Sure, TableMatch, TablePlan
from ratematch.show.console import print_table, show_value, thin_front

PLAN_COLUMNS = ("ctx + gen", "GPUs", "req/s", "limit", "C/gen", "TPOT ms", "tok/s/user")
SCORES: dict[str, tuple[str, str]] = {
    "per_used_gpu": ("tok/s/GPU", "output tok/s per GPU in use"),
    "per_allocated_gpu": ("tok/s/GPU", "output tok/s per GPU of the nodes taken"),
    "tok_s_in_budget": ("tok/s", "output tok/s within the budget"),
}
"""Column and words of each objective: fronts and plans are shown by what they are ordered by."""


def match_to_json(found: TableMatch) -> dict[str, Any]:
    """``rate_matched``, ``plans``, ``front``, ``ifb_front`` and ``speedup``, each a list of flat rows; and
    ``closed_loop``, where concurrencies were asked for."""
    content = asdict(found)
    names = ["rate_matched", "plans", "front", "ifb_front", "speedup"]
    return {name: list(content[name]) for name in (*names, *(["closed_loop"] if found.closed_loop else []))}


def print_match(found: TableMatch, objective: str, console: Console) -> None:
    """Ideal ratios, best plans, both fronts and the speed-up; notes are printed by the caller."""
    if found.rate_matched:
        print_table(
            f"ideal ratio of each gen row, OSL {found.osl} (upper limit: no whole deployment reaches more)",
            ("ctx", "gen", "conc.", "ctx:gen", "tok/s/user", "tok/s/GPU"),
            [
                (row.ctx_label, row.gen_label, row.concurrency, row.ratio, row.tok_s_user, row.tok_s_gpu)
                for row in found.rate_matched
            ],
            console,
        )
        console.print()
    if found.plans:
        column, words = SCORES[objective]
        columns = (*PLAN_COLUMNS, column, "ideal")
        print_table(f"plans, best first by {words}", columns, _plan_rows(found.plans, objective), console)
        console.print()
        shown = thin_front(found.front)
        few = f" ({len(shown)} of {len(found.front)} rows, all with --json)" if len(shown) < len(found.front) else ""
        print_table(f"front of the plans{few}", columns, _plan_rows(shown, objective), console)
        if found.sure:
            console.print()
            known = {id(plan): sure for plan, sure in zip(found.front, found.sure, strict=True)}
            print_table(
                "how sure the front is, by the table's repeats",
                ("ctx + gen", column, "95 %", "ideal", "95 %", "on front"),
                [_sure_row(plan, known[id(plan)], objective) for plan in shown],
                console,
            )
        console.print(Text("C/gen: requests decoding in one gen instance; ideal: ctx:gen ratio of the rates"))
        console.print()
    if found.closed_loop:
        _print_closed_loop(found.closed_loop, console)
    if found.ifb_front:
        print_table(
            "IFB front (measured)",
            ("server", "GPUs", "conc.", "TPOT ms", "TTFT ms", "tok/s/user", SCORES[objective][0]),
            [
                (row.label, row.gpus, row.concurrency, row.tpot_ms, row.ttft_ms, row.tok_s_user, score)
                for row, score in zip(found.ifb_front, found.ifb_scores, strict=True)
            ],
            console,
        )
        console.print()
    if found.speedup:
        _print_speedup(found.speedup, console)
    elif found.front and found.ifb_front:
        console.print(Text("speed-up over IFB: undefined, the two fronts share no tok/s/user"))
    if any(row.clamped for row in (*found.plans, *found.front)) or any(row.clamped for row in found.closed_loop):
        console.print(
            Text("* below the smallest gen concurrency measured: TPOT is read there, the real one is lower")
        )


def _print_closed_loop(rows: Sequence[ClosedLoopRow], console: Console) -> None:
    print_table(
        "plans with so many requests in flight (TTFT without KV transfer, router and uneven arrivals)",
        ("ctx + gen", "in flight", "req/s", "limit", "TTFT ms", "TPOT ms", "tok/s/user", "tok/s/GPU"),
        [
            (
                f"{row.x}x{row.ctx_label}+{row.y}x{row.gen_label}",
                row.concurrency,
                row.req_s,
                (row.limit or "-") + (" *" if row.clamped else ""),
                row.ttft_ms,
                row.tpot_ms,
                row.tok_s_user,
                row.tok_s_gpu,
            )
            for row in rows
        ],
        console,
    )
    console.print()


def _print_speedup(rows: Sequence[Speedup], console: Console) -> None:
    intervals = any(row.step_low is not None for row in rows)
    names = ("tok/s/user", "step", "linear", *(("step 95 %", "linear 95 %") if intervals else ()))
    told = [
        (
            row.tok_s_user,
            row.step,
            row.linear,
            *((_span(row.step_low, row.step_high), _span(row.linear_low, row.linear_high)) if intervals else ()),
        )
        for row in rows
    ]
    print_table("speed-up over IFB at equal tok/s/user", names, told, console)
    console.print(
        Text("step: best points at that tok/s/user or faster, safe for an SLO; linear: between neighbouring points")
    )


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _plan_rows(plans: Sequence[TablePlan], objective: str) -> list[tuple[Any, ...]]:
    whole = all(plan.gpus == plan.gpus_allocated for plan in plans)
    return [
        _plan_row(plan, plan.gpus if whole else f"{plan.gpus}/{plan.gpus_allocated}", objective) for plan in plans
    ]


def _sure_row(plan: TablePlan, sure: Sure, objective: str) -> tuple[Any, ...]:
    ends = f"{show_value(sure.low)} to {show_value(sure.high)}"
    ratio = f"{show_value(sure.ratio_low)} to {show_value(sure.ratio_high)}"
    return (_name(plan), _score(plan, objective), ends, plan.ratio, ratio, f"{sure.chance:.0%}")


def _name(plan: TablePlan) -> str:
    return f"{plan.x}x{plan.ctx_label}+{plan.y}x{plan.gen_label}"


def _score(plan: TablePlan, objective: str) -> float:
    found = {"per_allocated_gpu": plan.tok_s_gpu_allocated, "tok_s_in_budget": plan.tok_s}
    return found.get(objective, plan.tok_s_gpu)


def _plan_row(plan: TablePlan, gpus: int | str, objective: str) -> tuple[Any, ...]:
    return (
        _name(plan),
        gpus,
        plan.req_s,
        plan.limit + (" *" if plan.clamped else ""),
        plan.concurrency_per_gen,
        plan.tpot_ms,
        plan.tok_s_user,
        _score(plan, objective),
        plan.ratio,
    )
