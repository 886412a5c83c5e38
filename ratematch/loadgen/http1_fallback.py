"""Answers that :mod:`ratematch.loadgen.http1` does not read, read by aiohttp's parser instead.

Other content codings (br and zstd, where the packages for them are installed), bare line feeds, folded or otherwise
odd headers and framing. Slower, and imported when the first such answer comes; instants stay those of the reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratematch.loadgen.head import Head, OverLimit, WireError
from ratematch.loadgen.limits import HEAD_BYTES, MOST_BYTES

_READ_BYTES = 4 << 20
"""What a small piece of an answer may unpack to at once is twice this; streams pack to a fiftieth at best."""

_PIECE_BYTES = 1 << 14


class LibraryReader:
    """Reads one answer. ``head``: once it is known. ``compression``: the content coding that is taken off.
    ``limit``: most bytes of its body."""

    def __init__(self, limit: int = MOST_BYTES) -> None:
        from aiohttp.http_parser import HttpResponseParser  # noqa: PLC0415 - not needed by most loads, and not small

        # Nobody waits on its streams: it wants a protocol and an event loop, and uses neither.
        nobody: Any = _NoFlow()
        self._parser = HttpResponseParser(nobody, nobody, _READ_BYTES, read_until_eof=True)
        self._payload: Any = None
        self._fed = self._given = 0
        self._limit = limit
        self.head: Head | None = None
        self.compression: str | None = None

    def feed(self, data: bytes) -> bytes:
        """The part of the body that ``data``, the next bytes of the answer, brought.

        Raises:
            WireError: this is no HTTP answer for aiohttp either. OverLimit: its head or its body is too long.
        """
        pieces = [self._feed_piece(data[at : at + _PIECE_BYTES]) for at in range(0, len(data), _PIECE_BYTES)]
        if self.head is None and self._fed > HEAD_BYTES:
            raise OverLimit(f"no end of the headers within {HEAD_BYTES} bytes")
        return b"".join(pieces)

    def _feed_piece(self, data: bytes) -> bytes:
        before, self._fed = self._fed, self._fed + len(data)
        if self.ended:
            return b""
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception as problem:  # several of aiohttp's, and ValueError
            raise _wire_error(problem) from None
        if self._payload is None:
            final = next(
                ((head, payload) for head, payload in messages if head.code >= 200 or head.code == 101), None
            )
            if final is None:
                return b""
            message, self._payload = final
        piece = self._read()
        if self.head is None:
            # The library does not report where exactly the headers ended; what matters is which read brought the
            # body.
            size = before if piece or self.ended else self._fed
            self.compression = message.compression
            self.head = Head(
                status=message.code,
                size=size,
                chunked=message.chunked,
                length=None,
                encoding=message.headers.get("Content-Encoding", "").lower(),
                content_type=message.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                keep_alive=not message.should_close,
                odd=True,
            )
        return piece

    def feed_eof(self) -> bytes:
        """The server has closed the connection: what that adds to the body.

        Raises:
            WireError: the answer is not whole.
        """
        try:
            self._parser.feed_eof()
        except Exception as problem:
            raise _wire_error(problem) from None
        return self._read() if self._payload is not None else b""

    @property
    def ended(self) -> bool:
        """Is the answer whole?"""
        return self._payload is not None and bool(self._payload.is_eof())

    def _read(self) -> bytes:
        problem = self._payload.exception()
        if problem is not None:
            raise _wire_error(problem)
        piece = bytes(self._payload.read_nowait())
        self._given += len(piece)
        if self._given > self._limit:
            raise OverLimit(f"it unpacks to more than {self._limit} bytes")
        return piece


def unwrap_by_library(
    wire: bytes | bytearray, ends: Sequence[int], limit: int = MOST_BYTES
) -> tuple[bytes, list[int]]:
    """:func:`ratematch.loadgen.http1.unwrap` of an answer that is left to aiohttp.

    Raises:
        WireError: it is not read there either.
    """
    reader = LibraryReader(limit)
    pieces: list[bytes] = []
    body_ends: list[int] = []
    total = before = 0
    for end in ends:
        pieces.append(reader.feed(bytes(wire[before:end])))
        total += len(pieces[-1])
        before = end
        body_ends.append(total)
    head = reader.head
    if head is not None and head.encoding not in ("", "identity") and not reader.compression:
        raise WireError(f"content coding {head.encoding[:60]!r} is not read here")
    return b"".join(pieces), body_ends


def _wire_error(problem: BaseException) -> WireError:
    lines = str(getattr(problem, "message", "") or problem).strip().splitlines()
    return WireError(f"aiohttp: {lines[0].rstrip(':') if lines else type(problem).__name__}")


class _NoFlow:
    """Stands in for the protocol and the loop that the parser is made for."""

    _reading_paused = False

    def pause_reading(self) -> None:
        """Called when more has been unpacked at once than anybody reads."""
        raise OverLimit(f"{_PIECE_BYTES} bytes of it unpack to more than {2 * _READ_BYTES}")

    def resume_reading(self, resume_parser: bool = True) -> None: ...
