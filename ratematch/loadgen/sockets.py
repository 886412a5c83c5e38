"""Sockets of our own, read in batches, with the kernel's word on when bytes arrived.

Linux reports with each read when the last packet of what it gives had come in (``SO_TIMESTAMPNS``; for TCP too): the
instant is right however late the read is. So this process need not wake up for each chunk of each stream. After a
batch of reads it rests for a millisecond and takes what has come by then in one go, which saves most of its wake-ups
when a few dozen streams trickle. It does not rest

* with few requests in flight, where there is little to save;
* while answers end: a request that waits for a free slot is not to wait for a timer too;
* while one stream's chunks come so fast that a rest would merge two of them into one read, and so into one stamp.

Reads that come without a stamp (other kernels, the first packets after the first such socket was made) are stamped
when they are read, and then there is no resting either.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from time import monotonic_ns

from ratematch.loadgen.clocks import KernelClock
from ratematch.loadgen.connection import Connection

KERNEL_STAMPS = sys.platform == "linux"
"""Are sockets read here? Elsewhere the event loop's transports are used."""

_SO_TIMESTAMPNS = 35
"""Linux' number for it on every processor that runs this; the module ``socket`` does not name it."""

_TCP_QUICKACK = 12
"""The same for this one, which the module has on Linux only."""

_TIMESPEC = struct.Struct("@ll")
_NOTE_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)

_BUFFER_BYTES = 1 << 16

_AT_ONCE = 512
"""Reads between two looks at the rest of the event loop."""

_REST_S, _LONG_REST_S = 0.001, 0.003

_FAST_NS, _BRISK_NS = 4_000_000, 12_000_000
"""A stream whose reads lie less apart than the first is not left to rest, less than the second not for long: four
rests between two chunks of a stream, so that each is read by itself."""

_QUICK_ACKS = 2
"""Reads at the beginning of an answer that are acknowledged at once. A server that leaves Nagle's algorithm on, as
the frontend of NVIDIA Dynamo 1.6 does, keeps the first tokens back until the head of the answer is acknowledged; on a
connection that is used again a kernel does that up to 40 ms later. TTFT would be longer by that, and TPOT shorter."""

_FEW = 16
"""Requests in flight up to which each arrival is taken at once."""

_HURRY_READS = 64
"""Reads after the last sign of haste until there may be a rest again."""


class SocketConnection(Connection):
    """One connected socket; :class:`Sockets` says when it is readable."""

    def __init__(self, gone: Callable[[Connection], None], sock: socket.socket, sockets: Sockets) -> None:
        super().__init__(gone)
        self.fd = sock.fileno()
        self.last_ns = 0
        self.quick_acks = 0
        self._socket, self._sockets = sock, sockets
        self._left: memoryview | None = None
        self.receive = sock.recvmsg_into

    def flush(self) -> None:
        """Write what the socket did not take before."""
        if self._left is not None:
            self._write(self._left)

    def gap_ns(self, stamp_ns: int) -> int:
        """Time since its last read for which this was called, which is not done for every read."""
        last_ns, self.last_ns = self.last_ns, stamp_ns
        return stamp_ns - last_ns

    def acknowledge(self) -> None:
        """Have the kernel acknowledge at once what was read."""
        self.quick_acks -= 1
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)

    def _write(self, request: bytes | memoryview) -> None:
        self.quick_acks = _QUICK_ACKS
        was_waiting = self._left is not None
        try:
            sent = self._socket.send(request)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as problem:
            self.ended(problem)
            return
        self._left = memoryview(request)[sent:] if sent < len(request) else None
        if (self._left is not None) != was_waiting:
            self._sockets.watch(self, writable=self._left is not None)

    def _unsent(self) -> bool:
        return self._left is not None

    def _finish(self, failure: Exception | None, surplus: bool = False) -> None:
        self._sockets.note_end()
        super()._finish(failure, surplus)

    def _abort(self) -> None:
        self._sockets.remove(self)
        self._socket.close()


class Sockets:
    """All sockets of one event loop. ``busy`` tells how many requests are in flight.

    ``reads``, ``stamped``: how many there were, and how many of them the kernel had stamped.
    """

    def __init__(self, busy: Callable[[], int]) -> None:
        self.reads = self.stamped = 0
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._poll = select.epoll()
        self._connections: dict[int, SocketConnection] = {}
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._clock = KernelClock()
        self._hurry = self._brisk = _HURRY_READS
        self._rest: asyncio.TimerHandle | None = None
        # The descriptor of an epoll is readable while one of its own is: the event loop watches this one alone.
        self._loop.add_reader(self._poll.fileno(), self._readable)

    def add(self, sock: socket.socket, gone: Callable[[Connection], None]) -> SocketConnection:
        """Take over a connected socket."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # a kernel without it: reads come without a stamp
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        connection = SocketConnection(gone, sock, self)
        self._connections[connection.fd] = connection
        self._poll.register(connection.fd, select.EPOLLIN)
        return connection

    def watch(self, connection: SocketConnection, writable: bool) -> None:
        """Say when ``connection`` can be written to again, or no longer."""
        if connection.fd in self._connections:
            self._poll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if writable else 0))

    def remove(self, connection: SocketConnection) -> None:
        if self._connections.pop(connection.fd, None) is not None:
            self._poll.unregister(connection.fd)

    def note_end(self) -> None:
        """An answer has ended: more may, and their slots are not to wait."""
        self._hurry = _HURRY_READS

    def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        else:
            self._loop.remove_reader(self._poll.fileno())
        self._poll.close()

    def _readable(self) -> None:
        if self._take():
            self._loop.remove_reader(self._poll.fileno())
            self._lie_down()

    def _rested(self) -> None:
        rest = False
        try:
            rest = self._take()
        finally:  # whatever happened: without a timer or a reader no stream would be read any more
            if rest:
                self._lie_down()
            else:
                self._rest = None
                self._loop.add_reader(self._poll.fileno(), self._readable)

    def _lie_down(self) -> None:
        self._rest = self._loop.call_later(_REST_S if self._brisk > 0 else _LONG_REST_S, self._rested)

    def _take(self) -> bool:
        """Read what has come; may there be a rest now?"""
        ready = self._poll.poll(0, _AT_ONCE)
        if not ready:
            return False
        all_stamped = self._read(ready)
        self._hurry -= len(ready)
        self._brisk -= len(ready)
        return all_stamped and self._hurry <= 0 and len(ready) < _AT_ONCE and self._busy() > _FEW

    def _read(self, ready: Sequence[tuple[int, int]]) -> bool:
        offset_ns = self._clock.offset_ns()
        connections, buffer, unpack = self._connections, self._buffer, _TIMESPEC.unpack
        buffers = (buffer,)
        stamped = reads = 0
        for fd, events in ready:
            connection = connections.get(fd)
            if connection is None:  # closed by an answer before it in this batch
                continue
            try:
                if events & select.EPOLLOUT:
                    connection.flush()
                    if not events & ~select.EPOLLOUT:
                        continue
                try:
                    size, notes, _, _ = connection.receive(buffers, _NOTE_BYTES)
                except (BlockingIOError, InterruptedError):
                    continue
                except OSError as problem:
                    connection.ended(problem)
                    connection.close()
                    continue
                if not size:
                    connection.ended(None)
                    connection.close()
                    continue
                reads += 1
                if connection.quick_acks:
                    connection.acknowledge()
                if notes and offset_ns is not None:
                    seconds, rest_ns = unpack(notes[0][2])
                    stamp_ns = seconds * 1_000_000_000 + rest_ns - offset_ns
                    stamped += 1
                else:
                    stamp_ns = monotonic_ns()
                if reads == 1 and (gap_ns := connection.gap_ns(stamp_ns)) < _BRISK_NS:
                    self._brisk = _HURRY_READS
                    if gap_ns < _FAST_NS:
                        self._hurry = _HURRY_READS
                connection.arrived(buffer[:size], stamp_ns)
            except Exception as problem:  # nothing that one connection brings may end the reading of the others
                connection.fail(problem)
        self.reads += reads
        self.stamped += stamped
        return stamped == reads
