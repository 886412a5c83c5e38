"""The HTTP server of an emulated ``vllm serve``: its routes over the emulated engine."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid

import msgspec
from aiohttp import web

from ratematch.emulator.engine import Engine
from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import BadRequest, Refused
from ratematch.emulator.faults import LateWarning, arm, describe, load
from ratematch.emulator.protocol import DONE, block_hashes, output_key
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.serving import bind, fails_now, json_answer, new_app, run_blocking, serve
from ratematch.emulator.sinks import CollectSink, StreamSink
from ratematch.emulator.vllm.assembly import Emulation
from ratematch.emulator.vllm.connector import Connector
from ratematch.emulator.vllm.logs import START_FAILURES, Log
from ratematch.emulator.vllm.metrics import LOG_PERIOD_S, Metrics
from ratematch.emulator.vllm.nixl import Remote
from ratematch.emulator.vllm.protocol import FAILED_STREAM, Asked, StreamEncoder, answer, error_body, parse_request
from ratematch.emulator.vllm.settings import ServeSettings

KEEP_ALIVE_S = 5.0


class Server:
    """One emulated server; ``run`` serves until a stop signal.

    ``side``: host and port of its side channel, where it hands KV caches over.
    """

    def __init__(
        self,
        settings: ServeSettings,
        environment: Environment,
        emulation: Emulation,
        side: tuple[str, int],
        log: Log,
    ):
        self.settings, self.environment, self.log = settings, environment, log
        self.emulation = emulation
        self.metrics = Metrics(settings, emulation.scheduler, log)
        self.engine = Engine(emulation.scheduler, self.metrics.step, LateWarning(log.warning))
        self.connector = Connector(settings, emulation.layout, self.engine, self.metrics, side, log)
        self._fingerprint = f"vllm-{settings.version}-{self.connector.engine_id[:8]}"
        self._dice = random.Random(environment.seed)
        self._ids = itertools.count(1)

    # ------------------------------------------------------------------------------------------- life

    def run(self) -> int:
        """Bind, load, serve until a stop signal; its number.

        Raises:
            RuntimeError: an address cannot be bound.
            LoadFailure: the injected loading fault.
        """
        sock = bind(self.settings.host or "0.0.0.0", self.settings.port)
        return run_blocking(
            serve(self.app(), sock, self.log, keep_alive_s=KEEP_ALIVE_S, prepare=self._load, during=self._work)
        )

    async def _load(self) -> None:
        await load(self.environment, START_FAILURES)
        await self.connector.start()
        config = self.emulation.scheduler.config
        self.log.core(
            f"GPU KV cache size: {config.kv_tokens:,} tokens, Maximum concurrency for {config.max_seq_len:,} tokens "
            f"per request: {config.kv_tokens / config.max_seq_len:.2f}x"
        )

    async def _work(self) -> None:
        arm(self.engine, self.environment.faults)
        telling = asyncio.ensure_future(self._tell())
        try:
            await self.engine.run()
        finally:
            telling.cancel()
            await self.connector.close()

    async def _tell(self) -> None:
        while self.settings.log_stats:
            await asyncio.sleep(LOG_PERIOD_S)
            self.metrics.log_lines()

    # ------------------------------------------------------------------------------------------- routes

    def app(self) -> web.Application:
        app = new_app()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/ping", self.health),
                web.get("/version", self.version),
                web.get("/v1/models", self.models),
                web.get("/metrics", self.prometheus),
                web.get("/server_info", self.server_info),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
            ]
        )
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def version(self, request: web.Request) -> web.Response:
        return json_answer({"version": f"{self.settings.version}.0+emulated"})

    async def models(self, request: web.Request) -> web.Response:
        settings = self.settings
        card = {"object": "model", "created": int(time.time()), "owned_by": "vllm", "root": settings.path}
        cards = [
            {"id": name, **card, "parent": None, "max_model_len": settings.max_model_len} for name in settings.names
        ]
        return json_answer({"object": "list", "data": cards})

    async def prometheus(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics.text())

    async def server_info(self, request: web.Request) -> web.Response:
        settings, held = self.settings, len(self.connector.holds)
        emulated = describe(self.engine, self.environment, settings.model.name, settings.mapping, held)
        return json_answer({"emulated": emulated})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    # ------------------------------------------------------------------------------------------- generation

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        if fails_now(self.environment.faults.http_500, self._dice):
            return _failure("Internal server error (injected fault)", 500, "InternalServerError")
        try:
            body = msgspec.json.decode(await request.read())
            asked = parse_request(body, chat=chat, vocab=self.settings.model.vocab)
            sequence, remote = self._sequence(asked)
        except (BadRequest, msgspec.DecodeError) as error:
            return _failure(str(error), 400, "BadRequestError")
        except Refused as error:
            return _failure(str(error), error.status, error.kind, error.param)
        request_id = ("chatcmpl-" if chat else "cmpl-") + (
            request.headers.get("X-Request-Id") or uuid.uuid4().hex[:16]
        )
        if asked.stream:
            return await self._stream(request, request_id, asked, sequence, remote)
        sink = CollectSink()
        await self._run(sequence, sink, remote)
        if sink.error:
            return _failure("Internal server error", 500, "InternalServerError")
        body_out = answer(
            asked,
            request_id,
            self._name(asked),
            output_key(asked.prompt_ids),
            self.settings.model.vocab,
            sink.tokens,
            self._fingerprint,
            self.connector.hold(request_id, sequence),
        )
        return web.Response(body=body_out, content_type="application/json")

    def _name(self, asked: Asked) -> str:
        return asked.model or self.settings.names[0]

    def _sequence(self, asked: Asked) -> tuple[Sequence, Remote | None]:
        """The sequence to run, and where its prompt's KV blocks are to be fetched.

        Raises:
            Refused: it can never run here.
        """
        settings, prompt = self.settings, len(asked.prompt_ids)
        if asked.model is not None and asked.model not in settings.names:
            raise Refused(f"The model `{asked.model}` does not exist.", 404, "NotFoundError", "model")
        longest = settings.max_model_len
        if asked.max_tokens is not None and asked.max_tokens > longest:
            raise Refused(
                f"max_tokens={asked.max_tokens} cannot be greater than max_model_len={longest}. Please request fewer "
                f"output tokens. (parameter=max_tokens, value={asked.max_tokens})",
                param="max_tokens",
            )
        wanted = asked.max_tokens if asked.max_tokens is not None else max(1, longest - prompt)
        if prompt + wanted > longest:
            raise Refused(
                f"This model's maximum context length is {longest} tokens. However, you requested {wanted} output "
                f"tokens and your prompt contains {prompt} input tokens, for a total of {prompt + wanted} tokens. "
                "Please reduce the length of the input prompt or the number of requested output tokens."
            )
        keeps, remote = self.connector.read(asked.transfer)
        if keeps and wanted != 1:
            raise Refused("the emulator hands a KV cache over after one token: max_tokens must be 1")
        sequence = Sequence(
            id=next(self._ids), prompt_len=prompt, max_tokens=wanted, kind="context_only" if keeps else "full"
        )
        if settings.prefix_caching:
            # The last token is always computed, and so is all of its block: only the blocks before it can be found.
            sequence.prompt_hash = block_hashes(asked.prompt_ids[:-1], settings.block_size)
        if why := self.emulation.scheduler.refusal(sequence):
            raise Refused(why)
        return sequence, remote

    async def _run(self, sequence: Sequence, sink: StreamSink | CollectSink, remote: Remote | None) -> None:
        """Run a sequence to its end; it is cancelled when the client goes away.

        A KV transfer begins when the scheduler has room for the sequence.
        """
        begin = None if remote is None else self.connector.expect(remote, sequence)
        self.metrics.started(sequence, sink)
        self.engine.submit(sequence, sink, begin)
        reason = None
        try:
            await sink.done
            reason = "error" if sink.error else "length"
        finally:
            self.engine.cancel(sequence.id)
            self.metrics.finished(sequence, reason)
            if remote is not None:
                self.connector.give_back(remote)

    async def _stream(
        self, request: web.Request, request_id: str, asked: Asked, sequence: Sequence, remote: Remote | None
    ) -> web.StreamResponse:
        key, vocab = output_key(asked.prompt_ids), self.settings.model.vocab
        encoder = StreamEncoder(asked, request_id, self._name(asked), key, vocab, self._fingerprint)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        cut = fails_now(self.environment.faults.truncate_stream, self._dice)
        sink = StreamSink(
            request,
            encoder,
            interval=self.settings.stream_interval,
            include_usage=asked.include_usage,
            truncate_after=max(1, sequence.max_tokens // 2) if cut else None,
        )
        await self._run(sequence, sink, remote)
        if sink.error:
            await response.write(FAILED_STREAM + DONE)
        await response.write_eof()
        return response


def _failure(message: str, status: int, kind: str, param: str | None = None) -> web.Response:
    return json_answer(error_body(message, kind, status, param), status)
