"""The notebooks: committed without outputs, and each runs on the committed sample from its first cell to its last."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.report.notebooks import ONE_FOLDER, REAL_RESULTS, TWO_FOLDERS, execute_each, read_notebook

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "results" / "sample"
MEASURED = ROOT / "results" / "h200-qwen3-8b"
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def text(notebook: Any) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_without_outputs_and_name_the_sample(name: str) -> None:
    notebook = read_notebook(name)
    assert not outputs(notebook)
    assert all(cell.get("execution_count") is None for cell in notebook.cells if cell.cell_type == "code")
    (first,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    folder = MEASURED if name == REAL_RESULTS else SAMPLE
    assert f"../results/{folder.name}" in first.source and notebook.cells.index(first) == 1
    assert (ROOT / "notebooks" / "../results" / folder.name).resolve() == folder


def test_every_notebook_is_one_that_the_report_knows() -> None:
    assert sorted((*ONE_FOLDER, TWO_FOLDERS, REAL_RESULTS)) == NAMES


@pytest.mark.slow
def test_report_writes_executed_copies_about_ones_own_results(tmp_path: Path) -> None:
    mine = Path(shutil.copytree(SAMPLE, tmp_path / "mine", ignore=shutil.ignore_patterns("report")))
    done = CliRunner().invoke(main, ["report", str(mine), "--notebook"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    written = [Path(line) for line in done.stdout.split()]
    assert [path.stem for path in written] == [*ONE_FOLDER, "report"]
    quick, matching, paper = (nbformat.read(path, as_version=4) for path in written[:3])
    assert pictures(quick) == 2 and pictures(matching) == 4 and pictures(paper) == 2
    assert str(mine) in quick.cells[1].source
    by_hand = text(matching)
    assert "by hand" in by_hand and "rm.match" in by_hand
    assert "the tok/s/GPU of IFB" in text(paper) and "emulated" in text(paper)
    assert "<table" in "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs(quick))


@pytest.mark.slow
def test_two_sweeps_are_compared_and_the_real_front_is_read_from_its_published_copy(tmp_path: Path) -> None:
    """One kernel runs both, and the second finds nothing of the first."""
    compared, measured = execute_each(
        [(TWO_FOLDERS, {"BEFORE": SAMPLE, "AFTER": SAMPLE}), (REAL_RESULTS, {"RESULTS": MEASURED})], tmp_path
    )
    assert pictures(compared) == 1 and "no regression" in text(compared)
    assert pictures(measured) == 2
    shown = "".join(str(output.get("data", {}).get("text/plain", "")) for output in outputs(measured))
    assert "['real']" in shown and "2577" in shown and "['emulated']" not in shown


@pytest.mark.slow
def test_a_notebook_finds_no_name_of_the_one_before_and_a_cell_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = read_notebook("1-quick-look")
    cells = [nbformat.v4.new_code_cell(source) for source in ("OF_ONE = 1", "print('OF_ONE' in globals())")]
    fresh = nbformat.v4.new_notebook(cells=[cells[1], cells[0]])
    made = {"one": fresh, "two": deepcopy(fresh), "1-quick-look": real}
    monkeypatch.setattr("ratematch.report.notebooks.read_notebook", made.__getitem__)
    nothing: dict[str, Path] = {}
    with pytest.raises(UserError, match=r"1-quick-look: a cell failed: ResultsError: .*no such results folder"):
        execute_each([("one", nothing), ("two", nothing), ("1-quick-look", {"RESULTS": tmp_path / "no"})], tmp_path)
    for each in (made["one"], made["two"]):
        assert text(each) == "False\n" and [cell.execution_count for cell in each.cells] == [1, 2]
