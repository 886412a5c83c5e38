"""Breakdown loads give their breakdown to the rows of their pressure, and are no rows themselves."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ratematch.analysis.rows import measured_in_detail
from ratematch.exchange.results.export import export_results
from ratematch.measure.loadrun import LoadRun, TelemetrySummary
from ratematch.measure.measurement import measure_load
from ratematch.plan.load import Concurrency, Load, breakdown_loads
from ratematch.run.telemetry import write_lines
from ratematch.store import layout
from ratematch.store.folder import Results
from ratematch.store.records import write_records
from tests.engines.test_requesttimes import from_files
from tests.support.invented import LAPTOP, PAIR, closed_loop, experiment

PLAIN = (Concurrency(2, 24), Concurrency(2, 24, repeat=1), Concurrency(4, 48))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Every load is measured; of the breakdown loads the one at 2 in flight has times of its requests."""
    loads: tuple[Load, ...] = (*PLAIN, *breakdown_loads(PLAIN))
    asked = experiment("e2e", PAIR, loads=loads, version="main")
    folder = Results(tmp_path).add(asked, LAPTOP)
    for load in loads:
        assert isinstance(load, Concurrency)
        place = folder.load_folder(load)
        place.mkdir(parents=True)
        records = closed_loop(load.concurrency, [8] * load.num_requests)
        write_records(place / layout.RECORDS, records)
        write_records(place / layout.WARMUP, [])
        lines = [line for number in range(12) for line in from_files(number, 100.0 + number)]
        keeps = load.breakdown and load.concurrency == 2
        write_lines(place / layout.PERF_METRICS, [msgspec.json.encode(line) for line in lines] if keeps else [])
        run = LoadRun(
            mode="e2e", origin="emulated", telemetry=TelemetrySummary(times_from="files" if keeps else None)
        )
        folder.finish_load(load, run, measure_load(records, load, asked.workload))
    return Results(tmp_path)


def test_rows_have_the_breakdown_of_their_pressure(results: Results) -> None:
    rows = measured_in_detail(results.now(), [])
    assert {row.load for row in rows} == set(PLAIN)
    for row in rows:
        assert (row.breakdown is not None) == (row.load in PLAIN[:2]), row.load
    known = [row.breakdown for row in rows if row.breakdown is not None]
    assert known[0] == known[1] and known[0].kv_transfer_s == pytest.approx(0.008)
    assert measured_in_detail(results.now(), []) == rows, "from the cache too"


def test_they_are_in_no_list_of_what_was_measured(results: Results, tmp_path: Path) -> None:
    assert {row.load for row in results.measured()} == set(PLAIN)
    assert not results.now().experiments[0].missing
    written, _ = export_results(results, "benchmark-serving", tmp_path / "out")
    assert written and not any("breakdown" in str(path.relative_to(tmp_path)) for path in written)
