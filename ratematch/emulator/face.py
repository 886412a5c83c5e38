"""What the HTTP servers of both engines share: their life, their common routes, and the way of a request.

A completion goes one way in every engine: its body is parsed, made into a sequence or refused, the sequence runs on
the emulated engine, and its tokens are written as events or as one answer. What differs on that way (fields, limits,
error bodies, metrics) is what an engine's own subclass of :class:`Face` fills in.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from aiohttp import web

from ratematch.emulator.engine import Engine
from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import BadRequest, Refused, TransferError
from ratematch.emulator.faults import LateWarning, arm, describe, fails_now, load
from ratematch.emulator.protocol import AnswerHead, Json, Request, StreamEncoder, output_key
from ratematch.emulator.scheduler import Scheduler, Sequence, Step
from ratematch.emulator.serving import Life, ServerLog, bind, json_answer, new_app, run_blocking, serve
from ratematch.emulator.sinks import CollectSink, StreamSink
from ratematch.plan.model import Model
from ratematch.plan.parallelism import Parallelism

KEEP_ALIVE_S = 5.0

RequestT = TypeVar("RequestT", bound=Request)
SourceT = TypeVar("SourceT")


class FaceSettings(Protocol):
    """What of an engine's settings every server needs."""

    @property
    def model(self) -> Model: ...

    @property
    def mapping(self) -> Parallelism: ...

    @property
    def port(self) -> int: ...

    @property
    def stream_interval(self) -> int: ...


class FaceLog(ServerLog, Protocol):
    """A log in an engine's format."""

    def warning(self, text: str) -> None: ...


@dataclass(frozen=True)
class Generation(Generic[RequestT, SourceT]):
    """One request that runs. ``source``: where its KV cache is fetched from; ``None``: its prompt is computed here.

    ``arrival_s``: on the monotonic clock.
    """

    request: RequestT
    sequence: Sequence
    source: SourceT | None
    arrival_s: float


class Face(ABC, Generic[RequestT, SourceT]):
    """One emulated server; :meth:`run` serves until a stop signal.

    ``on_step``: called after each step, see :class:`~ratematch.emulator.engine.Engine`. ``listens_while_loading``:
    answers 503 until the model is there, else connections are refused. ``start_failures``: what the
    log says when loading fails, by the name of the injected failure. ``failed_stream``: last events of a stream whose
    request failed after status 200 was sent; the stream just ends without them.
    """

    listens_while_loading = False
    start_failures: Mapping[str, str] = {}
    failed_stream: bytes = b""

    def __init__(
        self,
        settings: FaceSettings,
        environment: Environment,
        scheduler: Scheduler,
        on_step: Callable[[Step, float, float], None],
        log: FaceLog,
    ):
        self.environment = environment
        self.engine = Engine(scheduler, on_step, LateWarning(log.warning))
        self._settings = settings
        self._server_log = log
        self._dice = random.Random(environment.seed)
        self._ids = itertools.count(1)

    # ------------------------------------------------------------------------------------------- life

    def run(self) -> int:
        """Bind, load, serve until a stop signal; its number.

        Raises:
            RuntimeError: an address cannot be bound.
            LoadFailure: the injected loading fault.
        """
        sock = bind(self.host, self._settings.port)
        return run_blocking(
            serve(
                self.app(),
                sock,
                self._server_log,
                Life(KEEP_ALIVE_S, self._load, self._work, self.listens_while_loading),
            )
        )

    async def _load(self) -> None:
        await load(self.environment, self.start_failures)
        await self.loaded()

    async def _work(self) -> None:
        arm(self.engine, self.environment.faults)
        tasks = [asyncio.ensure_future(work) for work in self.background()]
        try:
            await self.engine.run()
        finally:
            for task in tasks:
                task.cancel()
            await self.close()

    @property
    @abstractmethod
    def host(self) -> str:
        """The address to listen on."""

    async def loaded(self) -> None:
        """The model is there; what is still to do before the server listens."""

    def background(self) -> Ordered[Coroutine[Any, Any, None]]:
        """What runs beside the engine, until it ends."""
        return ()

    async def close(self) -> None:
        """Let go of what reaches other servers."""

    # ------------------------------------------------------------------------------------------- routes

    def app(self) -> web.Application:
        """Every route of the server."""
        app = new_app()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", self._version),
                web.get("/v1/models", self._models),
                web.get("/server_info", self._server_info),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                *self.own_routes(),
            ]
        )
        return app

    @abstractmethod
    def own_routes(self) -> list[web.RouteDef]:
        """Routes beside those that every engine has."""

    @abstractmethod
    def version(self) -> str:
        """What ``/version`` answers."""

    @abstractmethod
    def model_cards(self) -> list[Json]:
        """What ``/v1/models`` lists, as JSON; ``created`` is added."""

    @abstractmethod
    def num_held(self) -> int:
        """KV caches that are kept for other servers."""

    def own_info(self) -> Json:
        """What ``/server_info`` has beside the emulation, as JSON."""
        return {}

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, request: web.Request) -> web.Response:
        return json_answer({"version": self.version()})

    async def _models(self, request: web.Request) -> web.Response:
        return json_answer({"object": "list", "data": self.model_cards()})

    async def _server_info(self, request: web.Request) -> web.Response:
        model, mapping = self._settings.model.name, self._settings.mapping
        emulated = describe(self.engine, self.environment, model, mapping, self.num_held())
        return json_answer({**self.own_info(), "emulated": emulated})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    # ------------------------------------------------------------------------------------------- generation

    @abstractmethod
    def parse(self, body: Any, *, chat: bool) -> RequestT:
        """The request in a decoded JSON ``body``.

        Raises:
            BadRequest: it does not pass the engine's validation.
        """

    @abstractmethod
    def sequence(self, request: RequestT) -> tuple[Sequence, SourceT | None]:
        """The sequence to run, and where its KV cache is to be fetched from, if it is.

        Raises:
            Refused: it can never run here. TransferError: its KV cache cannot be fetched.
        """

    @abstractmethod
    def request_id(self, http: web.Request, prefix: str) -> str:
        """The ``id`` of an answer, which begins with ``prefix``."""

    @abstractmethod
    def answered_model(self, request: RequestT) -> str:
        """The ``model`` of an answer."""

    @abstractmethod
    def begin_transfer(self, source: SourceT, sequence: Sequence) -> Callable[[], None]:
        """Make ready to fetch a KV cache; returned: what to call once the scheduler has room for the sequence."""

    @abstractmethod
    def encoder(self, request: RequestT, head: AnswerHead) -> StreamEncoder:
        """What writes the events of a stream."""

    @abstractmethod
    def answer(
        self, http: web.Request, generation: Generation[RequestT, SourceT], head: AnswerHead, sink: CollectSink
    ) -> bytes:
        """The body of an answer that is no stream."""

    @abstractmethod
    def bad_request(self, message: str) -> web.Response:
        """The answer to a body that does not pass validation."""

    @abstractmethod
    def refused(self, error: Refused) -> web.Response:
        """The answer to a request that cannot run."""

    @abstractmethod
    def failed(self, message: str) -> web.Response:
        """The answer to a request that ran and failed."""

    @abstractmethod
    def injected_failure(self, message: str) -> web.Response:
        """The answer to a request that an injected fault hits."""

    def streams(self, request: RequestT) -> bool:
        """Is the answer a stream?"""
        return request.stream

    def iterations_before(self, request: RequestT) -> int:
        """Iterations that count for a request before it came here."""
        return 0

    def begun(self, sequence: Sequence, sink: StreamSink | CollectSink) -> None:
        """A sequence is about to be queued."""

    def ended(self, sequence: Sequence, source: SourceT | None, reason: str | None) -> None:
        """A sequence has ended: ``length``, ``error``, or ``None`` when its client went away."""

    def finished(self, generation: Generation[RequestT, SourceT], iterations: int) -> None:
        """A request was answered in whole, after ``iterations`` iterations."""

    def answer_headers(self, http: web.Request, generation: Generation[RequestT, SourceT]) -> Mapping[str, str]:
        """Headers of the answer to a request that has finished and is no stream."""
        return {}

    def trailing_events(self, http: web.Request, generation: Generation[RequestT, SourceT]) -> bytes:
        """What follows the end of the answer in the stream of a request that has finished."""
        return b""

    def failed_events(self, message: str) -> bytes:
        """Last events of the stream of a request that failed."""
        return self.failed_stream

    async def _generate(self, http: web.Request, *, chat: bool) -> web.StreamResponse:
        arrival_s = time.monotonic()
        if fails_now(self.environment.faults.http_500, self._dice):
            return self.injected_failure("Internal server error (injected fault)")
        try:
            request = self.parse(msgspec.json.decode(await http.read()), chat=chat)
            generation = Generation(request, *self.sequence(request), arrival_s)
        except (BadRequest, msgspec.DecodeError) as error:
            return self.bad_request(str(error))
        except TransferError as error:
            return self.refused(Refused(str(error)))
        except Refused as error:
            return self.refused(error)
        request_id = self.request_id(http, "chatcmpl-" if chat else "cmpl-")
        vocab = self._settings.model.vocab
        head = AnswerHead(request_id, self.answered_model(request), output_key(request.prompt_ids), vocab)
        if self.streams(request):
            return await self._stream(http, generation, head)
        sink = CollectSink(self.iterations_before(request))
        await self.run_sequence(generation.sequence, sink, generation.source)
        if sink.error:
            return self.failed(sink.error)
        self.finished(generation, sink.iterations)
        body, headers = self.answer(http, generation, head, sink), self.answer_headers(http, generation)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def run_sequence(
        self, sequence: Sequence, sink: StreamSink | CollectSink, source: SourceT | None = None
    ) -> None:
        """Run a sequence to its end; it is cancelled when the client goes away.

        A KV transfer begins when the scheduler has room for the sequence.
        """
        begin = None if source is None else self.begin_transfer(source, sequence)
        self.begun(sequence, sink)
        self.engine.submit(sequence, sink, begin)
        reason = None
        try:
            await sink.done
            reason = "error" if sink.error else "length"
        finally:
            self.engine.cancel(sequence.id)
            self.ended(sequence, source, reason)

    async def _stream(
        self, http: web.Request, generation: Generation[RequestT, SourceT], head: AnswerHead
    ) -> web.StreamResponse:
        request, sequence = generation.request, generation.sequence
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        cut = fails_now(self.environment.faults.truncate_stream, self._dice)
        sink = StreamSink(
            http,
            self.encoder(request, head),
            interval=self._settings.stream_interval,
            include_usage=request.include_usage,
            iterations=self.iterations_before(request),
            truncate_after=max(1, sequence.max_tokens // 2) if cut else None,
        )
        await self.run_sequence(sequence, sink, generation.source)
        if sink.error:
            last = self.failed_events(sink.error)
        else:
            self.finished(generation, sink.iterations)
            last = b"" if cut else self.trailing_events(http, generation)
        if last:
            await response.write(last)
        await response.write_eof()
        return response
