"""Server-sent events: bytes to payloads, whatever the borders of the reads were. Pure.

The rules are those of the WHATWG specification: lines end in LF, CRLF or CR; a line that starts with a colon is a
comment; the ``data`` lines of one event are joined with LF; an event ends at an empty line; one space after the
colon is dropped. Two liberties, both needed with servers in the field: white space around a payload is ignored
(chat chunks may carry a trailing space), and a last event without its empty line is still read at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


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
    start = len(_BOM) if body.startswith(_BOM) else 0
    data: list[bytes] = []
    data_end = 0
    while start <= len(body):
        line_end = _LINE_END.search(body, start)
        end, following = (line_end.start(), line_end.end()) if line_end else (len(body), len(body) + 1)
        line = body[start:end]
        start = following
        if not line:
            if data:
                payload = b"\n".join(data).strip()
                data.clear()
                if payload:
                    yield payload, data_end
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
            data_end = end
    if data:
        payload = b"\n".join(data).strip()
        if payload:
            yield payload, data_end
