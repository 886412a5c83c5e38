"""An analysis as CSV files and one JSON document, for spreadsheets, tickets and other tools.

Units are in the column names; an undefined value is an empty cell in CSV and ``null`` in JSON, never 0 or NaN. Text
that a spreadsheet would run as a formula has an apostrophe before it in CSV.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ratematch.match.points import (
    Analysis,
    Calibration,
    CalibrationRow,
    Comparison,
    Gap,
    Kind,
    Point,
    ServingPlan,
    Speedup,
    WorkloadAnalysis,
)
from ratematch.plan.experiment import origin_keys
from ratematch.store.files import plain_text, write_aside

ORIGIN_COLUMNS = ("emulated", "simulated")
SWEEP_COLUMNS = ("sweep", "model", "gpu", "engine", "objective")
POINT_COLUMNS = (*(field.name for field in fields(Point)), "mapping")
QUOTE = '"'
NEEDS_QUOTES = re.compile('[,"\n\r]')
LIST_SEPARATOR = "; "

Row = dict[str, Any]


def write_tables(analysis: Analysis, folder: Path) -> list[Path]:
    """Write a CSV file for each kind of row (``points``, ``fronts``, ``speedup``, ``comparisons``, ``gaps``,
    ``calibration``, ``serving``, ``left_out``) and ``analysis.json`` with all of them.

    Raises:
        OSError: the folder cannot be written.
    """
    tables: dict[str, tuple[Sequence[str], list[Row]]] = {
        "points.csv": ((*SWEEP_COLUMNS, *POINT_COLUMNS, "on_front"), point_rows(analysis)),
        "fronts.csv": ((*SWEEP_COLUMNS, *POINT_COLUMNS), front_rows(analysis)),
        "speedup.csv": (
            (*SWEEP_COLUMNS, "workload", *ORIGIN_COLUMNS, *(field.name for field in fields(Speedup))),
            _rows_of(analysis, lambda workload: [asdict(row) for row in workload.speedups]),
        ),
        "gaps.csv": (
            (
                *SWEEP_COLUMNS,
                "workload",
                *ORIGIN_COLUMNS,
                *(f"{name}{GAP_UNITS.get(name, '')}" for name in GAP_COLUMNS),
            ),
            _rows_of(analysis, lambda workload: [_gap_row(gap) for gap in workload.gaps]),
        ),
        "comparisons.csv": (
            (*SWEEP_COLUMNS, "workload", *ORIGIN_COLUMNS, *COMPARISON_COLUMNS),
            _rows_of(
                analysis, lambda workload: [row for item in workload.comparisons for row in _compare_rows(item)]
            ),
        ),
        "calibration.csv": (
            (*SWEEP_COLUMNS, "workload", *ORIGIN_COLUMNS, *CALIBRATION_COLUMNS),
            _rows_of(analysis, lambda workload: _calibration_rows(workload.calibration)),
        ),
        "serving.csv": (
            (*SWEEP_COLUMNS, "workload", *ORIGIN_COLUMNS, *(field.name for field in fields(ServingPlan))),
            _rows_of(analysis, lambda workload: [asdict(plan) for plan in workload.serving]),
        ),
        "left_out.csv": (
            (*SWEEP_COLUMNS, "workload", *ORIGIN_COLUMNS, "experiment", "load", "reasons"),
            _rows_of(analysis, lambda workload: [_left_out_row(entry) for entry in workload.left_out]),
        ),
    }
    written = [
        write_aside(folder / name, to_csv(columns, rows).encode("utf-8")) for name, (columns, rows) in tables.items()
    ]
    document = json.dumps(analysis_to_json(analysis), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Lone surrogates (a file name that is not UTF-8) cannot be encoded; escaped they stay readable JSON.
    written.append(write_aside(folder / "analysis.json", document.encode("utf-8", "backslashreplace")))
    return written


def analysis_to_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis as plain JSON values: ``workloads`` by label, each with its fronts as lists of flat rows."""
    return {
        "sweep": analysis.sweep,
        "model": analysis.model,
        "gpu": analysis.gpu,
        "engine": analysis.engine,
        **origin_keys(analysis.origin),
        "objective": analysis.objective,
        "workloads": {workload.workload: _workload_to_json(workload) for workload in analysis.workloads},
    }


def _workload_to_json(workload: WorkloadAnalysis) -> dict[str, Any]:
    fronts = {
        "rate_matched": workload.rate_matched,
        "end_to_end": workload.end_to_end,
        "ifb": workload.ifb,
        "bound": workload.bound,
    }
    content: dict[str, Any] = {**origin_keys(workload.origin)}
    content |= {name: [_plain(_point_row(point)) for point in front] for name, front in fronts.items()}
    content["gaps"] = [_plain(asdict(gap)) for gap in workload.gaps]
    content["speedups"] = [_plain(asdict(speedup)) for speedup in workload.speedups]
    content["left_out"] = [
        {"experiment": label, "load": load, "reasons": list(reasons)} for label, load, reasons in workload.left_out
    ]
    content["ties"] = [_plain(_point_row(point)) for point in workload.ties]
    content["comparisons"] = [_plain(asdict(comparison)) for comparison in workload.comparisons]
    content["calibration"] = _plain(asdict(workload.calibration)) if workload.calibration else None
    content["calibrated"] = workload.calibrated
    content["serving"] = [_plain(asdict(plan)) for plan in workload.serving]
    content["notes"] = list(workload.notes)
    return content


POINT_FIELDS = tuple(field.name for field in fields(Point))
"""Of numbers and text, and tuples of text: a row holds them as they are."""


def _point_row(point: Point) -> Row:
    return {name: getattr(point, name) for name in POINT_FIELDS} | {"mapping": point.mapping}


def front_rows(analysis: Analysis) -> list[Row]:
    """The points of every front, workload by workload, in the order of the fronts."""
    return [
        _sweep_row(analysis) | _point_row(point)
        for workload in analysis.workloads
        for front in (workload.rate_matched, workload.end_to_end, workload.ifb, workload.bound)
        for point in front
    ]


def point_rows(analysis: Analysis) -> list[Row]:
    """Every point once, on a front or not (``on_front``): plans, measured rows, then the bound."""
    return list(each_point_row(analysis))


def each_point_row(analysis: Analysis) -> Iterator[Row]:
    """The rows of :func:`point_rows` one by one: of a large sweep all of them take 15 MB."""
    for workload in analysis.workloads:
        on_front = {*workload.bound, *workload.rate_matched, *workload.end_to_end, *workload.ifb}
        known = {*workload.plans, *workload.measured}
        strays: list[Point] = [
            point for point in (*workload.rate_matched, *workload.end_to_end, *workload.ifb) if point not in known
        ]
        points = [*workload.plans, *workload.measured, *strays, *workload.bound]
        order: dict[Kind, int] = {"rate_matched": 0, "end_to_end": 1, "ifb": 2, "bound": 3}
        points.sort(key=lambda point: (order[point.kind], point.label, point.concurrency, point.tok_s_user))
        for point in points:
            yield _sweep_row(analysis) | _point_row(point) | {"on_front": point in on_front}


GAP_COLUMNS = tuple(field.name for field in fields(Gap))
GAP_UNITS = dict.fromkeys(("end_to_end", "rate_matched", "front", "at_concurrency", "ideal", "parts"), "_tok_s_gpu")


def _gap_row(gap: Gap) -> Row:
    row = {f"{name}{GAP_UNITS.get(name, '')}": value for name, value in asdict(gap).items()}
    return row | {"parts_tok_s_gpu": [f"{part.name}: {part.tok_s_gpu:.6g}" for part in gap.parts]}


COMPARISON_COLUMNS = ("kind", "what", "at_tok_s_gpu", "ratio", "ratio_low", "ratio_high")


def _compare_rows(row: Comparison) -> list[Row]:
    """One row a ratio: hypervolume, area on the overlap, and tok/s/user at each equal tok/s/GPU."""
    whole = (
        ("hypervolume", None, row.hypervolume_ratio, row.hypervolume_interval),
        ("area_on_overlap", None, row.area_ratio, row.area_interval),
    )
    equal = (
        ("tok_s_user", item.tok_s_gpu, item.ratio, (item.ratio_low, item.ratio_high)) for item in row.interactivity
    )
    return [
        dict(zip(COMPARISON_COLUMNS, (row.kind, what, at, ratio, *(ends or (None, None))), strict=True))
        for what, at, ratio, ends in (*whole, *equal)
    ]


FACTORS = ("ctx", "ctx_spread", "gen", "gen_spread", "bunching", "num", "held_out")
CALIBRATION_COLUMNS = (*(field.name for field in fields(CalibrationRow) if field.name != "pair"), *FACTORS)


def _calibration_rows(calibration: Calibration | None) -> list[Row]:
    """A row an end-to-end run, each with the factors that the runs of its pair agree on."""
    if calibration is None:
        return []
    of_pair = {pair.sources: pair for pair in calibration.pairs}
    return [
        {name: getattr(row, name) for name in CALIBRATION_COLUMNS if name not in FACTORS}
        | {name: getattr(of_pair.get(row.pair, calibration), name) for name in FACTORS}
        for row in calibration.rows
    ]


def _left_out_row(entry: tuple[str, str, tuple[str, ...]]) -> Row:
    label, load, reasons = entry
    return {"experiment": label, "load": load, "reasons": reasons}


def _rows_of(analysis: Analysis, rows: Any) -> list[Row]:
    return [
        _sweep_row(analysis) | {"workload": workload.workload, **origin_keys(workload.origin)} | row
        for workload in analysis.workloads
        for row in rows(workload)
    ]


def _sweep_row(analysis: Analysis) -> Row:
    return {name: getattr(analysis, name) for name in SWEEP_COLUMNS}


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV text with a header line, also without rows.

    Raises:
        ValueError: a row has a field that is no column.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    for row in rows:
        cells = {name: _cell(value) for name, value in row.items()}
        try:
            writer.writerow(cells)
        except csv.Error:  # Python 3.10 cannot write a NUL
            text.write(csv_line([cells.get(name) for name in columns]))
    return text.getvalue()


def csv_line(cells: Sequence[Any]) -> str:
    """One line as the module ``csv`` writes it, whatever characters are in it."""
    words = ["" if cell is None else str(cell) for cell in cells]
    quoted = [f'"{word.replace(QUOTE, QUOTE * 2)}"' if NEEDS_QUOTES.search(word) else word for word in words]
    return (",".join(quoted) if quoted != [""] else '""') + "\n"


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if isinstance(value, tuple | list):
        value = LIST_SEPARATOR.join(str(part) for part in value)
    return plain_text(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types; a number that is not finite becomes ``None``."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
