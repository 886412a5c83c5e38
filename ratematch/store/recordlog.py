"""The records of a load under way: a few as they are, the rest as columns, and most of those in a file.

Made in steps that each take a fraction of a millisecond, because they are made in the thread that sends the load.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ratematch.measure.columns import Columns
from ratematch.measure.records import RequestRecord
from ratematch.store.records import RECORDS_SCHEMA, ColumnsReader, column_of
from ratematch.store.spill import Spill

_RECORDS, _CHUNKS = 256, 1 << 16
"""Records or chunk instants that make a batch."""

_SCHEMA = RECORDS_SCHEMA.append(pa.field("number", pa.int64(), nullable=False))


@functools.cache
def _load_pyarrow() -> None:
    """Make a batch that nobody wants: the first one of a process takes 0.4 s where pyarrow loads pandas, and no load
    should be under way then."""
    columns = [column_of([RequestRecord(0, 0)], name) for name in RECORDS_SCHEMA.names]
    pa.RecordBatch.from_arrays([*columns, pa.array(np.zeros(1, np.int64))], schema=_SCHEMA).serialize()


class RecordLog:
    """Takes each record once, with its ``number`` in the order in which the load is to have them.

    ``folder``: where those go that memory should not hold, see :class:`ratematch.store.spill.Spill`.
    """

    def __init__(self, folder: Path | None = None, hold_b: int | None = None) -> None:
        self._spill = Spill(_SCHEMA, folder, hold_b)
        self._batch: list[RequestRecord] = []
        self._numbers, self._ends, self._chunks = array("q"), array("i", [0]), array("q")
        self._num_chunks = 0
        _load_pyarrow()

    @property
    def complaint(self) -> str | None:
        """Why records could not be written; all of them are still there."""
        return self._spill.complaint

    def add(self, number: int, record: RequestRecord) -> Iterator[None]:
        """Keep ``record``, in steps. It is there after the first one; what it holds of chunks is taken from it."""
        self._chunks.extend(record.chunk_ns)
        record.chunk_ns = ()
        self._ends.append(len(self._chunks))
        self._numbers.append(number)
        self._batch.append(record)
        if len(self._batch) >= _RECORDS or len(self._chunks) >= _CHUNKS:
            yield from self._pack()

    def _pack(self) -> Iterator[None]:
        batch, numbers, ends, chunks = self._batch, self._numbers, self._ends, self._chunks
        columns = []
        for name in RECORDS_SCHEMA.names:
            if name == "chunk_ns":
                # Copies: an array that somebody looks into cannot grow, and this may be stopped between two steps.
                instants = pa.array(np.array(chunks, np.int64))
                columns.append(pa.ListArray.from_arrays(pa.array(np.array(ends, np.int32)), instants))
            else:
                columns.append(column_of(batch, name))
            yield
        columns.append(pa.array(np.array(numbers, np.int64)))
        # Only now: whoever is stopped between two steps has lost nothing.
        self._batch = []
        self._numbers, self._ends, self._chunks = array("q"), array("i", [0]), array("q")
        self._num_chunks += len(chunks)
        self._spill.add(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))

    def close(self) -> Columns:
        """All records, in the order of their numbers; the file is gone then."""
        if self._batch:
            for _ in self._pack():
                pass
        try:
            reader = ColumnsReader(self._spill.rows, self._num_chunks)
            numbers = np.empty(self._spill.rows, np.int64)
            for batch in self._spill.batches():
                numbers[reader.rows : reader.rows + batch.num_rows] = batch["number"].to_numpy()
                reader.add(batch)
        finally:
            self._spill.close()
        columns = reader.columns()
        in_order = bool((np.diff(numbers) > 0).all())
        return columns if in_order else columns.take(np.argsort(numbers, kind="stable"))
