"""Request records on disk: parquet, zstd, one row a request, with a version in the file's metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ratematch.errors import DamagedFile
from ratematch.measure.columns import ABSENT, INTS, TEXTS, Columns, ColumnStore, Text, TextColumn, lean, lean_floats
from ratematch.measure.records import RequestRecord
from ratematch.store.files import UNREADABLE, describe_damage, disk_full_as, read_bytes, replacing

RECORDS_VERSION = 1
_VERSION_KEY = b"ratematch.records_version"

RECORDS_SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("intended_ns", pa.int64(), nullable=False),
        pa.field("sent_ns", pa.int64()),
        pa.field("first_token_ns", pa.int64()),
        pa.field("last_token_ns", pa.int64()),
        pa.field("end_ns", pa.int64()),
        pa.field("chunk_ns", pa.list_(pa.int64()), nullable=False),
        pa.field("isl", pa.int64(), nullable=False),
        pa.field("isl_reported", pa.int64()),
        pa.field("osl_requested", pa.int64(), nullable=False),
        pa.field("osl", pa.int64()),
        pa.field("cached_tokens", pa.int64()),
        pa.field("finish_reason", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("status", pa.int64()),
        pa.field("error", pa.string()),
        pa.field("decoded_per_iter", pa.float64()),
        pa.field("session", pa.int64()),
        pa.field("turn", pa.int64()),
        pa.field("later_tokens", pa.int64()),
        pa.field("other_first_ns", pa.int64()),
        pa.field("other_last_ns", pa.int64()),
        pa.field("stream_note", pa.string()),
        pa.field("times", pa.string()),
    ],
    metadata={_VERSION_KEY: str(RECORDS_VERSION).encode()},
)
"""Columns of a records file: the fields of :class:`RequestRecord`, instants in ns of one monotonic clock."""

_NAMES = [column.name for column in fields(RequestRecord)]


def write_records(path: Path | str, records: Sequence[RequestRecord]) -> None:
    """Write ``records`` to ``path``: aside first, then renamed, so a reader never sees half a file.

    Raises:
        DiskFull: no room left; nothing is at ``path`` that was not there before.
        OSError: the file cannot be written for another reason.
    """
    path = Path(path)
    if isinstance(records, Columns):
        columns = [_packed_column(records, name) for name in _NAMES]
    else:
        columns = [column_of(records, name) for name in _NAMES]
    table = pa.table(columns, schema=RECORDS_SCHEMA)
    no_room = f"{path}: no room for {len(records)} records; free some and run the same command again"
    with disk_full_as(no_room), replacing(path) as aside:
        # Arrival times grow by near-equal steps: as differences they take a third less room and write faster.
        pq.write_table(
            table,
            aside,
            compression="zstd",
            use_dictionary=["finish_reason", "outcome", "error", "stream_note"],
            column_encoding={"chunk_ns.list.element": "DELTA_BINARY_PACKED"},
        )


def column_of(records: Sequence[RequestRecord], name: str) -> pa.Array:
    """The column ``name`` of a records file."""
    if name != "chunk_ns":
        return pa.array([getattr(record, name) for record in records], RECORDS_SCHEMA.field(name).type)
    # Without a Python object for each instant: there are some hundred times more of them than of anything else.
    ends = np.cumsum([0, *(len(record.chunk_ns) for record in records)])
    instants = np.empty(ends[-1], np.int64)
    for record, begin, end in zip(records, ends[:-1], ends[1:], strict=True):
        instants[begin:end] = record.chunk_ns
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(instants))


def _packed_column(records: Columns, name: str) -> pa.Array:
    """:func:`column_of`, with no object for each record."""
    if name == "chunk_ns":
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(records.chunk_counts)])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(records.chunks()))
    if name == "decoded_per_iter":
        values = np.ascontiguousarray(records.decoded)
        return pa.array(values, pa.float64(), mask=np.isnan(values))
    if name in INTS:
        numbers = np.ascontiguousarray(records.ints(name))
        return pa.array(numbers, pa.int64(), mask=numbers == ABSENT)
    text = records.text(cast("Text", name))
    codes = np.ascontiguousarray(text.codes)
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(text.values, pa.string())).cast(pa.string())


class ColumnsReader:
    """Makes columns of batches of rows of :data:`RECORDS_SCHEMA`, ``rows`` and ``chunks`` of them in all at most.

    A batch at a time, so that beside the columns there is one batch in memory.
    """

    def __init__(self, rows: int, chunks: int) -> None:
        self.rows = self._num_chunks = 0
        self._ints = {name: np.empty(rows, np.int64) for name in INTS}
        self._codes = {name: np.empty(rows, np.int32) for name in TEXTS}
        self._seen: dict[str, dict[str | None, int]] = {name: {} for name in TEXTS}
        self._decoded = np.empty(rows, np.float64)
        self._chunks = np.empty(chunks, np.int64)
        self._starts = np.zeros(rows + 1, np.int64)

    def add(self, batch: pa.RecordBatch) -> None:
        here = slice(self.rows, self.rows + batch.num_rows)
        for name, column in self._ints.items():
            # A file of an earlier version lacks the last ones.
            known = name in batch.schema.names
            column[here] = pc.fill_null(batch[name], ABSENT).to_numpy(zero_copy_only=False) if known else ABSENT
        for name, codes in self._codes.items():
            known = name in batch.schema.names
            values = batch[name] if known else pa.nulls(batch.num_rows, pa.string())
            coded, seen = values.dictionary_encode("encode"), self._seen[name]
            new = [seen.setdefault(text, len(seen)) for text in coded.dictionary.to_pylist()]
            codes[here] = np.array(new, np.int32)[coded.indices.to_numpy()]
        decoded = batch["decoded_per_iter"]
        self._decoded[here] = decoded.to_numpy(zero_copy_only=False)
        chunks = batch["chunk_ns"]
        counts = pc.list_value_length(chunks).to_numpy(zero_copy_only=False)
        self._starts[here.start + 1 : here.stop + 1] = self._num_chunks + np.cumsum(counts)
        flat = pc.list_flatten(chunks).to_numpy()
        self._chunks[self._num_chunks : self._num_chunks + len(flat)] = flat
        self._num_chunks += len(flat)
        self.rows = here.stop

    def columns(self) -> Columns:
        """All rows that were added, in that order."""
        own = slice(0, self.rows)
        texts = {
            name: TextColumn(cast("Any", lean(codes[own])), tuple(self._seen[name]))
            for name, codes in self._codes.items()
        }
        return Columns(
            ColumnStore(
                {name: lean(self._ints.pop(name)[own]) for name in INTS},
                texts,
                lean_floats(self._decoded[own]),
                self._chunks[: self._num_chunks],
                self._starts[: self.rows + 1],
            )
        )


_ROWS_AT_ONCE = 1 << 14


def read_columns(path: Path | str) -> Columns:
    """The records of a file written by :func:`write_records`, in the order written, as columns.

    Raises:
        DamagedFile: missing, not a records file, or of another version.
    """
    path = Path(path)
    with _damage_named(path), pq.ParquetFile(path) as file:
        _check_version(file)
        chunks = file.schema_arrow.names.index("chunk_ns")
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        # An empty list counts as one value.
        reader = ColumnsReader(file.metadata.num_rows, sum(group.column(chunks).num_values for group in groups))
        for batch in file.iter_batches(_ROWS_AT_ONCE, use_threads=False):
            reader.add(batch)
        return reader.columns()


def read_records(path: Path | str) -> list[RequestRecord]:
    """The records of a file written by :func:`write_records`, in the order written.

    Raises:
        DamagedFile: missing, not a records file, or of another version.
    """
    path = Path(path)
    return records_from_bytes(path, read_bytes(path))


def records_from_bytes(path: Path, content: bytes) -> list[RequestRecord]:
    """The records in ``content``, all of the file ``path``.

    Raises:
        DamagedFile: not a records file, or of another version.
    """
    with _damage_named(path):
        rows: list[dict[str, Any]] = _read_table(content).to_pylist()
        return [RequestRecord(**row) for row in rows]


@dataclass(frozen=True)
class Arrivals:
    """When tokens of full answers came: ``tokens[k]`` of them at ``instants_ns[k]``, answer by answer. The tokens of
    an answer are spread evenly over its chunks."""

    instants_ns: NDArray[np.int64]
    tokens: NDArray[np.float64]


def arrivals_from_bytes(path: Path, content: bytes) -> Arrivals:
    """The arrivals of the answers in ``content``, all of the records file ``path``; a tenth of the work of reading
    every record.

    Raises:
        DamagedFile: not a records file, or of another version.
    """
    with _damage_named(path):
        table = _read_table(content, ["outcome", "osl", "chunk_ns", "last_token_ns"])
        return _arrivals(*(_whole(table[name]) for name in ("outcome", "osl", "chunk_ns", "last_token_ns")))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _arrivals(outcome: pa.Array, osl: pa.Array, chunks: pa.ListArray, last: pa.Array) -> Arrivals:
    """In numpy: to call one of Arrow's functions takes longer than to go through a load of a hundred requests."""
    if not (pa.types.is_integer(osl.type) or pa.types.is_floating(osl.type)):
        raise ValueError(f"osl is of type {osl.type}")
    tokens = osl.to_numpy(zero_copy_only=False).astype(np.float64)  # null: NaN
    full = pc.equal(outcome, "ok").to_numpy(zero_copy_only=False).astype(bool) & (tokens > 0)
    if chunks.null_count and not chunks.is_valid().to_numpy(zero_copy_only=False)[full].all():
        raise ValueError("an answer without chunk_ns")
    offsets = chunks.offsets.to_numpy()
    lengths = np.diff(offsets).astype(np.int64)
    arrived = chunks.values.to_numpy()[offsets[0] : offsets[-1]][np.repeat(full, lengths)]
    # An answer without chunks is counted whole at its last token.
    bare = lengths[full] == 0
    lone = bare & last.is_valid().to_numpy(zero_copy_only=False)[full]
    counts = lengths[full] + lone
    instants = np.empty(int(counts.sum()), np.int64)
    instants[np.repeat(~bare, counts)] = arrived
    instants[np.repeat(bare, counts)] = pc.fill_null(last, 0).to_numpy()[full][lone]
    return Arrivals(instants, np.repeat(tokens[full] / np.maximum(counts, 1), counts))


def _read_table(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """One thread: records are small, and handing them to others takes longer than reading them."""
    file = pq.ParquetFile(pa.BufferReader(content))
    _check_version(file)
    return file.read(columns=columns, use_threads=False)


def _check_version(file: pq.ParquetFile) -> None:
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode()
    if version != str(RECORDS_VERSION):
        raise ValueError(f"records version {version or 'unknown'}, this ratematch reads {RECORDS_VERSION}")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (*UNREADABLE, pa.ArrowException) as problem:
        raise DamagedFile(path, f"no readable records file ({describe_damage(problem)})") from problem
