"""Connections to one host, kept for the next request, the last used first."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable
from time import monotonic_ns
from typing import Any

from ratematch.loadgen.connection import Connection, StreamConnection
from ratematch.loadgen.sockets import KERNEL_STAMPS, Sockets

KEEP_IDLE_NS = 4_000_000_000
"""uvicorn drops idle connections after 5 s, and a request on a half-closed one is lost."""


class ConnectionPool:
    """Connections to one host, opened as they are needed and without a limit; belongs to the running event loop.

    ``kernel_stamps``: read sockets of our own, where the kernel tells when bytes arrived (never with ``tls``).
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        connect_timeout_s: float,
        kernel_stamps: bool = KERNEL_STAMPS,
    ) -> None:
        self._host, self._port, self._tls, self._connect_timeout_s = host, port, tls, connect_timeout_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._addresses: list[Any] = []
        self._sockets = Sockets(self._count_busy) if kernel_stamps and tls is None else None

    @property
    def kernel_stamped(self) -> float:
        """Share of the reads so far that the kernel had stamped."""
        return self._sockets.stamped / max(1, self._sockets.reads) if self._sockets is not None else 0.0

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
        opening: Awaitable[Connection] = self._open_stream() if self._sockets is None else self._open_socket()
        try:
            connection = await asyncio.wait_for(opening, self._connect_timeout_s)
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
        if self._sockets is not None:
            self._sockets.close()

    def _count_busy(self) -> int:
        return len(self._open) - len(self._idle)

    async def _open_stream(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: StreamConnection(self._open.discard), self._host, self._port, ssl=self._tls
        )
        return connection

    async def _open_socket(self) -> Connection:
        assert self._sockets is not None
        loop = asyncio.get_running_loop()
        if not self._addresses:
            self._addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        problem: OSError | None = None
        for family, kind, protocol, _, address in self._addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                return self._sockets.add(sock, self._open.discard)
            except OSError as reason:
                sock.close()
                problem = problem or reason
            except BaseException:
                sock.close()
                raise
        raise problem or OSError(f"{self._host}: no address")
