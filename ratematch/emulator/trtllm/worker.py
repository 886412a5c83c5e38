"""The worker's HTTP server: the routes of ``trtllm-serve MODEL`` over the emulated engine."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid

import msgspec
from aiohttp import web

from ratematch.emulator.engine import Engine
from ratematch.emulator.environment import START_FAILURES, Environment
from ratematch.emulator.errors import BadRequest, Refused, TransferError
from ratematch.emulator.faults import LateWarning, arm, describe, load
from ratematch.emulator.kvholds import CtxHolds
from ratematch.emulator.protocol import (
    GenerationRequest,
    StreamEncoder,
    answer,
    block_hashes,
    output_ids,
    output_key,
    parse_request,
)
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.serving import bind, fails_now, json_answer, new_app, run_blocking, serve, version_text
from ratematch.emulator.sinks import CollectSink, StreamSink
from ratematch.emulator.trtllm import kvfetch
from ratematch.emulator.trtllm.assembly import Emulation
from ratematch.emulator.trtllm.kvfetch import FETCH_ROUTE, GenFetch
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.metrics import IterationRecorder, PerfRecorder
from ratematch.emulator.trtllm.settings import WorkerSettings
from ratematch.emulator.trtllm.transfer import KvSource, check_layout
from ratematch.engines.trtllm_serve.agreement import hand_over

KEEP_ALIVE_S = 5.0
METRICS_WAIT_S = 2.0


class Worker:
    """One emulated worker; ``run`` serves until a stop signal."""

    def __init__(
        self,
        settings: WorkerSettings,
        environment: Environment,
        emulation: Emulation,
        log: Log,
    ):
        self.settings = settings
        self.environment = environment
        self.log = log
        self.emulation = emulation
        self._layout = hand_over(settings.config, settings.version)
        self.perf = PerfRecorder(settings.perf_metrics_kept, settings.tokens_per_block, settings.mtp)
        self.iterations = IterationRecorder(settings, emulation.scheduler, log)
        self.engine = Engine(emulation.scheduler, self.iterations.record, LateWarning(log.warning))
        self.holds = CtxHolds(self.engine.release, settings.transfer_timeout_s, self._tell_expired)
        self.fetch = GenFetch()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dice = random.Random(environment.seed)
        self._ids = itertools.count(1)

    # ------------------------------------------------------------------------------------------- life

    def run(self) -> int:
        """Bind, load, serve until a stop signal; its number.

        Raises:
            RuntimeError: the address cannot be bound.
            LoadFailure: the injected loading fault.
        """
        sock = bind(self.settings.host, self.settings.port)
        return run_blocking(
            serve(self.app(), sock, self.log, keep_alive_s=KEEP_ALIVE_S, prepare=self._load, during=self._work)
        )

    async def _load(self) -> None:
        await load(self.environment, START_FAILURES)

    async def _work(self) -> None:
        arm(self.engine, self.environment.faults)
        try:
            await self.engine.run()
        finally:
            await self.fetch.close()

    def _tell_expired(self, request_id: int | str) -> None:
        timeout_s = self.settings.transfer_timeout_s
        self.log.warning(f"Terminating request {request_id}: KV cache transfer timed out after {timeout_s:g} s")

    # ------------------------------------------------------------------------------------------- routes

    def app(self) -> web.Application:
        app = new_app()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/health_generate", self.health_generate),
                web.get("/version", self.version),
                web.get("/v1/models", self.models),
                web.get("/metrics", self.metrics),
                web.get("/perf_metrics", self.perf_metrics),
                web.get("/server_info", self.server_info),
                web.get("/steady_clock_offset", self.clock),
                web.post("/steady_clock_offset", self.set_clock),
                web.post("/kv_cache_events", self.kv_events),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
                web.post(FETCH_ROUTE, self.fetch_begun),
            ]
        )
        if self.settings.perf_metrics:
            app.add_routes([web.get("/prometheus/metrics", self.prometheus)])
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def health_generate(self, request: web.Request) -> web.Response:
        sink = CollectSink()
        await self._run(Sequence(id=next(self._ids), prompt_len=1, max_tokens=1), sink, None)
        if sink.error:
            return web.Response(status=500, text=f"Generation health check FAILED: {sink.error}")
        return web.Response(text="Generation health check OK")

    async def version(self, request: web.Request) -> web.Response:
        return json_answer({"version": version_text(self.settings.version)})

    async def models(self, request: web.Request) -> web.Response:
        card = {
            "id": self.settings.model_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "tensorrt_llm",
        }
        return json_answer({"object": "list", "data": [card]})

    async def metrics(self, request: web.Request) -> web.Response:
        return json_answer(await self.iterations.drain(METRICS_WAIT_S))

    async def perf_metrics(self, request: web.Request) -> web.Response:
        return json_answer(self.perf.drain())

    async def server_info(self, request: web.Request) -> web.Response:
        settings = self.settings
        emulated = describe(self.engine, self.environment, settings.model.name, settings.mapping, len(self.holds))
        return json_answer({"disaggregated_params": None, "kv_cache_hash_algo": "emulated", "emulated": emulated})

    async def clock(self, request: web.Request) -> web.Response:
        now = time.monotonic()
        return json_answer({"receive_ts": now, "transmit_ts": time.monotonic()})

    async def set_clock(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        self.perf.offset_s = float(body["offset"])
        return web.Response()

    async def kv_events(self, request: web.Request) -> web.Response:
        return json_answer([])

    async def prometheus(self, request: web.Request) -> web.Response:
        return web.Response(text=self.perf.prometheus())

    async def fetch_begun(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        held = self.holds.fetched(int(body["request_id"]), float(body["duration_s"]))
        return web.Response(status=200 if held else 404)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    # ------------------------------------------------------------------------------------------- generation

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        arrival_s = time.monotonic()
        if fails_now(self.environment.faults.http_500, self._dice):
            return json_answer({"detail": "Internal server error (injected fault)"}, 500)
        try:
            body = msgspec.json.decode(await request.read())
            asked = parse_request(body, chat=chat, vocab=self.settings.model.vocab)
            sequence = self._sequence(asked)
            source = self._kv_source(asked)
        except (BadRequest, msgspec.DecodeError) as error:
            return json_answer({"error": str(error)}, 400)
        except (Refused, TransferError) as error:
            return _refusal(str(error))
        request_id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        if asked.stream and asked.kind != "context_only":
            encoder = StreamEncoder(
                asked, request_id, self.settings.model_name, output_key(asked.prompt_ids), self.settings.model.vocab
            )
            return await self._stream(request, encoder, asked, sequence, source, arrival_s)
        sink = await self._collect(asked, sequence, source)
        if sink.error:
            return _refusal(sink.error)
        self._keep_perf(asked, sequence, sink.iterations, source, arrival_s)
        return self._answer(request, request_id, asked, sequence, sink)

    def _kv_source(self, asked: GenerationRequest) -> KvSource | None:
        """Where the KV cache of a generation-only request lies; ``None`` when there is nothing to fetch."""
        if asked.kind != "generation_only" or self.environment.gen_only:
            return None
        if asked.disagg.get("ctx_request_id") is None:
            raise Refused("Invalid disaggregated params: ctx_request_id is None")
        source = kvfetch.decode_source(str(asked.disagg.get("encoded_opaque_state") or ""))
        try:
            check_layout(source, self._layout)
        except TransferError as error:
            self.log.error(str(error))
            raise
        return source

    def _sequence(self, asked: GenerationRequest) -> Sequence:
        """The sequence to run.

        Raises:
            Refused: it can never run here.
        """
        settings, prompt = self.settings, len(asked.prompt_ids)
        if asked.kind != "full" and settings.transceiver is None:
            raise Refused("Disaggregated serving is not enabled, please check the configuration?")
        left = settings.max_seq_len - prompt
        if left < 1:
            raise Refused(f"The prompt length ({prompt}) must be less than max_seq_len ({settings.max_seq_len})")
        if asked.max_tokens is not None and asked.max_tokens > left:
            self.log.warning(
                f"User-specified max_tokens ({asked.max_tokens}) is greater than {left}, using {left} instead"
            )
        # The engine gives what fits into max_seq_len, however many tokens the request asks for.
        wanted = min(left, asked.max_tokens or left)
        sequence = Sequence(
            id=next(self._ids),
            prompt_len=prompt,
            max_tokens=1 if asked.kind == "context_only" else wanted,
            kind=asked.kind,
        )
        if settings.block_reuse and asked.kind != "generation_only":
            sequence.prompt_hash = block_hashes(asked.prompt_ids, settings.tokens_per_block)
        if why := self.emulation.scheduler.refusal(sequence):
            raise Refused(why)
        return sequence

    async def _run(self, sequence: Sequence, sink: StreamSink | CollectSink, source: KvSource | None) -> None:
        """Run a sequence to its end; it is cancelled when the client goes away.

        A KV transfer begins when the scheduler has room for the sequence.
        """
        begin = None
        if source is not None:
            sequence.transfer_s = self.emulation.transfer_s(source.tokens)

            def begin() -> None:
                task = asyncio.ensure_future(self._fetch(source, sequence))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        self.engine.submit(sequence, sink, begin)
        try:
            await sink.done
        finally:
            self.engine.cancel(sequence.id)

    async def _fetch(self, source: KvSource, sequence: Sequence) -> None:
        try:
            await self.fetch.begin(source, sequence.transfer_s)
        except TransferError as error:
            self.log.error(str(error))
            self.engine.fail(sequence.id, str(error))

    async def _stream(
        self,
        request: web.Request,
        encoder: StreamEncoder,
        asked: GenerationRequest,
        sequence: Sequence,
        source: KvSource | None,
        arrival_s: float,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        cut = fails_now(self.environment.faults.truncate_stream, self._dice)
        sink = StreamSink(
            request,
            encoder,
            interval=self.settings.stream_interval,
            include_usage=asked.include_usage,
            iterations=_iterations_before(asked),
            truncate_after=max(1, sequence.max_tokens // 2) if cut else None,
        )
        await self._run(sequence, sink, source)
        if not sink.error:
            self._keep_perf(asked, sequence, sink.iterations, source, arrival_s)
        # After an error the stream just ends, without [DONE]: status 200 was sent long ago.
        await response.write_eof()
        return response

    async def _collect(self, asked: GenerationRequest, sequence: Sequence, source: KvSource | None) -> CollectSink:
        sink = CollectSink(_iterations_before(asked))
        await self._run(sequence, sink, source)
        return sink

    def _answer(
        self, request: web.Request, request_id: str, asked: GenerationRequest, sequence: Sequence, sink: CollectSink
    ) -> web.Response:
        key, vocab = output_key(asked.prompt_ids), self.settings.model.vocab
        finish, disagg = "length", None
        if asked.kind == "context_only":
            finish = "length" if asked.max_tokens == 1 else "not_finished"
            ctx_request_id = asked.disagg.get("disagg_request_id") or sequence.id
            self.holds.hold(ctx_request_id, sequence.id)
            # The address this client used is one that a generation server can reach as well.
            source = KvSource(request.host, ctx_request_id, len(asked.prompt_ids), self._layout)
            disagg = kvfetch.disagg_answer(source, output_ids(key, 0, 1, vocab)[0], asked.disagg)
        body = answer(
            asked,
            request_id,
            self.settings.model_name,
            key,
            vocab,
            sink.tokens,
            sink.iterations,
            finish_reason=finish,
            disagg=disagg,
            cached=sequence.reused,
        )
        return web.Response(body=body, content_type="application/json")

    def _keep_perf(
        self, asked: GenerationRequest, sequence: Sequence, iterations: int, source: KvSource | None, arrival_s: float
    ) -> None:
        if self.settings.perf_metrics:
            kv_bytes = self.emulation.kv_bytes(source.tokens) if source else 0.0
            self.perf.add(asked, sequence, arrival_s, iterations, kv_bytes)


def _iterations_before(asked: GenerationRequest) -> int:
    """Iterations that count for a request before it came here: the prompt's, on the context server."""
    return 1 if asked.kind == "generation_only" else 0


def _refusal(message: str) -> web.Response:
    return json_answer(
        {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}, 400
    )
