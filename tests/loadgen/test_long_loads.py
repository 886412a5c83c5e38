"""What a load of very many requests keeps of each, and that nobody can see a difference."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ratematch.loadgen import LoadControl, Target, drive
from ratematch.loadgen.shards import LoadJob, prepare, read_spill
from ratematch.measure.columns import Columns
from ratematch.measure.measurement import measure_load
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload, make_requests
from ratematch.store import recordlog, spill
from ratematch.store.records import read_records, write_records

from .sse_server import serve


@pytest.mark.parametrize("backlog_bytes", [1, 1 << 20])
def test_records_of_a_long_load_are_spilt_and_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backlog_bytes: int
) -> None:
    """Decoded while it runs, or after it."""
    monkeypatch.setattr(spill, "HOLD_B", 1)
    monkeypatch.setattr(recordlog, "_RECORDS", 2)
    requests = make_requests(Workload(8, 6), 12, 32000, 0)
    with serve() as (url, _):
        control = LoadControl(backlog_bytes=backlog_bytes, folder=tmp_path)
        result = drive(Target(url, "m"), Concurrency(3, 12), requests, control=control)
    assert list(tmp_path.iterdir()) == [], "the file has no name"
    assert isinstance(result.records, Columns) and result.aborted is None
    assert [record.seq for record in result.records] == list(range(12))
    packed, plain = tmp_path / "packed.parquet", tmp_path / "plain.parquet"
    write_records(packed, result.records)
    write_records(plain, list(result.records))
    assert packed.read_bytes() == plain.read_bytes() and read_records(packed) == result.records
    figures = [
        measure_load(some, Concurrency(3, 12), Workload(8, 6)) for some in (result.records, read_records(plain))
    ]
    assert repr(figures[0]) == repr(figures[1]) and figures[0].num_ok == 12


def test_a_full_disk_ends_the_load_and_keeps_what_was_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_room(file: int, content: memoryview, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", no_room)
    monkeypatch.setattr(spill, "HOLD_B", 1)
    monkeypatch.setattr(recordlog, "_RECORDS", 2)
    requests = make_requests(Workload(8, 6), 4000, 32000, 0)
    with serve() as (url, _):
        control = LoadControl(backlog_bytes=1, folder=tmp_path)
        result = drive(Target(url, "m"), Concurrency(3, 4000), requests, control=control)
    assert result.aborted is not None and f"{tmp_path}: the disk is full" in result.aborted
    assert 3 <= len(result.records) < 4000
    assert [record.seq for record in result.records] == list(range(len(result.records)))
    assert sum(record.outcome == "ok" for record in result.records) >= len(result.records) - 3
    assert all("the disk is full" in str(record.error) for record in result.records if record.outcome != "ok")


def test_senders_keep_theirs_in_the_folder_of_the_load(tmp_path: Path) -> None:
    job = LoadJob(Target("http://h:1", "m"), Concurrency(4, 24), Workload(8, 4), 32000)
    for place in (None, tmp_path / "loads" / "c4"):
        prepare(tmp_path, job, 2, place)
        assert read_spill(tmp_path) == place
