"""Text of other people in a CSV is text, in every spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.show.tables import to_csv
from tests.exchange.foreign_runs import inferencex_run


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1+1"])
def test_what_a_spreadsheet_would_run_is_text(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv(("model",), [{"model": text}]), newline=""))
    assert row["model"].startswith("'")
    (row,) = csv.DictReader(io.StringIO(to_csv(("model",), [{"model": (text, "b")}]), newline=""))
    assert row["model"].startswith("'"), "the first part of a list is the beginning of its cell"


@pytest.mark.parametrize("value", ["deepseek-r1", "-", "", "-5.25", "+3", "a=b", -1.5, 7, True, None])
def test_other_cells_stay_as_they_are(value: object) -> None:
    (row,) = csv.DictReader(to_csv(("a", "b"), [{"a": value, "b": "x"}]).splitlines())
    assert not row["a"].startswith("'")


def test_a_name_from_another_tools_file_does_not_run(tmp_path: Path) -> None:
    row = inferencex_run(model="=cmd|' /C calc'!A0", framework="@SUM(1)", engine_version="=2+2")
    file = tmp_path / "row.json"
    file.write_text(json.dumps([row]))

    def call(*argv: object) -> None:
        result = CliRunner().invoke(main, [str(word) for word in argv], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr

    call("import", "results", file, "-o", tmp_path / "rates.csv", "--real")
    call("import", "results", file, "--into", tmp_path / "in", "--real")
    call("export", "results", tmp_path / "in", "--format", "csv", "-o", tmp_path / "out")
    for path in (tmp_path / "rates.csv", tmp_path / "out" / "loads.csv"):
        for cells in csv.reader(path.read_text("utf-8").splitlines()):
            assert not any(cell.startswith(("=", "@", "+")) for cell in cells), path
    call("match", tmp_path / "rates.csv")
