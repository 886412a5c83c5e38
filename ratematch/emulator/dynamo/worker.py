"""A worker that runs: requests of Dynamo's runtime go through the emulated engine, and their tokens go back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from ratematch.emulator.dynamo.backend import Backend
from ratematch.emulator.dynamo.requests import HANDED_OVER, ChunkSink, last_chunk, read_request
from ratematch.emulator.engine import Engine
from ratematch.emulator.environment import Environment
from ratematch.emulator.faults import LateWarning, arm, describe, fails_now
from ratematch.emulator.protocol import Json, output_key
from ratematch.emulator.scheduler import Sequence

VOCABULARY = 254
"""Different tokens that answers are made of: those that the tokenizer of the emulated model knows, none of which ends
an answer."""

MOST_LOOKS = 5
"""Tries to read what changes meanwhile."""

_NONE: tuple[Json, ...] = ()

SourceT = TypeVar("SourceT")


class Context(Protocol):
    """What the runtime says of a request."""

    def id(self) -> str: ...

    def async_killed_or_stopped(self) -> Any: ...


class Worker(Generic[SourceT]):
    """Answers the requests of one worker. ``version``: Dynamo's; ``warn``: writes a line of its log."""

    def __init__(
        self, backend: Backend[SourceT], environment: Environment, version: str, warn: Callable[[str], None]
    ):
        self._version = version
        self.backend, self.environment = backend, environment
        self.engine = backend.engine = Engine(backend.scheduler, backend.on_step, LateWarning(warn))
        self._dice = random.Random(environment.seed)
        self._ids = itertools.count(1)

    async def work(self) -> None:
        """Run the engine until cancelled."""
        arm(self.engine, self.environment.faults)
        await self.engine.run()

    def describe(self) -> Json:
        """What is shown of the emulation."""
        backend = self.backend
        emulated = describe(self.engine, self.environment, backend.model.name, backend.mapping, backend.num_held())
        return {"emulated": {**emulated, "role": backend.role}}

    def metrics(self) -> str:
        """Everything the worker counts, in Prometheus' text format; the first of it says that it is emulated.

        The runtime asks from a thread of its own: what is counted may change meanwhile.
        """
        lag = self.engine.lag
        lines = ["# TYPE ratematch_emulated gauge", f'ratematch_emulated{{version="{self._version}"}} 1']
        for name in ("busy_s", "late_s", "lost_s"):
            lines.append(f"ratematch_emulated_{name} {getattr(lag, name):.9g}")
        for _ in range(MOST_LOOKS):
            with contextlib.suppress(RuntimeError):  # a collection changed while it was gone through
                return "\n".join(lines) + "\n" + self.backend.metrics()
        return "\n".join(lines) + "\n"

    def generate(self, request: Any, context: Any = None, response_sender: Any = None) -> AsyncIterator[Json]:
        """The chunks of an answer.

        The runtime looks at the names of the parameters: a handler with a ``response_sender`` is given one for
        requests that come over the network and sends its chunks there, and the iterator only has to be gone through
        once. Others, such as the runtime's own health checks, take the chunks from the iterator.
        """
        if response_sender is None:
            return self._yielded(request, context)
        return self._sent(request, context, response_sender)

    async def _sent(self, given: Mapping[str, Any], context: Context, sender: Any) -> AsyncIterator[Json]:
        await self._run(given, context, sender.send)
        sender.close()
        for chunk in _NONE:
            yield chunk

    async def _yielded(self, given: Mapping[str, Any], context: Context) -> AsyncIterator[Json]:
        chunks: asyncio.Queue[Json | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._run(given, context, chunks.put_nowait))
        task.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            while (chunk := await chunks.get()) is not None:
                yield chunk
            await task
        finally:
            task.cancel()

    async def _run(self, given: Mapping[str, Any], context: Context, send: Callable[[Json], None]) -> None:
        """Answer one request with ``send``.

        Raises:
            RuntimeError: it fails; the runtime makes an error of it for the client.
        """
        faults = self.environment.faults
        if fails_now(faults.http_500, self._dice):
            raise RuntimeError("Internal server error (injected fault)")
        request = read_request(given)
        backend = self.backend
        sequence, source = backend.sequence(next(self._ids), request)

        def last(tokens: int) -> Json:
            fields = last_chunk(len(request.prompt_ids), tokens, sequence.reused)
            if backend.role == "prefill":
                fields[HANDED_OVER] = backend.hand_over(context.id(), sequence)
            return fields

        cut = fails_now(faults.truncate_stream, self._dice)
        sink = ChunkSink(
            send,
            (output_key(request.prompt_ids), min(VOCABULARY, backend.model.vocab)),
            last,
            interval=backend.stream_interval,
            done=asyncio.get_running_loop().create_future(),
            truncate_after=max(1, sequence.max_tokens // 2) if cut else None,
        )
        await self._run_sequence(sequence, sink, source, context)
        if sink.error:
            raise RuntimeError(sink.error)

    async def _run_sequence(
        self, sequence: Sequence, sink: ChunkSink, source: SourceT | None, context: Context
    ) -> None:
        """Run a sequence to its end; it is cancelled when its client goes away."""
        backend, reason = self.backend, None
        begin = None if source is None else backend.begin_transfer(source, sequence)
        backend.begun(sequence, sink)
        self.engine.submit(sequence, sink, begin)
        gone = asyncio.ensure_future(context.async_killed_or_stopped())
        try:
            await asyncio.wait((sink.done, gone), return_when=asyncio.FIRST_COMPLETED)
            if sink.done.done():
                reason = "error" if sink.error else "length"
        finally:
            gone.cancel()
            self.engine.cancel(sequence.id)
            backend.ended(sequence, source, reason)
