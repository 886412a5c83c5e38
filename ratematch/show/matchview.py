"""What ``ratematch match`` found, for a terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.match.tablematch import TableMatch, TablePlan
from ratematch.show.console import table

PLAN_COLUMNS = ("plan", "GPUs", "req/s", "limit", "conc./gen", "TPOT ms", "tok/s/user", "tok/s/GPU", "ideal")


def match_to_json(found: TableMatch) -> dict[str, Any]:
    """``rate_matched``, ``plans``, ``front``, ``ifb_front`` and ``speedup``, each a list of flat rows."""
    content = asdict(found)
    return {name: list(content[name]) for name in ("rate_matched", "plans", "front", "ifb_front", "speedup")}


def print_match(found: TableMatch, objective: str, console: Console) -> None:
    """Ideal ratios, best plans, both fronts and the speed-up; notes are printed by the caller."""
    if found.rate_matched:
        console.print(
            table(
                f"ideal ratio of each gen row, OSL {found.osl} (upper limit: no whole deployment reaches more)",
                ("ctx", "gen", "conc.", "ctx:gen", "tok/s/user", "tok/s/GPU"),
                [
                    (row.ctx_label, row.gen_label, row.concurrency, row.ratio, row.tok_s_user, row.tok_s_gpu)
                    for row in found.rate_matched
                ],
            )
        )
        console.print()
    if found.plans:
        title = f"plans, best first by {objective}"
        console.print(table(title, PLAN_COLUMNS, [_plan_row(plan) for plan in found.plans]))
        console.print()
        console.print(table("front of the plans", PLAN_COLUMNS, [_plan_row(plan) for plan in found.front]))
        console.print()
    if found.ifb_front:
        console.print(
            table(
                "IFB front (measured)",
                ("server", "GPUs", "conc.", "TPOT ms", "TTFT ms", "tok/s/user", "tok/s/GPU"),
                [
                    (row.label, row.gpus, row.concurrency, row.tpot_ms, row.ttft_ms, row.tok_s_user, row.tok_s_gpu)
                    for row in found.ifb_front
                ],
            )
        )
        console.print()
    if found.speedup:
        intervals = any(row.step_low is not None for row in found.speedup)
        names = ("tok/s/user", "step", "linear", *(("step 95 %", "linear 95 %") if intervals else ()))
        rows = [
            (
                row.tok_s_user,
                row.step,
                row.linear,
                *((_span(row.step_low, row.step_high), _span(row.linear_low, row.linear_high)) if intervals else ()),
            )
            for row in found.speedup
        ]
        console.print(table("speed-up over IFB at equal tok/s/user", names, rows))
    elif found.front and found.ifb_front:
        console.print(Text("speed-up over IFB: undefined, the two fronts share no tok/s/user"))


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _plan_row(plan: TablePlan) -> tuple[Any, ...]:
    name = f"{plan.x} x {plan.ctx_label} + {plan.y} x {plan.gen_label}"
    gpus = f"{plan.gpus}" if plan.gpus == plan.gpus_allocated else f"{plan.gpus} of {plan.gpus_allocated}"
    return (
        name,
        gpus,
        plan.req_s,
        plan.limit + (" *" if plan.clamped else ""),
        plan.concurrency_per_gen,
        plan.tpot_ms,
        plan.tok_s_user,
        plan.tok_s_gpu,
        plan.ratio,
    )
