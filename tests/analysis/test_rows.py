"""Figures alone and figures in detail: the same loads, and the same files left out."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ratematch as rm
from ratematch.analysis import analyze
from ratematch.errors import ResultsError
from ratematch.store import layout
from ratematch.store.folder import Results

GOLDEN = Path(__file__).parents[1] / "golden" / "results_v1" / "adaptive"
SAMPLE = Path(__file__).parents[2] / "results" / "sample"


def _copy(source: Path, folder: Path, *, sealed: bool, experiments: int) -> Path:
    """The first ``experiments`` of ``source``, with checksums as this version writes them or without any."""
    folder.mkdir()
    shutil.copy(source / layout.LIMITS, folder)
    for stored in Results(source).now().experiments[:experiments]:
        shutil.copytree(stored.folder.path, folder / stored.folder.path.name)
    if sealed:
        for stored in Results(folder).now().experiments:
            for load in stored.loads:
                stored.folder.finish_load(load.load, load.run, load.measurement)
    return folder


def _read(folder: Path, *, detailed: bool) -> object:
    (folder / layout.DERIVED).unlink(missing_ok=True)
    try:
        results = Results(folder)
        inputs = analyze.read_inputs(results) if detailed else analyze.read_figures(results).inputs
    except ResultsError as error:
        return str(error)
    rows = [(row.experiment.id, row.load, row.measurement, row.layout) for row in inputs.measured]
    return rows, inputs.damaged, inputs.question, inputs.imported


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("source", [SAMPLE, GOLDEN], ids=["sample", "golden"])
def test_the_same_is_left_out_with_details_and_without(source: Path, sealed: bool, tmp_path: Path) -> None:
    folder = _copy(source, tmp_path / "results", sealed=sealed, experiments=1)
    rng = random.Random(3)
    whole = _read(folder, detailed=True)
    assert _read(folder, detailed=False) == whole
    names = (layout.RECORDS, layout.PERF_METRICS, layout.MEASUREMENT, layout.LOADRUN, layout.EXPERIMENT)
    seen = 0
    for name in names:
        for file in sorted(folder.rglob(name))[:2]:
            content = file.read_bytes()
            place = rng.randrange(len(content))
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            for changed in (None, b"", content[: len(content) // 2], bytes(flipped), rng.randbytes(len(content))):
                file.unlink()
                if changed is not None:
                    file.write_bytes(changed)
                left = _read(folder, detailed=True)
                assert _read(folder, detailed=False) == left, (file, changed)
                seen += left != whole
                file.write_bytes(content)
    assert seen > 5


def test_details_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    folder = _copy(SAMPLE, tmp_path / "results", sealed=True, experiments=3)
    results = rm.load_results(folder)
    assert len(results.loads) > 2 and not results.damaged and "inputs" not in vars(results)
    assert not (folder / layout.DERIVED).exists()
    assert results.measured == analyze.read_inputs(Results(folder)).measured
    assert any(row.noise for row in results.measured)
    again = rm.load_results(folder)
    assert again.loads.equals(results.loads) and again.measured == results.measured


def test_records_that_are_lost_in_between_are_said(tmp_path: Path) -> None:
    folder = _copy(SAMPLE, tmp_path / "results", sealed=True, experiments=3)
    results = rm.load_results(folder)
    lost = next(iter(sorted(folder.rglob(layout.RECORDS))))
    lost.write_bytes(lost.read_bytes()[::-1])
    assert len(results.measured) == len(results.loads) - 1
    (line,) = results.damaged
    assert line.startswith(f"left out: {lost.relative_to(folder)}") and line in results.match().workloads[0].notes


def test_status_reads_no_table_of_requests() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom ratematch.cli import main\n"
        f"done = CliRunner().invoke(main, ['status', {str(SAMPLE)!r}])\n"
        "print(done.exit_code, sorted({'pyarrow', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "0 []"
