"""HTTP/1.1 answers on the wire: where one ends, and its body without the framing. Pure: bytes in, values out.

While a load runs only :func:`parse_head` and :class:`ChunkWalk` look at the bytes, the latter when a read ends as
the last one of an answer would. :func:`unwrap` takes the body out afterwards. What is read follows RFC 9112: interim
(1xx) answers, chunk extensions and trailers are skipped; bodies are chunked, of a known length, or end with the
connection.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ratematch.loadgen.head import Head, OverLimit, WireError
from ratematch.loadgen.http1_fallback import unwrap_by_library
from ratematch.loadgen.limits import COUNT_DIGITS, HEAD_BYTES, HEADERS, INTERIM, MOST_BYTES

LAST_BYTES = b"\r\n\r\n"
"""A chunked body ends like this, trailers or not; few reads before its end do."""

_LONGEST_SIZE_LINE = 4096
_WALK_BYTES = 8192
_BODILESS = (204, 304)
_CODINGS = ("", "gzip", "x-gzip", "deflate")
_SIZE = re.compile(rb"\s*([0-9a-fA-F]+)\s*(?:;|$)")
_ZERO = ord("0")
_MOST_MEMBERS = 1 << 17


def parse_head(wire: bytes | bytearray) -> Head | None:
    """The head of the answer that ``wire`` begins with; ``None`` when it is not whole yet.

    Raises:
        WireError: no HTTP answer, or a transfer coding that is not read here.
    """
    start = 0
    for _ in range(INTERIM + 1):
        if not (wire.startswith(b"HTTP/1.", start) or b"HTTP/1.".startswith(bytes(wire[start : start + 7]))):
            raise WireError(f"no HTTP answer: it begins with {bytes(wire[start : start + 20])!r}")
        end = wire.find(b"\r\n\r\n", start)
        # Bare line feeds would be taken for a head that never ends, or that ends in the middle of the body.
        if wire.find(b"\n\n", start, end if end >= 0 else len(wire)) >= 0:
            raise WireError("a head whose lines end in bare line feeds")
        if (len(wire) if end < 0 else end) > HEAD_BYTES:
            raise OverLimit(f"no end of the headers within {HEAD_BYTES} bytes")
        if end < 0:
            return None
        first, *lines = bytes(wire[start:end]).split(b"\r\n")
        start = end + 4
        parts = first.split(None, 2)
        if len(parts) < 2 or not parts[1].isdigit() or len(parts[1]) != 3:
            raise WireError(f"no HTTP status in {first[:60]!r}")
        status = int(parts[1])
        if status < 200 and status != 101:
            continue
        if len(lines) > HEADERS:
            raise OverLimit(f"{len(lines)} headers; at most {HEADERS} are read")
        return _read_headers(status, start, parts[0] == b"HTTP/1.1", lines)
    raise OverLimit(f"more than {INTERIM} interim answers")


def _read_headers(status: int, size: int, keep_alive: bool, lines: Sequence[bytes]) -> Head:
    chunked = coded = False
    length: int | None = None
    encoding = content_type = ""
    for line in lines:
        name, _, value = line.partition(b":")
        text = value.strip().decode("latin-1").lower()
        match name.strip().lower():
            case b"transfer-encoding":
                if text not in ("chunked", "identity"):
                    raise WireError(f"transfer coding {text[:60]!r} is not read here")
                coded, chunked = True, text == "chunked"
            case b"content-length":
                length = _content_length(value.strip(), length)
            case b"content-encoding":
                encoding = "" if text == "identity" else text
            case b"content-type":
                content_type = text.partition(";")[0].strip()
            case b"connection":
                keep_alive = "close" not in text and (keep_alive or "keep-alive" in text)
    if coded and length is not None:
        keep_alive = (
            False  # the coding counts (RFC 9112, 6.3), and what else comes on the connection is anybody's guess
        )
    if status in _BODILESS:
        length = 0
    length = None if chunked else length
    keep_alive = keep_alive and (chunked or length is not None)
    return Head(status, size, chunked, length, encoding, content_type, keep_alive)


def _content_length(value: bytes, before: int | None) -> int:
    """``value`` as a number: plain digits, and no other than a header before it gave."""
    digits = value.lstrip(b"0") or value[-1:]
    if not digits.isdigit():  # of bytes: ASCII only
        raise WireError(f"content length {value[:60]!r}")
    if len(digits) > COUNT_DIGITS:
        raise OverLimit(f"content length {digits[:30]!r}... of {len(digits)} digits")
    length = int(digits)
    if before is not None and before != length:
        raise WireError(f"two content lengths, {before} and {length}")
    return length


class ChunkWalk:
    """Walks over the chunks of a growing body, never twice over the same.

    ``due``: length of the wire from which on a look is worth it although no end is in sight: so little is left to
    walk over when the end comes, and a slot waits for it.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self.due = start + _WALK_BYTES

    def ended(self, wire: bytearray) -> bool:
        """Is the last chunk, with its trailers, there?

        Raises:
            WireError: a chunk whose size is no number, or that does not end where it says.
        """
        at, size_of_wire = self._at, len(wire)
        self.due = size_of_wire + _WALK_BYTES
        try:
            while (line_end := wire.find(b"\r\n", at)) >= 0:
                size = _chunk_size(wire[at:line_end])
                if size == 0:
                    return wire.startswith(b"\r\n", line_end + 2) or wire.find(LAST_BYTES, line_end) >= 0
                following = line_end + size + 4
                if following > size_of_wire:
                    return False
                if not wire.startswith(b"\r\n", following - 2):
                    raise WireError("a chunk is longer than its size says")
                at = following
        finally:
            self._at = at
        if size_of_wire - at > _LONGEST_SIZE_LINE:
            raise WireError("a chunk without a size")
        return False


def _chunk_size(line: bytes | bytearray) -> int:
    # With an extension, zeros or spaces; or 0x8, +8 and 1_0, which int takes too.
    digits: bytes | bytearray = line
    if not line.isalnum() or line[0] == _ZERO:
        number = _SIZE.match(line)
        digits = number[1] if number is not None else b""
    try:
        size = int(digits, 16)
    except ValueError:
        raise WireError(f"chunk size {bytes(line[:30])!r}") from None
    if size > MOST_BYTES:
        raise OverLimit(f"a chunk of {size} bytes" if size < 1 << 64 else f"chunk size {bytes(line[:30])!r}...")
    return size


def unwrap(
    head: Head, wire: bytes | bytearray, ends: Sequence[int], limit: int = MOST_BYTES
) -> tuple[bytes, list[int]]:
    """``(body, body_ends)``: the body without framing and compression, and how much of it had come with each read.

    ``wire``: everything that came, head included; ``ends``: how much of it after each read. A body that was cut short
    gives what is there of it. ``limit``: most bytes of the body.

    Raises:
        WireError: a content coding that is not read here, or broken. OverLimit: it unpacks to more than ``limit``.
    """
    if head.odd or head.encoding not in _CODINGS:
        return unwrap_by_library(wire, ends, limit)
    if head.chunked:
        body, body_ends = _join_chunks(wire, head.size, ends)
    else:
        stop = len(wire) if head.length is None else head.size + head.length
        body = bytes(wire[head.size : stop])
        body_ends = [max(0, min(end, stop) - head.size) for end in ends]
    return _decompress(head.encoding, body, body_ends, limit) if head.encoding else (body, body_ends)


def _join_chunks(wire: bytes | bytearray, start: int, ends: Sequence[int]) -> tuple[bytes, list[int]]:
    wire = bytes(wire)
    return _join_plain_chunks(wire, start, ends) or _join_any_chunks(wire, start, ends)


def _join_plain_chunks(wire: bytes, start: int, ends: Sequence[int]) -> tuple[bytes, list[int]] | None:
    """The common case in a few passes of C: all chunks whole, and no line break of HTTP in any; else ``None``."""
    parts = wire[start:].split(b"\r\n")
    if len(parts) < 5 or parts[-3:] != [b"0", b"", b""] or len(parts) % 2 == 0:
        return None
    sizes, pieces = parts[:-3:2], parts[1:-3:2]
    lengths = [len(piece) for piece in pieces]
    try:
        if lengths != [int(size, 16) for size in sizes]:
            return None
    except ValueError:
        return None
    body = b"".join(pieces)
    # Most reads end where a chunk does.
    wire_ends = accumulate(
        (len(size) + length + 4 for size, length in zip(sizes, lengths, strict=True)), initial=start
    )
    known = dict(zip(wire_ends, accumulate(lengths, initial=0), strict=True))
    known[len(wire)] = len(body)
    try:
        return body, [known[end] for end in ends]
    except KeyError:
        return body, _place_reads(start, sizes, lengths, ends)


def _place_reads(start: int, sizes: Sequence[bytes], lengths: Sequence[int], ends: Sequence[int]) -> list[int]:
    """How much of the body had come with each read, wherever it ended."""
    body_begins = np.concatenate([[0], np.cumsum(lengths)])
    framing = np.array([len(size) for size in sizes]) + 4  # the size line's end and the chunk's
    wire_begins = start + body_begins[:-1] + np.cumsum(framing) - 2
    at = np.asarray(ends, dtype=np.int64)
    chunk = np.maximum(np.searchsorted(wire_begins, at, "right") - 1, 0)
    inside = np.clip(at - wire_begins[chunk], 0, np.asarray(lengths)[chunk])
    body_ends: list[int] = (body_begins[chunk] + inside).tolist()
    return body_ends


def _join_any_chunks(wire: bytes, start: int, ends: Sequence[int]) -> tuple[bytes, list[int]]:
    pieces: list[bytes] = []
    body_ends: list[int] = []
    total, read = 0, 0
    at = start
    while True:
        line_end = wire.find(b"\r\n", at)
        if line_end < 0:
            break
        try:
            size = _chunk_size(wire[at:line_end])
        except WireError:
            break
        begin = line_end + 2
        # Reads that ended before this chunk's bytes begin, or within them.
        while read < len(ends) and ends[read] < begin + size:
            body_ends.append(total + max(0, ends[read] - begin))
            read += 1
        if size == 0:
            break
        pieces.append(wire[begin : begin + size])
        total += len(pieces[-1])
        at = begin + size + 2
    body_ends += [total] * (len(ends) - read)
    return b"".join(pieces), body_ends


def _decompress(encoding: str, body: bytes, ends: Sequence[int], limit: int) -> tuple[bytes, list[int]]:
    unpacked = _Unpacked(encoding, body[:1], limit)
    plain_ends: list[int] = []
    before = 0
    try:
        for end in ends:
            unpacked.feed(body[before:end])
            before = max(before, end)
            plain_ends.append(unpacked.size)
    except zlib.error as problem:
        raise WireError(f"broken compression: {problem}") from None
    return b"".join(unpacked.pieces), plain_ends


class _Unpacked:
    """A compressed body as far as it has been fed. A gzip body may be several members, one after another."""

    def __init__(self, encoding: str, first: bytes, limit: int) -> None:
        # 32: a gzip or zlib head, whichever is there; some servers send deflate without one.
        raw = encoding == "deflate" and first and first[0] & 0x0F != 8
        self._wbits = -zlib.MAX_WBITS if raw else 32 + zlib.MAX_WBITS
        self._decoder = zlib.decompressobj(self._wbits)
        self._members = encoding.endswith("gzip")
        self._left = _MOST_MEMBERS
        self._limit = limit
        self.pieces: list[bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Raises zlib.error, WireError (bytes after the end) or OverLimit."""
        while data:
            if self._decoder.eof:
                self._begin_member(data)
            piece = self._decoder.decompress(data, self._limit - self.size + 1)
            self.pieces.append(piece)
            self.size += len(piece)
            if self.size > self._limit:
                raise OverLimit(f"it unpacks to more than {self._limit} bytes")
            data = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail

    def _begin_member(self, data: bytes) -> None:
        self._left -= 1
        if not self._members or self._left < 0:
            raise WireError(f"bytes after the end of a compressed body: {data[:20]!r}")
        self._decoder = zlib.decompressobj(self._wbits)
