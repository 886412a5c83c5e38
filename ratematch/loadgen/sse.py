"""Server-sent events: bytes to payloads, whatever the borders of the reads were. Pure.

The rules are those of the WHATWG specification: lines end in LF, CRLF or CR; a line that starts with a colon is a
comment; the ``data`` lines of one event are joined with LF; an event ends at an empty line; one space after the
colon is dropped. Two liberties, both needed with servers in the field: white space around a payload is ignored
(chat chunks may carry a trailing space), and a last event without its empty line is still read at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


def split_events(body: bytes) -> Iterator[tuple[bytes, int]]:
    """``(payload, end)`` of each event with data in ``body``, in order.

    ``end`` is the offset just behind the last byte of the event's last data line, without its line end: the event
    was known to the reader when byte ``end - 1`` had arrived. Never raises, whatever the bytes.
    """
    if b"\r" not in body and not body.startswith(_BOM):
        yield from _split_common(body)
    else:
        yield from _split_any(body)


def _split_common(body: bytes) -> Iterator[tuple[bytes, int]]:
    # Every server seen writes "data: {...}\n\n" with nothing else; one C-level split serves those.
    offset = 0
    for block in body.split(b"\n\n"):
        size = len(block)
        if block.startswith(b"data:") and b"\n" not in block:
            payload = block[5:].strip()
            if payload:
                yield payload, offset + size
        elif size:
            for payload, end in _split_any(block):
                yield payload, offset + end
        offset += size + 2


def _split_any(body: bytes) -> Iterator[tuple[bytes, int]]:
    start = len(_BOM) if body.startswith(_BOM) else 0
    data: list[bytes] = []
    data_end = 0
    while start <= len(body):
        found = _LINE_END.search(body, start)
        end, following = (found.start(), found.end()) if found else (len(body), len(body) + 1)
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
