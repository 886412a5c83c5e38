"""Request records on disk: parquet, zstd, one row a request, with a version in the file's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ratematch.errors import ResultsError
from ratematch.measure.records import RequestRecord
from ratematch.store.files import disk_full_as, replacing

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
    columns = {name: [getattr(record, name) for record in records] for name in _NAMES}
    table = pa.Table.from_pydict(columns, schema=RECORDS_SCHEMA)
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


def read_records(path: Path | str) -> list[RequestRecord]:
    """The records of a file written by :func:`write_records`, in the order written.

    Raises:
        ResultsError: missing, not a records file, or of another version.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as problem:
        raise ResultsError(f"{path}: no readable records file ({problem})") from problem
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"").decode()
    if version != str(RECORDS_VERSION):
        raise ResultsError(f"{path}: records version {version or 'unknown'}, this ratematch reads {RECORDS_VERSION}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return [RequestRecord(**row) for row in rows]
