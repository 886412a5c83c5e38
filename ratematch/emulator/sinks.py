"""Where tokens of a sequence go: straight onto a client's connection, or into one answer."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ratematch.emulator.protocol import DONE, StreamEncoder


class StreamSink:
    """Writes events of one stream directly to its transport, so that a step over many streams wakes no tasks.

    An event is due with the first token, at every ``interval``-th iteration and with the last token. ``iterations``:
    those run elsewhere before (1 for a request whose prompt a context server computed). ``truncate_after`` ends the
    stream without ``[DONE]`` once so many tokens were sent (fault injection).
    """

    def __init__(
        self,
        request: web.Request,
        encoder: StreamEncoder,
        *,
        interval: int,
        include_usage: bool,
        iterations: int = 0,
        truncate_after: int | None = None,
    ):
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.iterations = iterations
        self.error: str | None = None
        self._transport = request.transport
        self._chunked = request.version >= (1, 1)
        self._encoder = encoder
        self._interval = interval
        self._usage = include_usage
        self._truncate_after = truncate_after
        self._pending = 0

    @property
    def tokens(self) -> int:
        return self._encoder.sent + self._pending

    def push(self, tokens: int, finished: bool, at_s: float) -> None:
        if self.done.done():
            return
        self.iterations += 1
        self._pending += tokens
        first = self._encoder.sent == 0
        if not (finished or first or self.iterations % self._interval == 0):
            return
        encoder = self._encoder
        parts = [encoder.role()] if first and encoder.chat else []
        if self._pending or finished:
            parts.append(encoder.chunk(self._pending, self.iterations, b'"length"' if finished else b"null"))
            self._pending = 0
        cut = self._truncate_after is not None and encoder.sent >= self._truncate_after
        if finished and not cut:
            if self._usage:
                parts.append(encoder.final_usage())
            parts.append(DONE)
        self._write(parts)
        if finished or cut:
            self.done.set_result(None)

    def fail(self, message: str) -> None:
        self.error = message
        if not self.done.done():
            self.done.set_result(None)

    def _write(self, events: list[bytes]) -> None:
        transport = self._transport
        if not events or transport is None or transport.is_closing():
            return
        if self._chunked:
            transport.write(b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events]))
        else:
            transport.write(b"".join(events))


class CollectSink:
    """Waits for a whole answer."""

    def __init__(self, iterations: int = 0) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.iterations = iterations
        self.tokens = 0
        self.error: str | None = None

    def push(self, tokens: int, finished: bool, at_s: float) -> None:
        self.iterations += 1
        self.tokens += tokens
        if finished and not self.done.done():
            self.done.set_result(None)

    def fail(self, message: str) -> None:
        self.error = message
        if not self.done.done():
            self.done.set_result(None)
