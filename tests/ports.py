"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

LOW, HIGH = 20_000, 32_000
"""Below the range from which the kernel takes ports for outgoing connections: a probe's own would come in the way."""


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody listens on now."""
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as held:
        while len(sockets) < count:
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", random.randrange(LOW, HIGH)))
                sockets.append(sock)
        return [sock.getsockname()[1] for sock in sockets]


TENS = range(HIGH, 32_760, 10)
"""Beyond those that tests and sweeps draw from, and still below the kernel's own."""


def ten_free_ports() -> int:
    """The first, a multiple of ten, of ten ports in a row on which nobody listens now: a base to count from."""
    for first in random.sample(TENS, len(TENS)):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + 10):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise OSError(f"no ten ports in a row are free from {TENS.start} on")


def free_port() -> int:
    return free_ports(1)[0]
