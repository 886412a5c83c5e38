"""Records of a load as columns: what very many of them are kept and computed as. Pure.

A record that is an object of its own takes 500 bytes and 8 to 40 for each chunk; as columns it takes 8 bytes a field
that is not the same for all, and 8 a chunk. Whoever goes through them one by one gets a :class:`RequestRecord` each,
made for that moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.records import RequestRecord

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

ABSENT = int(np.iinfo(np.int64).min)
"""Stands for ``None`` in a column of integers: no instant, length or count is that."""

INTS = (
    *("seq", "intended_ns", "sent_ns", "first_token_ns", "last_token_ns", "end_ns", "isl", "isl_reported"),
    *("osl_requested", "osl", "cached_tokens", "status", "session", "turn", "later_tokens"),
    *("other_first_ns", "other_last_ns"),
)
"""Fields of a record that are integers or ``None``."""

TEXTS = ("finish_reason", "outcome", "error", "stream_note", "times")
"""Those that are text or ``None``. ``times`` differs in each record, in breakdown loads alone, which are short."""

INSTANTS = tuple(name for name in INTS if name.endswith("_ns"))

Text = Literal["finish_reason", "outcome", "error", "stream_note", "times"]

_AT_ONCE = 256
"""Records made at a time for whoever goes through them one by one."""


@dataclass(frozen=True)
class TextColumn:
    """``values[code]`` of each row; a few different ones, of which there is one each."""

    codes: NDArray[np.int32]
    values: tuple[str | None, ...]

    def equal(self, text: str | None) -> Flags:
        """Which rows have this text?"""
        alike: Flags = np.isin(self.codes, [code for code, value in enumerate(self.values) if value == text])
        return alike


@dataclass(frozen=True)
class ColumnStore:
    """The columns themselves, one element a record, shared by every selection of them.

    ``ints``: by field name, ``ABSENT`` = ``None``. ``decoded``: ``decoded_per_iter``, NaN = ``None``. ``chunks``:
    the chunk instants of all records after one another (ns), those of record k from ``starts[k]`` to
    ``starts[k + 1]``.
    """

    ints: Mapping[str, Ints]
    texts: Mapping[str, TextColumn]
    decoded: Floats
    chunks: Ints
    starts: Ints


class Columns(Sequence[RequestRecord]):
    """A selection of records in an order of its own. ``rows``: which ones of ``store``; ``None`` = all, as they
    stand."""

    __slots__ = ("_rows", "store")

    def __init__(self, store: ColumnStore, rows: NDArray[np.intp] | None = None) -> None:
        self.store, self._rows = store, rows

    def __len__(self) -> int:
        return len(self.store.decoded) if self._rows is None else len(self._rows)

    def __iter__(self) -> Iterator[RequestRecord]:
        for block in self.blocks(_AT_ONCE):
            yield from _make(block)

    @overload
    def __getitem__(self, index: int) -> RequestRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Columns: ...
    def __getitem__(self, index: int | slice) -> RequestRecord | Columns:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self)), dtype=np.intp))
        place = range(len(self))[index]
        return _make(self._part(place, place + 1))[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} records>"

    def _part(self, begin: int, end: int) -> Columns:
        if self._rows is None:
            return Columns(self.store, np.arange(begin, min(end, len(self)), dtype=np.intp))
        return Columns(self.store, self._rows[begin:end])

    def blocks(self, rows: int = 1 << 12) -> Iterator[Columns]:
        """All of them, so many rows at a time: for what would else need room for each chunk."""
        for begin in range(0, len(self), rows):
            yield self._part(begin, begin + rows)

    def take(self, chosen: Flags | NDArray[np.intp]) -> Columns:
        """Those that ``chosen`` marks, or names in an order by their places here."""
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        places = cast("NDArray[np.intp]", chosen)
        return Columns(self.store, places if self._rows is None else self._rows[places])

    def ints(self, name: str) -> Ints:
        """A field of :data:`INTS`; ``ABSENT`` where a record has none."""
        values: Ints = self._own(self.store.ints[name])
        return values

    def known(self, name: str) -> Flags:
        """Which records have this field of :data:`INTS`?"""
        here: Flags = self.ints(name) != ABSENT
        return here

    def floats(self, name: str) -> Floats:
        """A field of :data:`INTS`; NaN where a record has none."""
        values = self.ints(name)
        floats = values.astype(np.float64)
        floats[values == ABSENT] = np.nan
        return floats

    def text(self, name: Text) -> TextColumn:
        column = self.store.texts[name]
        return TextColumn(self._own(column.codes), column.values)

    @property
    def decoded(self) -> Floats:
        """``decoded_per_iter``; NaN where a record has none."""
        values: Floats = self._own(self.store.decoded)
        return values

    @property
    def chunk_counts(self) -> Ints:
        """How many chunks each has."""
        ends: Ints = self._own(self.store.starts[1:])
        counts: Ints = ends - self.chunk_starts
        return counts

    @property
    def chunk_starts(self) -> Ints:
        """Where in ``store.chunks`` the chunks of each record begin."""
        starts: Ints = self._own(self.store.starts[:-1])
        return starts

    def chunks(self) -> Ints:
        """The chunk instants of all records after one another, in their order."""
        flat = self.store.chunks
        if self._rows is None:
            return flat
        counts = self.chunk_counts
        # The place in the store less the place here is the same for all chunks of a record.
        shift = self.chunk_starts - (np.cumsum(counts) - counts)
        chunks: Ints = flat[np.repeat(shift, counts) + np.arange(counts.sum())]
        return chunks

    def _own(self, values: NDArray[Any]) -> NDArray[Any]:
        own: NDArray[Any] = values if self._rows is None else values[self._rows]
        return own


def _make(columns: Columns) -> list[RequestRecord]:
    """The records of a few rows."""
    fields: dict[str, Sequence[Any]] = {}
    for name in INTS:
        fields[name] = [None if value == ABSENT else value for value in columns.ints(name).tolist()]
    for text in TEXTS:
        column = columns.text(cast("Text", text))
        fields[text] = [column.values[code] for code in column.codes.tolist()]
    fields["decoded_per_iter"] = [None if value != value else value for value in columns.decoded.tolist()]
    begins, counts = columns.chunk_starts.tolist(), columns.chunk_counts.tolist()
    fields["chunk_ns"] = [
        columns.store.chunks[begin : begin + count].tolist() for begin, count in zip(begins, counts, strict=True)
    ]
    names = list(fields)
    return [RequestRecord(**dict(zip(names, row, strict=True))) for row in zip(*fields.values(), strict=True)]


def lean(values: NDArray[Any]) -> NDArray[Any]:
    """``values``, or what looks like them and takes no room where all are the same."""
    if len(values) and bool((values == values[0]).all()):
        return np.broadcast_to(values[0], values.shape)
    return values


def columns_of(records: Sequence[RequestRecord]) -> Columns:
    """``records`` as columns, in the same order."""
    if isinstance(records, Columns):
        return records
    ints = {}
    for name in INTS:
        values = [getattr(record, name) for record in records]
        ints[name] = lean(np.array([ABSENT if value is None else value for value in values], dtype=np.int64))
    decoded = [record.decoded_per_iter for record in records]
    starts = np.cumsum([0, *(len(record.chunk_ns) for record in records)], dtype=np.int64)
    chunks = np.empty(starts[-1], np.int64)
    for record, begin, end in zip(records, starts[:-1], starts[1:], strict=True):
        chunks[begin:end] = record.chunk_ns
    return Columns(
        ColumnStore(
            ints,
            {name: _code([getattr(record, name) for record in records]) for name in TEXTS},
            lean_floats(np.array([np.nan if value is None else value for value in decoded], dtype=np.float64)),
            chunks,
            starts,
        )
    )


def lean_floats(values: Floats) -> Floats:
    """:func:`lean` for floats, where NaN is no value."""
    if len(values) and bool(np.isnan(values).all()):
        return np.broadcast_to(np.float64(np.nan), values.shape)
    return cast("Floats", lean(values))


def _code(texts: Sequence[str | None]) -> TextColumn:
    codes: dict[str | None, int] = {}
    coded = np.array([codes.setdefault(text, len(codes)) for text in texts], dtype=np.int32)
    return TextColumn(cast("NDArray[np.int32]", lean(coded)), tuple(codes))


def join(parts: Sequence[Columns]) -> Columns:
    """All records of ``parts``, one part after another; each is all of its store, as it stands there."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.store.chunks) for part in parts)])
    starts = [part.store.starts[:-1] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
    return Columns(
        ColumnStore(
            {name: lean(np.concatenate([part.ints(name) for part in parts])) for name in INTS},
            {name: _join_texts([part.text(cast("Text", name)) for part in parts]) for name in TEXTS},
            lean_floats(np.concatenate([part.decoded for part in parts])),
            np.concatenate([part.store.chunks for part in parts]),
            np.concatenate([*starts, offsets[-1:]]),
        )
    )


def _join_texts(columns: Sequence[TextColumn]) -> TextColumn:
    codes: dict[str | None, int] = {}
    parts = []
    for column in columns:
        new = np.array([codes.setdefault(value, len(codes)) for value in column.values] or [0], dtype=np.int32)
        parts.append(new[column.codes])
    return TextColumn(cast("NDArray[np.int32]", lean(np.concatenate(parts))), tuple(codes))


def shifted(columns: Columns, shift_ns: int) -> Columns:
    """All records of ``columns``, every instant ``shift_ns`` later."""
    if not shift_ns:
        return columns
    ints = dict(columns.store.ints)
    for name in INSTANTS:
        ints[name] = np.where(ints[name] == ABSENT, ABSENT, ints[name] + shift_ns)
    return Columns(
        ColumnStore(
            ints, columns.store.texts, columns.store.decoded, columns.store.chunks + shift_ns, columns.store.starts
        ),
        columns._rows,
    )
