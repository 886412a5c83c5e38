"""The tables of one workload: fronts, speed-ups, gaps, what was left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ratematch.match.points import Gap, Point, Speedup
from ratematch.report.contents import Section
from ratematch.show import style
from ratematch.show.console import show_value
from ratematch.show.files import one_line

MOST_ROWS = 400
"""Rows of a table in the page; the CSV files hold all."""
POINT_COLUMNS = (
    "deployment", "GPUs", "requests in flight", "tok/s/user", "tok/s/GPU", "95 %: low", "high", "TTFT ms", "TPOT ms",
    "limit", "ideal ratio",
)  # fmt: skip


def make_tables(section: Section) -> list[dict[str, Any]]:
    """Every table that has rows: title, columns, cells, and whether it is open at first."""
    workload = section.workload
    left_out = [(label, load, "; ".join(reasons)) for label, load, reasons in workload.left_out]
    tables = [
        _points_table(style.say_origin("End-to-end front (measured)", workload), workload.end_to_end, open_=True),
        _points_table("Rate-matched front (predicted)", workload.rate_matched),
        _points_table(style.say_origin("IFB front (measured)", workload), workload.ifb),
        _points_table(style.say_origin("Every measured row", workload), workload.measured),
        _speedup_table(workload.speedups),
        _gap_table(workload.gaps),
        _table("Left out", ["experiment", "load", "reasons"], left_out),
    ]
    return [table for table in tables if table["rows"]]


def _points_table(title: str, points: Sequence[Point], *, open_: bool = False) -> dict[str, Any]:
    return _table(title, POINT_COLUMNS, [_point_cells(point) for point in points], open_=open_)


def _speedup_table(speedups: Sequence[Speedup]) -> dict[str, Any]:
    rows = [
        (
            style.KINDS[row.kind].name,
            row.tok_s_user,
            row.step,
            row.step_low,
            row.step_high,
            row.linear,
            row.linear_low,
            row.linear_high,
        )
        for row in speedups
    ]
    columns = ["front", "tok/s/user", "step", "95 %: low", "high", "linear", "95 %: low", "high"]
    return _table("Speed-up over IFB", columns, rows)


def _gap_table(gaps: Sequence[Gap]) -> dict[str, Any]:
    names = list(dict.fromkeys(part.name for gap in gaps for part in gap.parts))
    rows = []
    for gap in gaps:
        parts = {part.name: part.tok_s_gpu for part in gap.parts}
        figures = (gap.label, gap.concurrency, gap.end_to_end, gap.rate_matched, gap.ratio, gap.ideal)
        rows.append((*figures, *(parts.get(name) for name in names)))
    columns = ["deployment", "requests in flight", "measured", "predicted", "ratio", "ideal", *names]
    return _table("Gap of end-to-end runs, tok/s/GPU lost", columns, rows)


def _point_cells(point: Point) -> tuple[Any, ...]:
    return (
        point.label,
        point.gpus,
        point.concurrency,
        point.tok_s_user,
        point.tok_s_gpu,
        point.tok_s_gpu_low,
        point.tok_s_gpu_high,
        point.ttft_ms,
        point.tpot_ms,
        point.limit,
        point.ratio,
    )


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, open_: bool = False
) -> dict[str, Any]:
    """Columns in which no row has anything are left out."""
    kept = [k for k in range(len(columns)) if any(row[k] is not None for row in rows)]
    return {
        "title": title,
        "columns": [columns[k] for k in kept],
        "open": open_,
        "rows": [[_cell(row[k]) for k in kept] for row in rows[:MOST_ROWS]],
    }


def _cell(value: Any) -> dict[str, Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return {"text": one_line(show_value(value)), "number": float(value) if number else None}
