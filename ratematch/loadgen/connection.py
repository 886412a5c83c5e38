"""Connections of the load generator: bytes stamped as they arrive, kept, and looked at no further.

What a client library does per read (parse, wake a task) is what makes its clock late. Here, per read: one stamp, one
copy into the exchange's buffer, two integers; the headers are parsed once, and the framing is walked when a read ends
as an answer's last one would (:mod:`ratematch.loadgen.http1`). Bytes come from sockets of our own, stamped by the
kernel (:mod:`ratematch.loadgen.sockets`), or from an event loop's transport (:class:`StreamConnection`: TLS, and
systems without epoll).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol, cast

from ratematch.loadgen.head import Head, OverLimit, WireError
from ratematch.loadgen.http1 import LAST_BYTES, ChunkWalk, parse_head
from ratematch.loadgen.http1_fallback import LibraryReader
from ratematch.loadgen.limits import ANSWER_BYTES

_LINE_FEED = 10


class Receiver(Protocol):
    """What a connection fills while an answer comes in: since ``stamps[i]`` (ns) ``wire`` has ``ends[i]`` bytes."""

    wire: bytearray
    ends: array[int]
    stamps: array[int]

    def headed(self, head: Head) -> None: ...

    def finished(self, failure: Exception | None) -> None:
        """The answer is whole (``None``), not HTTP (WireError), cut short (EOFError) or broken off (OSError)."""
        ...


class Connection(ABC):
    """One connection; serves one :class:`Receiver` at a time. How bytes get out and in is a subclass's matter."""

    def __init__(self, gone: Callable[[Connection], None]) -> None:
        self.idle_since_ns = 0
        self.closed = False
        self._gone = gone
        self._receiver: Receiver | None = None
        self._head: Head | None = None
        self._walk: ChunkWalk | None = None
        self._library: LibraryReader | None = None
        self._limit = ANSWER_BYTES

    def send(self, request: bytes, receiver: Receiver, limit: int = ANSWER_BYTES) -> None:
        """Write one request; ``receiver`` is given its answer, of ``limit`` bytes at most."""
        self._limit = limit
        self._receiver, self._head, self._walk, self._library = receiver, None, None, None
        self._write(request)

    def arrived(self, data: bytes | memoryview, stamp_ns: int) -> None:
        """Take what came in, at ``stamp_ns`` of the monotonic clock. ``data`` is copied."""
        receiver = self._receiver
        if receiver is None:  # no request is under way: this connection can be trusted no more
            self.close()
            return
        try:
            # Copied: on the standard loop a kept chunk pins its whole 256 KiB receive buffer.
            wire = receiver.wire
            wire += data
            size = len(wire)
            receiver.ends.append(size)
            receiver.stamps.append(stamp_ns)
            if size > self._limit:
                raise OverLimit(f"its answer has more than {self._limit} bytes")
            if self._library is not None:
                self._feed_library(self._library, bytes(data))
                return
            head = self._head
            if head is None:
                head = self._head = parse_head(wire)
                if head is None:
                    return
                self._take_head(receiver, head)
            walk = self._walk
            if walk is not None:
                # A read that ends inside a line has a part of a chunk there, or what does not belong to the answer.
                if (
                    wire.endswith(LAST_BYTES)
                    or size > walk.due
                    or (wire[-1] != _LINE_FEED and wire.find(LAST_BYTES, max(0, size - len(data) - 3)) >= 0)
                ) and walk.ended(wire):
                    self._finish(None, surplus=not wire.endswith(LAST_BYTES))
            elif head.length is not None and size >= head.size + head.length:
                self._finish(None, surplus=size > head.size + head.length)
        except OverLimit as problem:
            self.fail(problem)
        except WireError as problem:
            self._fall_back(receiver, problem)
        except Exception as problem:
            self.fail(problem)

    def fail(self, problem: Exception) -> None:
        """End this connection and its request, whatever is wrong with them: other streams go on."""
        receiver, self._receiver = self._receiver, None
        try:
            self.close()
        finally:
            if receiver is not None:
                if isinstance(problem, OverLimit):  # of no use to anybody, and large
                    receiver.wire.clear()
                    del receiver.ends[:], receiver.stamps[:]
                receiver.finished(problem if isinstance(problem, WireError) else WireError(_describe(problem)))

    def ended(self, exc: Exception | None) -> None:
        """The other side sends no more: it closed (``None``), or the connection broke."""
        self._forget()
        if self._receiver is None:
            return
        head = self._head
        if exc is None and self._library is not None:
            self._end_library(self._library)
        elif exc is None and head is not None and not head.chunked and head.length is None:
            self._finish(None)  # its end is the end of the connection
        elif isinstance(exc, OSError):
            self._finish(exc)
        else:
            self._finish(EOFError("the server closed the connection"))

    def close(self) -> None:
        """Drop the connection; an answer still to come is not waited for."""
        self._receiver = None
        self._forget()
        self._abort()

    def _take_head(self, receiver: Receiver, head: Head) -> None:
        receiver.headed(head)
        self._walk = ChunkWalk(head.size) if head.chunked else None
        if head.length is not None and head.length > self._limit:
            raise OverLimit(f"its answer has {head.length} bytes by its head; at most {self._limit} are read")

    def _finish(self, failure: Exception | None, surplus: bool = False) -> None:
        """``surplus``: bytes came behind the answer, and what follows them would be taken for the next one."""
        receiver, self._receiver = self._receiver, None
        if surplus or failure is not None or self._head is None or not self._head.keep_alive or self._unsent():
            self.close()
        if receiver is not None:
            receiver.finished(failure)

    def _fall_back(self, receiver: Receiver, problem: WireError) -> None:
        """Let aiohttp's parser have the answer: what came so far, and from now on each read."""
        library = LibraryReader(self._limit)
        self._head = None
        try:
            library.feed(bytes(receiver.wire))
            self._library = library
            self._note_library(library)
        except OverLimit as over:
            self.fail(over)
        except WireError:
            self._finish(problem)
        except Exception as unforeseen:
            self.fail(unforeseen)

    def _feed_library(self, library: LibraryReader, data: bytes) -> None:
        try:
            library.feed(data)
        except OverLimit:
            raise
        except WireError as problem:
            self._finish(problem)
            return
        self._note_library(library)

    def _note_library(self, library: LibraryReader) -> None:
        if self._head is None and library.head is not None and self._receiver is not None:
            self._head = library.head
            self._receiver.headed(library.head)
        if library.ended:
            self._finish(None)

    def _end_library(self, library: LibraryReader) -> None:
        try:
            library.feed_eof()
        except WireError:
            self._finish(EOFError("the server closed the connection"))
            return
        self._finish(None if library.ended else EOFError("the server closed the connection"))

    def _forget(self) -> None:
        if not self.closed:
            self.closed = True
            self._gone(self)

    @abstractmethod
    def _write(self, request: bytes) -> None: ...

    @abstractmethod
    def _unsent(self) -> bool:
        """Is a part of the request still to be written (the server answered before it had read it all)?"""
        ...

    @abstractmethod
    def _abort(self) -> None: ...


def _describe(problem: Exception) -> str:
    return f"it could not be read ({type(problem).__name__}: {str(problem)[:200]})"


class StreamConnection(Connection, asyncio.Protocol):
    """A connection on an event loop's transport. Stamped in ``data_received``, before any task switch."""

    def __init__(self, gone: Callable[[Connection], None]) -> None:
        super().__init__(gone)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # uvloop would keep a write until the end of the loop's turn: with a high mark of 0 it goes out at once.
        self._transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        self.arrived(data, monotonic_ns())

    def eof_received(self) -> None:
        self.ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended(exc)

    def _write(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def _unsent(self) -> bool:
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
