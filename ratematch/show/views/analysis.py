"""The fronts of an analysis for a terminal: the speed-up over IFB, rows, gap, what was left out and why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import median
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from ratematch.match.objective import COUNTED
from ratematch.match.points import Analysis, Kind, Point, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.console import plain_text, print_table, thin_front
from ratematch.show.files import one_line
from ratematch.show.headline import HOW, describe_gain, find_ends, state_gain

FRONT_COLUMNS = ("deployment", "GPUs", "conc.", "tok/s/user", "tok/s/GPU", "TTFT ms", "limit")
NUMBER = re.compile(r"\d+(\.\d+)?")

STAGES_OF: dict[Kind, tuple[str, ...]] = {"rate_matched": ("ctx", "gen"), "end_to_end": ("e2e",), "ifb": ("ifb",)}
"""Whose loads a front is made of."""


def print_analysis(analysis: Analysis, console: Console) -> None:
    """The speed-up over IFB, fronts, gap, what was left out and why, notes: workload by workload."""
    stamp = style.find_stamp(analysis, *analysis.workloads)
    if stamp:
        console.print(Panel(Text(stamp, style="bold", justify="center"), border_style="yellow"))
    about = f"{analysis.sweep}: {analysis.model} on {analysis.gpu}, {analysis.engine}"
    console.print(Text(one_line(about), style="bold"))
    console.print(
        Text(f"tok/s/user = 1000 / mean TPOT [ms]; tok/s/GPU = output tok/s over {COUNTED[analysis.objective]}")
    )
    for workload in analysis.workloads:
        _print_workload(workload, console)
    if not analysis.workloads:
        console.print("No workload has results.")


def _print_workload(workload: WorkloadAnalysis, console: Console) -> None:
    console.print()
    console.print(Rule(plain_text(f"ISL/OSL {workload.workload}"), align="left", style="dim", characters="─"))
    fronts: tuple[tuple[Kind, tuple[Point, ...]], ...] = (
        ("rate_matched", workload.rate_matched),
        ("end_to_end", workload.end_to_end),
        ("ifb", workload.ifb),
    )
    if any(front for _, front in fronts):
        console.print(plain_text(describe_gain(workload)), style="bold")
        console.print()
    for kind, front in fronts:
        name = style.KINDS[kind].name
        origin = "predicted from ctx and gen measured apart" if kind == "rate_matched" else "measured"
        origin = style.say_origin(origin, workload)
        if front:
            shown = thin_front(front)
            if len(shown) < len(front):
                origin += f"; {len(shown)} of {len(front)} rows, all in fronts.csv"
            print_table(f"{name} ({origin})", FRONT_COLUMNS, [_front_row(point) for point in shown], console)
            console.print()
        else:
            tried = any(label.partition("-")[0] in STAGES_OF[kind] for label, _, _ in workload.left_out)
            state, look = ("no valid point", "yellow") if tried else ("nothing measured", "dim")
            console.print(plain_text(f"{name}: {state}"), style=look)
    if any(front for _, front in fronts):
        for line in [*_predicted_gain(workload), *_gap_lines(workload)]:
            console.print(plain_text(line))
    if workload.left_out:
        rows = [(label, load, ", ".join(reasons)) for label, load, reasons in workload.left_out]
        console.print()
        print_table("left out", ("experiment", "load", "reasons"), rows, console)
    if any(point.clamped for _, front in fronts for point in front):
        console.print(plain_text("* read at an end of a measured curve: the demand lies outside it"))
    flags = {flag for _, front in fronts for point in front for flag in point.flags}
    for note in [*workload.notes, *(f"some front points: {flag}" for flag in merge_alike(flags))]:
        console.print(plain_text(f"note: {note}"))


def merge_alike(flags: Iterable[str]) -> list[str]:
    """Texts that differ only in their numbers once, the first of each kind, with how many more there are."""
    kinds: dict[str, list[str]] = {}
    for flag in sorted(flags):
        kinds.setdefault(NUMBER.sub("#", flag), []).append(flag)
    return [
        alike[0] + (f" ({len(alike) - 1} more differ in the number only)" if len(alike) > 1 else "")
        for alike in kinds.values()
    ]


def _front_row(point: Point) -> tuple[Any, ...]:
    limit = (point.limit or "") + (" *" if point.clamped else "")
    return (
        point.label,
        point.gpus,
        point.concurrency,
        point.tok_s_user,
        point.tok_s_gpu,
        point.ttft_ms,
        limit.strip() or None,
    )


def _predicted_gain(workload: WorkloadAnalysis) -> list[str]:
    """What the rate-matched front promises, where the sentence on top is of the measured one."""
    by_kind = {kind: [row for row in workload.speedups if row.kind == kind] for kind in HOW}
    line = (
        state_gain(by_kind["rate_matched"], style.say_origin(HOW["rate_matched"], workload))
        if find_ends(by_kind["end_to_end"])
        else ""
    )
    return [line] if line else []


def _gap_lines(workload: WorkloadAnalysis) -> list[str]:
    ratios = [gap.ratio for gap in workload.gaps if gap.ratio is not None]
    if not ratios:
        return ["end-to-end over rate-matched: undefined, no end-to-end point beside a prediction"]
    line = (
        f"end-to-end over rate-matched tok/s/GPU, same deployment and tok/s/user: median {median(ratios):.1%}, "
        f"{min(ratios):.1%} to {max(ratios):.1%} over {len(ratios)} points"
    )
    unknown = len(workload.gaps) - len(ratios)
    return [line + (f" ({unknown} more without a prediction)" if unknown else "")]
