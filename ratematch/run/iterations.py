"""Iterations that the workers of a load reported: kept while it runs, written, and summed up."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ratematch.measure.servermetrics import Iteration
from ratematch.store.files import disk_full_as, disk_full_message, replacing
from ratematch.store.rowlog import RowLog


class WorkerIteration(NamedTuple):
    """One iteration. ``read_ns``: the records' clock, when the answer with it came, up to a second after it ran."""

    server: str
    read_ns: int
    iteration: Iteration


class Iterations(Protocol):
    """Iterations of some workers, one worker after another: a list of a few, or a :class:`IterationLog`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[WorkerIteration]: ...


class IterationLog:
    """Those of one load; what is older is in files without names (:class:`ratematch.store.spill.Spill`)."""

    def __init__(self, workers: Sequence[RowLog]) -> None:
        self._workers = workers

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._workers)

    def __iter__(self) -> Iterator[WorkerIteration]:
        for rows in self._workers:
            for server, read_ns, *figures in rows:
                yield WorkerIteration(server, read_ns, Iteration(*figures))

    def table(self) -> pa.Table:
        """As ``iterations.parquet`` has them."""
        batches = [batch for rows in self._workers for batch in rows.batches()]
        # In one piece: what is in the file does not depend on how it came.
        table = pa.Table.from_batches(batches, KEPT).combine_chunks()
        columns = [table["server"].dictionary_encode(), *table.columns[1:]]
        return pa.table(columns, names=KEPT.names).cast(pa.schema(COLUMNS)).combine_chunks()


COLUMNS = (
    ("server", pa.dictionary(pa.int32(), pa.string())),
    ("read_ns", pa.int64()),
    ("iter", pa.int64()),
    ("rank", pa.int32()),
    ("step_ms", pa.float64()),
    ("active", pa.float32()),
    ("queued", pa.float32()),
    ("scheduled", pa.float32()),
    ("ctx_requests", pa.float32()),
    ("gen_requests", pa.float32()),
    ("ctx_tokens", pa.float32()),
    ("kv_used_blocks", pa.float32()),
    ("kv_max_blocks", pa.float32()),
    ("cache_hit_rate", pa.float32()),
    ("draft_tokens", pa.float32()),
    ("accepted_tokens", pa.float32()),
    ("drafted_requests", pa.float32()),
    ("host_ms", pa.float64()),
    ("before_device_ms", pa.float64()),
)
"""Columns of ``iterations.parquet``: server, instant of reading, and the fields of
:class:`ratematch.measure.servermetrics.Iteration`."""


KEPT = pa.schema(
    [
        ("server", pa.string()),
        *((name, pa.float64() if kind == pa.float32() else kind) for name, kind in COLUMNS[1:]),
    ]
)
"""Columns of what is kept while a load runs: figures as they were reported."""


def write_iterations(path: Path, rows: Iterations) -> None:
    if isinstance(rows, IterationLog):
        table = rows.table()
    else:
        columns = list(zip(*((row.server, row.read_ns, *row.iteration) for row in rows), strict=True))
        columns = columns or [()] * len(COLUMNS)
        arrays = [pa.array(values, kind) for values, (_, kind) in zip(columns, COLUMNS, strict=True)]
        table = pa.table(arrays, names=[name for name, _ in COLUMNS])
    with disk_full_as(disk_full_message(path)), replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def acceptance_length(rows: Iterations) -> float | None:
    """Tokens an iteration yields for a request that drafts: 1 + accepted tokens / requests with drafts, all rows.

    ``None`` when no row has drafts.
    """
    accepted = drafted = 0.0
    for row in rows:
        if row.iteration.drafted_requests:
            accepted += row.iteration.accepted_tokens or 0.0
            drafted += row.iteration.drafted_requests
    return 1 + accepted / drafted if drafted else None


def prefix_hit_rate(rows: Iterations, servers: Collection[str]) -> float | None:
    """Share of the prompt tokens of ``servers`` that were found in their prefix caches, all rows.

    ``None`` when no row reports hits.
    """
    shares = [
        (row.iteration.cache_hit_rate, row.iteration.ctx_tokens)
        for row in rows
        if row.server in servers and row.iteration.cache_hit_rate is not None and row.iteration.ctx_tokens
    ]
    total = sum(tokens for _, tokens in shares)
    return sum(rate * tokens for rate, tokens in shares) / total if total else None


_MEANS = {
    "step_ms": "step_ms",
    "active": "active",
    "queued": "queued",
    "kv_used": "kv_used_blocks",
    "kv_max": "kv_max_blocks",
    "cache_hit_rate": "cache_hit_rate",
    "host_ms": "host_ms",
    "device_ms": "before_device_ms",
}
"""Figures of a summary and the fields of an iteration that they are means of."""


def summarise(rows: Iterations, start_ns: int, end_ns: int) -> dict[str, dict[str, float]]:
    """By server: means over its iterations that were read inside a span, and how many (``iterations``)."""
    numbers: Counter[str] = Counter()
    by_server: dict[str, dict[str, array[float]]] = {}
    for row in rows:
        if start_ns <= row.read_ns <= end_ns:
            numbers[row.server] += 1
            own = by_server.setdefault(row.server, {name: array("d") for name in _MEANS})
            for name, attribute in _MEANS.items():
                if (value := getattr(row.iteration, attribute)) is not None:
                    own[name].append(value)
    summary = {}
    for server, series in by_server.items():
        figures = {"iterations": float(numbers[server])}
        for name, values in series.items():
            if values:
                figures[name] = sum(values) / len(values)
        summary[server] = figures
    return summary
