"""CSV and JSON: every field comes back, undefined stays undefined."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.match.points import Point
from ratematch.show.streamed import Streamed, encode
from ratematch.show.tables import analysis_to_json, csv_line, to_csv, write_tables
from tests.support.examples import examples

from .invented import make_analysis, make_empty, make_few, make_hostile, make_many

NAMES = [
    *("points.csv", "fronts.csv", "speedup.csv", "gaps.csv", "comparisons.csv", "calibration.csv", "serving.csv"),
    *("left_out.csv", "analysis.json"),
]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(io.StringIO(readable(file.read()), newline="")))


def readable(text: str) -> str:
    """Without NUL where Python's own module cannot read one (3.10)."""
    return text if sys.version_info >= (3, 11) else text.replace("\0", "")


def test_fronts_csv_gives_back_every_field_of_every_front_point(tmp_path: Path) -> None:
    workload = make_many()
    assert [path.name for path in write_tables(make_analysis(workload), tmp_path)] == NAMES
    rows = _read(tmp_path / "fronts.csv")
    points = [*workload.rate_matched, *workload.end_to_end, *workload.ifb, *workload.bound]
    assert len(rows) == len(points)
    for row, point in zip(rows, points, strict=True):
        for name, value in asdict(point).items():
            match value:
                case None:
                    assert row[name] == ""
                case bool():
                    assert row[name] == ("true" if value else "false")
                case int() | float():
                    assert float(row[name]) == value
                case tuple():
                    assert row[name] == "; ".join(value)
                case _:
                    assert row[name] == value
        assert (row["sweep"], row["model"], row["gpu"]) == ("quickstart", "DeepSeek-R1", "GB200")


def test_points_csv_holds_every_row_once_and_marks_the_fronts(tmp_path: Path) -> None:
    workload = make_many()
    write_tables(make_analysis(workload), tmp_path)
    rows = _read(tmp_path / "points.csv")
    assert len(rows) == len(workload.plans) + len(workload.measured) + len(workload.bound)
    on_front = [row for row in rows if row["on_front"] == "true"]
    assert len(on_front) == sum(map(len, (workload.rate_matched, workload.end_to_end, workload.ifb, workload.bound)))
    assert {row["emulated"] for row in rows} == {"true"}


def test_front_points_that_are_in_no_list_of_rows_are_still_written(tmp_path: Path) -> None:
    workload = replace(make_few(), plans=(), measured=())
    write_tables(make_analysis(workload), tmp_path)
    kinds = [row["kind"] for row in _read(tmp_path / "points.csv") if row["kind"] != "bound"]
    assert kinds == ["rate_matched"] * 3 + ["end_to_end"] + ["ifb"] * 3


def test_gaps_speedups_and_left_out_have_units_and_empty_cells(tmp_path: Path) -> None:
    workload = make_many()
    write_tables(make_analysis(workload), tmp_path)
    gaps = _read(tmp_path / "gaps.csv")
    assert [float(row["end_to_end_tok_s_gpu"]) for row in gaps] == [gap.end_to_end for gap in workload.gaps]
    assert gaps[-1]["rate_matched_tok_s_gpu"] == "" and gaps[-1]["ratio"] == ""
    speedups = _read(tmp_path / "speedup.csv")
    assert [float(row["step"]) for row in speedups] == [row.step for row in workload.speedups]
    left_out = _read(tmp_path / "left_out.csv")
    assert left_out[0]["reasons"] == "3 of 512 requests failed; no steady window"
    assert {row["workload"] for row in (*gaps, *speedups, *left_out)} == {"1024/64"}


def test_json_rows_are_the_points_and_the_file_says_the_same(tmp_path: Path) -> None:
    analysis = make_analysis(make_many(), make_few())
    content = analysis_to_json(analysis)
    write_tables(analysis, tmp_path)
    assert json.loads((tmp_path / "analysis.json").read_text("utf-8")) == content
    assert content["emulated"] is True and list(content["workloads"]) == ["1024/64", "8192/1024"]
    for workload in analysis.workloads:
        analysed = content["workloads"][workload.workload]
        for kind in ("rate_matched", "end_to_end", "ifb", "bound"):
            for row, point in zip(analysed[kind], getattr(workload, kind), strict=True):
                assert row.pop("mapping") == point.mapping
                assert Point(**{**row, "sources": tuple(row["sources"]), "flags": tuple(row["flags"])}) == point
        assert analysed["notes"] == list(workload.notes)
        assert len(analysed["gaps"]) == len(workload.gaps) and len(analysed["speedups"]) == len(workload.speedups)
    assert content["workloads"]["1024/64"]["left_out"][1] == {
        "experiment": "ifb-1024-64-agg1xDEP8-mtp0",
        "load": "c1024",
        "reasons": ["little is 1.31, outside 0.95 to 1.05"],
    }


def test_undefined_numbers_are_null_and_empty_never_nan(tmp_path: Path) -> None:
    few = make_few()
    broken = replace(few.ifb[0], little=float("nan"), ttft_ms=float("inf"))
    analysis = make_analysis(replace(few, ifb=(broken,), measured=(broken,)))
    write_tables(analysis, tmp_path)
    (row,) = analysis_to_json(analysis)["workloads"]["8192/1024"]["ifb"]
    assert row["little"] is None and row["ttft_ms"] is None
    for name in NAMES:
        text = (tmp_path / name).read_text("utf-8").lower()
        assert "nan," not in text and "infinity" not in text and ": nan" not in text and ",inf," not in text


def test_an_empty_workload_gives_headers_only(tmp_path: Path) -> None:
    write_tables(make_analysis(make_empty()), tmp_path)
    lines = (tmp_path / "fronts.csv").read_text("utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].split(",") == [
        "sweep",
        "model",
        "gpu",
        "engine",
        "objective",
        *(field.name for field in fields(Point)),
        "mapping",
    ]


def test_hostile_names_come_back_unchanged(tmp_path: Path) -> None:
    workload = make_hostile()
    write_tables(make_analysis(workload), tmp_path)
    labels = [point.label for point in workload.rate_matched]
    back = [row["label"] for row in _read(tmp_path / "fronts.csv")]
    assert back[: len(labels)] == [readable(label) for label in labels]
    analysed = json.loads((tmp_path / "analysis.json").read_text("utf-8"))["workloads"]["../<b>/1"]
    assert [row["label"] for row in analysed["rate_matched"]] == labels


def test_a_field_that_is_no_column_is_an_error() -> None:
    assert to_csv(("a",), [{"a": True}]) == "a\ntrue\n"
    with pytest.raises(ValueError, match="b"):
        to_csv(("a",), [{"a": 1, "b": 2}])


@given(st.lists(st.text(st.sampled_from('a,"\n\r \t;é'), max_size=4) | st.integers() | st.none(), min_size=1))
@settings(max_examples=examples(100), deadline=None)
def test_a_line_written_by_ourselves_is_one_that_csv_reads(cells: list[str | int | None]) -> None:
    """Where the module cannot: a NUL, in Python 3.10."""
    line = csv_line(cells)
    (back,) = csv.reader(io.StringIO(line, newline=""))
    assert back == ["" if cell is None else str(cell) for cell in cells]
    theirs = io.StringIO(newline="")
    csv.writer(theirs, lineterminator="\n").writerow(cells)
    assert line == theirs.getvalue() or "\r" in line, "a lone \\r is in quotes too"
    assert csv_line(["a\0b", None, 1.5]) == "a\0b,,1.5\n"


def test_rows_made_while_they_are_written_are_the_rows() -> None:
    rows = [{"x": k, "text": f"a\n{k}", "none": None} for k in range(2500)]
    streamed = Streamed(range(2500), rows.__getitem__)
    assert (len(streamed), streamed[-1], streamed[2:4]) == (2500, rows[-1], rows[2:4])
    content = {"first": {"a": ["b\nc", 1.5]}, "rows": streamed, "none": Streamed((), dict), "last": []}
    assert json.loads("".join(encode(content))) == content | {"rows": rows, "none": []}
    plain = {"a": [1, {"b": None}], "c": "d"}
    assert "".join(encode(plain)) == json.dumps(plain, indent=1)
    assert "".join(encode(plain | {"none": Streamed((), dict)})) == json.dumps(plain | {"none": []}, indent=1)
    with pytest.raises(ValueError, match="Out of range"):
        "".join(encode({"rows": Streamed([math.inf], lambda value: {"x": value})}))
