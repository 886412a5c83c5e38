"""What a load of very many requests keeps of each, and that nobody can see a difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.loadgen import LoadControl, Target, drive, phase
from ratematch.measure.measurement import measure_load
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload, make_requests
from ratematch.store.records import read_records, write_records

from .sse_server import serve


@pytest.mark.parametrize("backlog_bytes", [1, 1 << 20])
def test_records_of_a_long_load_are_packed_and_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backlog_bytes: int
) -> None:
    """Decoded while it runs, or after it."""
    monkeypatch.setattr(phase, "_LISTS", 4)
    requests = make_requests(Workload(8, 6), 12, 32000, 0)
    with serve() as (url, _):
        control = LoadControl(backlog_bytes=backlog_bytes)
        result = drive(Target(url, "m"), Concurrency(3, 12), requests, control=control)
    kinds = {type(record.chunk_ns).__name__ for record in result.records}
    assert "array" in kinds and [record.seq for record in result.records] == list(range(12))
    listed = [replace(record, chunk_ns=list(record.chunk_ns)) for record in result.records]
    packed, plain = tmp_path / "packed.parquet", tmp_path / "plain.parquet"
    write_records(packed, result.records)
    write_records(plain, listed)
    assert packed.read_bytes() == plain.read_bytes() and read_records(packed) == listed
    figures = [measure_load(some, Concurrency(3, 12), Workload(8, 6)) for some in (result.records, listed)]
    assert repr(figures[0]) == repr(figures[1]) and figures[0].num_ok == 12
