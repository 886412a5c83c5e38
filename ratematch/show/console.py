"""Terminal views, readable at 100 columns. Text from data is never read as markup and never cut."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Protocol, TypeVar

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ratematch.match.objective import COUNTED
from ratematch.match.points import Analysis, Kind, Point, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.files import one_line

FRONT_COLUMNS = ("deployment", "GPUs", "conc.", "tok/s/user", "tok/s/GPU", "TTFT ms", "limit")
MOST_FRONT = 15
"""Rows of a front shown in a terminal."""

NUMBER = re.compile(r"\d+(\.\d+)?")
COMPARED: tuple[Kind, ...] = ("rate_matched", "end_to_end")


class OnFront(Protocol):
    """What a row of any front has."""

    @property
    def gpus(self) -> int: ...
    @property
    def tok_s_user(self) -> float: ...
    @property
    def tok_s_gpu(self) -> float: ...


Row = TypeVar("Row", bound=OnFront)


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Fronts, best speed-up over IFB, gap, what was left out and why, notes: workload by workload."""
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


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table. A column of numbers (or ``None``, shown as ``-``) stands right and is never folded; a column of
    text stands left and folds when the terminal is too narrow. ``bool`` reads yes / no, floats three digits.

    Raises:
        ValueError: a row has not as many cells as there are columns.
    """
    cells = [list(row) for row in rows]
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: a row of {len(row)} cells under {len(columns)} columns")
    view = Table(
        title=_text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    for index, name in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        view.add_column(
            _text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold", min_width=None
        )
    for row in cells:
        view.add_row(*(_text(show_value(value)) for value in row))
    return view


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], console: Console) -> None:
    """A :func:`table` with its title on lines of its own: as a title rich would fold it to the width of the table."""
    view = table("", columns, rows)
    if title:
        console.print(_text(title), style="bold")
    console.print(view)


def show_value(value: Any) -> str:
    """A value as people read it: ``None`` and undefined as ``-``, floats with three digits and no exponent."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            if not math.isfinite(value):
                return "-"
            if value == 0:
                return "0"
            digits = max(0, 2 - math.floor(math.log10(abs(value))))
            return f"{value:.{min(digits, 6)}f}"
        case _:
            return str(value)


def _text(content: str) -> Text:
    return Text(one_line(content), overflow="fold")


def _print_workload(workload: WorkloadAnalysis, console: Console) -> None:
    console.print()
    console.print(Rule(_text(f"ISL/OSL {workload.workload}"), align="left", style="dim", characters="─"))
    fronts: tuple[tuple[Kind, tuple[Point, ...]], ...] = (
        ("rate_matched", workload.rate_matched),
        ("end_to_end", workload.end_to_end),
        ("ifb", workload.ifb),
    )
    for kind, front in fronts:
        name = style.KINDS[kind].name
        origin = "predicted from ctx and gen measured apart" if kind == "rate_matched" else "measured"
        if workload.emulated:
            origin += ", simulated" if workload.simulated else ", emulated"
        if front:
            shown = thin_front(front)
            if len(shown) < len(front):
                origin += f"; {len(shown)} of {len(front)} rows, all in fronts.csv"
            print_table(f"{name} ({origin})", FRONT_COLUMNS, [_front_row(point) for point in shown], console)
            console.print()
        else:
            console.print(_text(f"{name}: no valid point"), style="yellow")
    if any(front for _, front in fronts):
        for line in [*_speedup_lines(workload), *_gap_lines(workload)]:
            console.print(_text(line))
    if workload.left_out:
        rows = [(label, load, ", ".join(reasons)) for label, load, reasons in workload.left_out]
        console.print()
        print_table("left out", ("experiment", "load", "reasons"), rows, console)
    if any(point.clamped for _, front in fronts for point in front):
        console.print(_text("* read at an end of a measured curve: the demand lies outside it"))
    flags = {flag for _, front in fronts for point in front for flag in point.flags}
    for note in [*workload.notes, *(f"some front points: {flag}" for flag in merge_alike(flags))]:
        console.print(_text(f"note: {note}"))


def thin_front(front: Sequence[Row]) -> list[Row]:
    """At most ``MOST_FRONT`` rows of a front (ascending tok/s/user): both ends, and in each even step of
    log(tok/s/user) between them the one with fewest GPUs. A large budget has a ratio for every digit of tok/s/user,
    and the differences are far below what rates repeat to."""
    if len(front) <= MOST_FRONT:
        return list(front)
    low, high = math.log(front[0].tok_s_user), math.log(front[-1].tok_s_user)
    steps: dict[int, Row] = {}
    for point in front[1:-1]:
        step = int((math.log(point.tok_s_user) - low) / (high - low) * (MOST_FRONT - 2))
        if step not in steps or (point.gpus, -point.tok_s_gpu) < (steps[step].gpus, -steps[step].tok_s_gpu):
            steps[step] = point
    return [front[0], *(steps[step] for step in sorted(steps)), front[-1]]


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


def _speedup_lines(workload: WorkloadAnalysis) -> list[str]:
    lines = []
    for kind in COMPARED:
        told = []
        for name in ("step", "linear"):
            found = [
                (value, row.tok_s_user)
                for row in workload.speedups
                if row.kind == kind and (value := getattr(row, name)) is not None
            ]
            if found:
                best, at = max(found)
                told.append(f"{best:.2f}x at {show_value(at)} tok/s/user ({name})")
        name = style.KINDS[kind].name
        lines.append(
            f"best speed-up of the {name} over IFB: {', '.join(told) or 'undefined, the two do not overlap'}"
        )
    return lines


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
