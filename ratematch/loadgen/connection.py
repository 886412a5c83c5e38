"""Connections of the load generator: bytes stamped as they arrive in the transport, kept, and looked at no further.

An :class:`asyncio.Protocol` of our own, because what a client library does per read (parse, wake a task) is what
makes its clock late. Per read: one clock reading, one copy into the exchange's buffer, two integers; the headers are
parsed once, and the framing is walked when a read ends as an answer's last one would
(:mod:`ratematch.loadgen.wire`). Idle connections are kept for the next request, the last used first.
"""

from __future__ import annotations

import asyncio
import ssl
from array import array
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol, cast

from ratematch.loadgen.wire import LAST_BYTES, ChunkWalk, Head, WireError, parse_head

KEEP_IDLE_NS = 4_000_000_000
"""uvicorn drops idle connections after 5 s, and a request on a half-closed one is lost."""


class Receiver(Protocol):
    """What a connection fills while an answer comes in: since ``stamps[i]`` (ns) ``wire`` has ``ends[i]`` bytes."""

    wire: bytearray
    ends: array[int]
    stamps: array[int]

    def headed(self, head: Head) -> None: ...

    def finished(self, failure: Exception | None) -> None:
        """The answer is whole (``None``), not HTTP (WireError), cut short (EOFError) or broken off (OSError)."""
        ...


class Connection(asyncio.Protocol):
    """One connection; serves one :class:`Receiver` at a time."""

    def __init__(self, gone: Callable[[Connection], None]) -> None:
        self.idle_since_ns = 0
        self.closed = False
        self._gone = gone
        self._receiver: Receiver | None = None
        self._head: Head | None = None
        self._walk: ChunkWalk | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # uvloop would keep a write until the end of the loop's turn: with a high mark of 0 it goes out at once.
        self._transport.set_write_buffer_limits(high=0)

    def send(self, request: bytes, receiver: Receiver) -> None:
        """Write one request; ``receiver`` hears of its answer."""
        self._receiver, self._head, self._walk = receiver, None, None
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_ns = monotonic_ns()
        receiver = self._receiver
        if receiver is None:  # nothing was asked: this connection can be trusted no more
            self.close()
            return
        # Copied: on the standard loop a kept chunk pins its whole 256 KiB receive buffer.
        wire = receiver.wire
        wire += data
        receiver.ends.append(len(wire))
        receiver.stamps.append(now_ns)
        head = self._head
        try:
            if head is None:
                head = self._head = parse_head(wire)
                if head is None:
                    return
                receiver.headed(head)
                self._walk = ChunkWalk(head.size) if head.chunked else None
            if self._walk is not None:
                if wire.endswith(LAST_BYTES) and self._walk.ended(wire):
                    self._finish(None)
            elif head.length is not None and len(wire) >= head.size + head.length:
                self._finish(None)
        except WireError as problem:
            self._finish(problem)

    def eof_received(self) -> None:
        self._end_of_stream(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_stream(exc)

    def close(self) -> None:
        """Drop the connection; an answer still to come is not waited for."""
        self._receiver = None
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def _end_of_stream(self, exc: Exception | None) -> None:
        self._forget()
        if self._receiver is None:
            return
        head = self._head
        if exc is None and head is not None and not head.chunked and head.length is None:
            self._finish(None)  # its end is the end of the connection
        elif isinstance(exc, OSError):
            self._finish(exc)
        else:
            self._finish(EOFError("the server closed the connection"))

    def _finish(self, failure: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        if failure is not None or self._head is None or not self._head.keep_alive:
            self.close()
        if receiver is not None:
            receiver.finished(failure)

    def _forget(self) -> None:
        if not self.closed:
            self.closed = True
            self._gone(self)


class ConnectionPool:
    """Connections to one host, opened as they are needed and without a limit."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, connect_timeout_s: float) -> None:
        self._host, self._port, self._tls, self._connect_timeout_s = host, port, tls, connect_timeout_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()

    def take_idle(self) -> Connection | None:
        """A connection that is open and was used lately, if there is one."""
        latest = monotonic_ns() - KEEP_IDLE_NS
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if connection.idle_since_ns >= latest:
                return connection
            connection.close()
        return None

    async def open(self) -> Connection:
        """A new connection.

        Raises:
            OSError: the host cannot be reached (TimeoutError: not within the time for it).
        """
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(
            lambda: Connection(self._open.discard), self._host, self._port, ssl=self._tls
        )
        try:
            _, connection = await asyncio.wait_for(opening, self._connect_timeout_s)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no connection within {self._connect_timeout_s:g} s") from None
        self._open.add(connection)
        return connection

    async def open_ahead(self, number: int, at_once: int = 64) -> None:
        """Have ``number`` connections idle, as far as the host takes them; a refusal is left to the first request."""
        missing = number - len(self._idle)
        while missing > 0:
            some = await asyncio.gather(*(self.open() for _ in range(min(at_once, missing))), return_exceptions=True)
            for connection in some:
                if isinstance(connection, BaseException):
                    return
                self.give_back(connection)
            missing -= len(some)

    def give_back(self, connection: Connection) -> None:
        if not connection.closed:
            connection.idle_since_ns = monotonic_ns()
            self._idle.append(connection)

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()
        self._idle.clear()
