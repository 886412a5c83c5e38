"""Server-sent events: bytes to payloads, whatever the borders of the reads were. Pure.

The rules are those of the WHATWG specification: lines end in LF, CRLF or CR; a line that starts with a colon is a
comment; the ``data`` lines of one event are joined with LF; an event ends at an empty line; one space after the
colon is dropped. Two liberties, both needed with servers in the field: white space around a payload is ignored
(chat chunks may carry a trailing space), and a last event without its empty line is still read at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?event[:\r\n]")
_NO_NAMES = (b"", b"message")
_FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")


def split_events(body: bytes) -> Iterable[tuple[bytes, int]]:
    """``(payload, end)`` of each event with data in ``body``, in order.

    ``end`` is the offset just behind the last byte of the event's last data line, without its line end: the event
    was known to the reader when byte ``end - 1`` had arrived. Never raises, whatever the bytes.
    """
    if b"\r" in body or body.startswith(_BOM):
        return _split_any(body)
    blocks = body.split(b"\n\n")
    if body.count(b"\n") == 2 * len(blocks) - 2:
        return _split_plain(blocks)
    return _split_blocks(blocks)


@dataclass(frozen=True)
class NamedEvents:
    """What the ``event`` lines of a stream say.

    ``error_end``: offset behind the first event whose name speaks of an error, ``None`` without one;
    ``error``: its data, or the comments in it where it has none. ``named``: ends, as in :func:`split_events`, of the
    data of all other events with a name of their own, which need not be chunks of an answer.
    """

    error_end: int | None = None
    error: bytes = b""
    named: frozenset[int] = frozenset()


_NOTHING_NAMED = NamedEvents()


def read_names(body: bytes) -> NamedEvents:
    """The names of the events in ``body``. Cheap where no line names one. Never raises."""
    if b"event" not in body or _NAME.search(body) is None:
        return _NOTHING_NAMED
    named: set[int] = set()
    for block in _blocks(body):
        name = block.name.strip().lower()
        if b"error" in name or name == b"exception":
            return NamedEvents(block.end, block.payload or block.comment, frozenset(named))
        if name not in _NO_NAMES and block.payload:
            named.add(block.end)
    return NamedEvents(named=frozenset(named))


def find_named(body: bytes, name: bytes) -> bytes | None:
    """The data of the first event called ``name`` in ``body``; ``None`` without one. Never raises."""
    if name not in body:
        return None
    return next((block.payload for block in _blocks(body) if block.name.strip() == name and block.payload), None)


def is_stream(body: bytes) -> bool | None:
    """Is ``body`` an event stream, by its first bytes? ``False``: one JSON value; ``None``: neither can be said."""
    start = body[:256].lstrip()
    if _FIRST_LINE.match(start) is not None:
        return True
    return False if start[:1] in (b"{", b"[") else None


def _split_plain(blocks: Sequence[bytes]) -> list[tuple[bytes, int]]:
    # Every server seen writes "data: {...}\n\n" with nothing else: events of one line, taken apart by C.
    ends = accumulate((len(block) + 2 for block in blocks), initial=-2)
    next(ends)
    return [
        (payload, end)
        for block, end in zip(blocks, ends, strict=True)
        if block.startswith(b"data:") and (payload := block[5:].strip())
    ]


def _split_blocks(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    offset = 0
    for block in blocks:
        if block:
            for payload, end in _split_any(block):
                yield payload, offset + end
        offset += len(block) + 2


def _split_any(body: bytes) -> Iterator[tuple[bytes, int]]:
    for block in _blocks(body):
        if block.payload:
            yield block.payload, block.end


class _Block(NamedTuple):
    """One event. ``end``: behind its last data line, or its last line where it has no data."""

    payload: bytes
    end: int
    name: bytes
    comment: bytes


def _blocks(body: bytes) -> Iterator[_Block]:
    start = len(_BOM) if body.startswith(_BOM) else 0
    data: list[bytes] = []
    comments: list[bytes] = []
    name = b""
    data_end = last_end = 0
    while start <= len(body):
        line_end = _LINE_END.search(body, start)
        end, following = (line_end.start(), line_end.end()) if line_end else (len(body), len(body) + 1)
        line = body[start:end]
        start = following
        if line:
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            last_end = end
            if field == b"data":
                data.append(value)
                data_end = end
            elif field == b"event":
                name = value
            elif not field:
                comments.append(value)
        if (not line or following > len(body)) and (data or name or comments):
            payload = b"\n".join(data).strip()
            yield _Block(payload, data_end if data else last_end, name, b" ".join(comments).strip())
            data, comments, name = [], [], b""
