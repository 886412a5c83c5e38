"""Rows that wait in memory or in a file without a name: all of them come back, in order, whatever the disk does."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ratematch.measure.columns import columns_of, join, shifted
from ratematch.measure.measurement import measure_load
from ratematch.store.recordlog import RecordLog
from ratematch.store.records import read_columns, read_records, write_records
from ratematch.store.spill import Spill

from ..measure.randomloads import random_client, random_goal, random_load

SCHEMA = pa.schema([pa.field("number", pa.int64()), pa.field("text", pa.string())])


def batch(first: int, count: int = 50) -> pa.RecordBatch:
    numbers = list(range(first, first + count))
    return pa.RecordBatch.from_pydict({"number": numbers, "text": [f"row {k}" for k in numbers]}, schema=SCHEMA)


def numbers(rows: Spill) -> list[int]:
    return [number for part in rows.batches() for number in part["number"].to_pylist()]


def wait_until(reached: Callable[[], bool]) -> None:
    for _ in range(2000):
        if reached():
            return
        time.sleep(0.005)
    raise AssertionError("never")


def test_what_is_older_goes_to_a_file_that_has_no_name(tmp_path: Path) -> None:
    rows = Spill(SCHEMA, tmp_path, hold_b=4096)
    for first in range(0, 2000, 50):
        rows.add(batch(first))
        assert numbers(rows) == list(range(first + 50)), "at any moment, in order"
    wait_until(lambda: rows._held_b <= 4096)
    assert rows.problem is None and len(rows._sizes) > 10 and list(tmp_path.iterdir()) == []
    assert numbers(rows) == list(range(2000)) and rows.rows == 2000
    rows.close()


def test_what_is_short_never_touches_the_disk(tmp_path: Path) -> None:
    rows = Spill(SCHEMA, tmp_path / "not there")
    rows.add(batch(0))
    assert numbers(rows) == list(range(50)) and rows._file is None and rows.complaint is None
    rows.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EIO, "kept there")],
)
def test_a_disk_that_takes_no_more_loses_nothing_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: int, says: str
) -> None:
    room = 10_000
    pwrite = os.pwrite

    def write_some(file: int, content: memoryview, at: int) -> int:
        if at >= room:
            raise OSError(error, os.strerror(error))
        return pwrite(file, content[: room - at], at)

    monkeypatch.setattr(os, "pwrite", write_some)
    rows = Spill(SCHEMA, tmp_path, hold_b=0)
    for first in range(0, 1000, 50):
        rows.add(batch(first))
    wait_until(lambda: rows.problem is not None)
    rows.add(batch(1000))
    assert 0 < len(rows._sizes) < 20 and numbers(rows) == list(range(1050))
    assert says in str(rows.complaint) and str(tmp_path) in str(rows.complaint)
    rows.close()


@pytest.mark.parametrize("hold_b", [0, 1 << 20])
def test_records_come_back_the_same_and_so_do_figures_and_files(tmp_path: Path, hold_b: int) -> None:
    """Whichever way they were kept: as objects, as columns, in a file; bit for bit."""
    for seed in range(24 if hold_b else 8):
        records, load, workload = random_load(seed)
        log = RecordLog(tmp_path, hold_b)
        ended = sorted(enumerate(records), key=lambda item: item[1].end_ns or 0)
        plain, packed = tmp_path / "plain.parquet", tmp_path / "packed.parquet"
        write_records(plain, records)
        before = read_records(plain)
        assert before == records
        for number, record in ended:
            for _ in log.add(number, record):
                pass
        columns = log.close()
        assert columns == before and list(columns) == before and len(columns) == len(before)
        write_records(packed, columns)
        assert packed.read_bytes() == plain.read_bytes()
        assert read_columns(packed) == before
        judged = [
            measure_load(some, load, workload, goodput=random_goal(seed), client=random_client(seed))
            for some in (before, columns, read_columns(plain))
        ]
        assert repr(judged[0]) == repr(judged[1]) == repr(judged[2])


def test_an_interrupted_batch_is_there_once() -> None:
    records, _, _ = random_load(3, 700)
    log = RecordLog(hold_b=1 << 20)
    for number, record in enumerate(records * 3):
        steps = log.add(number, record)
        next(steps, None)  # and no further
    assert [record.seq for record in log.close()] == [record.seq for record in records * 3]


def test_columns_are_a_sequence_of_records() -> None:
    records, _, _ = random_load(11)
    columns = columns_of(records)
    assert columns[0] == records[0] and columns[-1] == records[-1] and columns[3:9] == records[3:9]
    assert columns != records[1:] and columns[::2][1] == records[2]
    with pytest.raises(IndexError):
        columns[len(records)]
    assert join([columns, columns_of([]), columns]) == records * 2
    moved = shifted(columns, 5)
    assert [record.sent_ns and record.sent_ns - 5 for record in moved] == [record.sent_ns for record in records]
    assert [[at - 5 for at in record.chunk_ns] for record in moved] == [record.chunk_ns for record in records]
    assert shifted(columns, 0) is columns
