"""A small OpenAI-compatible server on loopback, written on bare asyncio streams so that it can misbehave at will."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """What the server observed."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0
    connections: int = 0
    first_byte_ns: dict[int, int] = field(default_factory=dict)


class Reply:
    """How one request is answered; a behaviour gets one of these."""

    def __init__(self, body: dict[str, Any], number: int, writer: asyncio.StreamWriter) -> None:
        self.body, self.number, self._writer = body, number, writer

    async def head(self, status: int = 200, kind: str = "text/event-stream", extra: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n{extra}\r\n"
        self._writer.write(head.encode())

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        if data:
            await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def json(self, status: int, content: Any) -> None:
        await self.head(status, "application/json")
        await self.chunk(json.dumps(content).encode())
        await self.end()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        import socket
        import struct

        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


Behaviour = Callable[[Reply], Awaitable[None]]


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def token(text: str = " t", finish: str | None = None, **more: Any) -> bytes:
    return event(
        {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}
    )


def usage(prompt: int, completion: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


DONE = b"data: [DONE]\n\n"


def full_stream(body: dict[str, Any]) -> bytes:
    """The whole stream of a well-behaved server for ``body``."""
    osl = body["max_tokens"]
    parts = [token(finish="length" if k == osl - 1 else None) for k in range(osl)]
    return b"".join(parts) + usage(len(body.get("prompt", ())), osl) + DONE


async def answer_normally(reply: Reply, gap_s: float = 0.0) -> None:
    await reply.head()
    osl = reply.body["max_tokens"]
    for k in range(osl):
        if gap_s:
            await asyncio.sleep(gap_s)
        await reply.chunk(token(finish="length" if k == osl - 1 else None))
    await reply.chunk(usage(len(reply.body.get("prompt", ())), osl))
    await reply.chunk(DONE)
    await reply.end()


@contextmanager
def serve(behaviour: Behaviour = answer_normally, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, Seen]]:
    """A server in a thread of its own: ``(base_url, seen)``; https with ``tls``."""
    seen = Seen()
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    port = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
                if head[0].startswith("GET"):  # a look at what this server is: it does not say
                    writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                    continue
                number = len(seen.bodies)
                seen.first_byte_ns[number] = time.monotonic_ns()
                seen.bodies.append(body)
                seen.headers.append(headers)
                seen.paths.append(head[0].split()[1])
                seen.in_flight += 1
                seen.max_in_flight = max(seen.max_in_flight, seen.in_flight)
                try:
                    await behaviour(Reply(body, number, writer))
                finally:
                    seen.in_flight -= 1
                if writer.transport.is_closing():
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.close()

    async def main(stop: asyncio.Event) -> None:
        nonlocal port
        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=2048, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        # It accepts no more, and is closed last: a connection that finds it closed in its first turn is just dropped.
        loop.remove_reader(server.sockets[0].fileno())
        # A connection that has just been accepted gets its task, and a closed one gives its socket up, in turns of
        # the loop to come: a loop closed before them leaves a socket to whatever test runs when it is collected. So
        # does a task that is cancelled before its first turn, for nothing of it runs then.
        begun: set[asyncio.Task[Any]] = set()
        quiet = 0
        while quiet < 4:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            quiet = 0 if others else quiet + 1
            for other in others & begun:
                other.cancel()
            begun = others
            await asyncio.sleep(0)
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main(stop)), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}", seen
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
