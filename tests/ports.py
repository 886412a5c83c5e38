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


def free_port() -> int:
    return free_ports(1)[0]
