"""The beginning of an answer is acknowledged at once: a server that waits for that sends its first tokens in time."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from ratematch.loadgen.sockets import Sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets of our own are read on Linux")

QUICKACK = (socket.IPPROTO_TCP, 12, 1)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Spy(socket.socket):
    """A socket that remembers the options that were set."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.options: list[tuple[Any, ...]] = []

    def setsockopt(self, *arguments: Any) -> None:
        self.options.append(arguments)
        super().setsockopt(*arguments)


def test_the_first_reads_of_each_answer_are_acknowledged_and_no_more() -> None:
    async def go() -> list[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = Spy(socket.AF_INET, socket.SOCK_STREAM)
            client.connect(server.getsockname())
            client.setblocking(False)
            peer, _ = server.accept()
            sockets = Sockets(lambda: 1)
            connection = sockets.add(client, lambda _: None)
            counts = []
            for _ in range(2):
                connection._write(b"GET / HTTP/1.1\r\n\r\n")
                for part in (HEAD, b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n"):
                    before = sockets.reads
                    connection._receiver = _Kept()  # type: ignore[assignment]
                    peer.sendall(part)
                    while sockets.reads == before:
                        await asyncio.sleep(0.001)
                counts.append(client.options.count(QUICKACK))
            connection.close()
            sockets.close()
            peer.close()
            return counts

    assert asyncio.run(go()) == [2, 4]


class _Kept:
    """Takes what is read, and asks for nothing."""

    def __init__(self) -> None:
        self.wire = bytearray()
        self.ends: list[int] = []
        self.stamps: list[int] = []

    def headed(self, head: Any) -> None:
        pass

    def finished(self, failure: Exception | None) -> None:
        pass
