"""Rows that threads report for as long as somebody measures, kept so that memory does not grow with them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ratematch.store.spill import Spill

_ROWS = 256
"""Rows that make a batch."""

HOLD_B = 1 << 20
"""Bytes that wait in memory; there may be one log for each of a hundred servers."""

Row = tuple[Any, ...]


class RowLog:
    """Rows of one ``schema``, in the order in which they came. Any thread may add to it and read it.

    ``folder``: where those go that memory should not hold, see :class:`ratematch.store.spill.Spill`.
    """

    def __init__(self, schema: pa.Schema, folder: Path | None = None, hold_b: int | None = None) -> None:
        self.schema = schema
        self._spill = Spill(schema, folder, HOLD_B if hold_b is None else hold_b)
        self._newest: list[Row] = []
        self._lock = threading.Lock()

    def extend(self, rows: Iterable[Row]) -> None:
        with self._lock:
            self._newest += rows
            if len(self._newest) >= _ROWS:
                batch, self._newest = self._newest, []
                self._spill.add(self._pack(batch))

    def __len__(self) -> int:
        with self._lock:
            return self._spill.rows + len(self._newest)

    def __iter__(self) -> Iterator[Row]:
        for batch in self.batches():
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Everything so far."""
        with self._lock:
            # What has come when this begins, whatever comes meanwhile.
            older, newest = self._spill.batches(), self._newest[:]
            first = next(older, None)
        if first is not None:
            yield first
            yield from older
        if newest:
            yield self._pack(newest)

    def _pack(self, rows: Sequence[Row]) -> pa.RecordBatch:
        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, kind) for values, kind in zip(columns, self.schema.types, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
