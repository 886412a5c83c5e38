"""Rows that several threads report."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from ratematch.store import rowlog
from ratematch.store.rowlog import RowLog

SCHEMA = pa.schema([("number", pa.int64()), ("value", pa.float64()), ("text", pa.string())])


@pytest.mark.parametrize("hold_b", [0, None])
def test_rows_come_back_as_they_were_at_any_moment(tmp_path: Path, hold_b: int | None) -> None:
    log = RowLog(SCHEMA, tmp_path, hold_b)
    rows = [(k, None if k % 3 else k / 7, None if k % 2 else f"ü{k}") for k in range(1500)]
    for begin in range(0, 1500, 7):
        log.extend(rows[begin : begin + 7])
        if begin % 70 == 0:
            assert list(log) == rows[: begin + 7] and len(log) == begin + 7
    assert list(log) == rows and list(tmp_path.iterdir()) == []
    assert list(RowLog(SCHEMA)) == [] and len(RowLog(SCHEMA)) == 0


def test_threads_do_not_lose_each_others_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rowlog, "_ROWS", 5)
    log = RowLog(SCHEMA, tmp_path, 64)

    def report(own: int) -> None:
        for k in range(200):
            log.extend([(own * 1000 + k, 0.5, None)])

    threads = [threading.Thread(target=report, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen = [number for number, _, _ in log]
        assert len(set(seen)) == len(seen)
    kept = [number for number, _, _ in log]
    for own in range(4):
        assert [number for number in kept if number // 1000 == own] == [own * 1000 + k for k in range(200)]
