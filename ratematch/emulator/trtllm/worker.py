"""The worker's HTTP server: the routes of ``trtllm-serve MODEL`` over the emulated engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from ratematch.emulator.environment import START_FAILURES, Environment
from ratematch.emulator.errors import Refused, TransferError
from ratematch.emulator.face import Face, Generation
from ratematch.emulator.kvholds import CtxHolds
from ratematch.emulator.protocol import DONE, AnswerHead, Json, block_hashes, encode
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.serving import json_answer, version_text
from ratematch.emulator.sinks import CollectSink
from ratematch.emulator.trtllm import kvfetch
from ratematch.emulator.trtllm.assembly import Emulation
from ratematch.emulator.trtllm.kvfetch import FETCH_ROUTE, GenFetch
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.metrics import IterationRecorder, PerfRecorder
from ratematch.emulator.trtllm.protocol import GenerationRequest, TrtllmStream, answer, parse_request
from ratematch.emulator.trtllm.settings import WorkerSettings
from ratematch.emulator.trtllm.times import TimesFile, fields_of_worker, times_event, wants_times
from ratematch.emulator.trtllm.transfer import KvSource, check_layout, decode_source
from ratematch.engines.trtllm_serve.agreement import hand_over
from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.engines.trtllm_serve.reporting import reporting

METRICS_WAIT_S = 2.0


class Worker(Face[GenerationRequest, KvSource]):
    """One emulated worker; ``run`` serves until a stop signal."""

    start_failures = START_FAILURES

    def __init__(self, settings: WorkerSettings, environment: Environment, emulation: Emulation, log: Log):
        self.iterations = IterationRecorder(settings, emulation.scheduler, log)
        super().__init__(settings, environment, emulation.scheduler, self.iterations.record, log)
        self.settings = settings
        self.log = log
        self.emulation = emulation
        self._layout = hand_over(settings.config, settings.version)
        self._late = reporting(settings.version).late
        self.listens_while_loading = self._late
        kept = 0 if self._late else settings.perf_metrics_kept
        self.perf = PerfRecorder(kept, settings.tokens_per_block, settings.mtp)
        self._times_file = TimesFile(settings.perf_metrics_folder, "server")
        self._fresh: dict[int, Json] = {}
        self.holds = CtxHolds(self.engine.release, settings.transfer_timeout_s, self._log_expired)
        self.fetch = GenFetch()
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------- life

    @property
    def host(self) -> str:
        return self.settings.host

    async def close(self) -> None:
        await self.fetch.close()

    def _log_expired(self, request_id: int | str) -> None:
        timeout_s = self.settings.transfer_timeout_s
        self.log.warning(f"Terminating request {request_id}: KV cache transfer timed out after {timeout_s:g} s")

    # ------------------------------------------------------------------------------------------- routes

    def own_routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/health_generate", self.health_generate),
            web.get("/metrics", self.metrics),
            web.get("/steady_clock_offset", self.clock),
            web.post("/steady_clock_offset", self.set_clock),
            web.post("/kv_cache_events", self.kv_events),
            web.post(FETCH_ROUTE, self.fetch_begun),
        ]
        if not self._late:
            routes.append(web.get("/perf_metrics", self.perf_metrics))
        if self.settings.perf_metrics:
            routes.append(web.get("/prometheus/metrics", self.prometheus))
        return routes

    def version(self) -> str:
        return version_text(self.settings.version)

    def model_cards(self) -> list[Json]:
        created = int(time.time())
        return [{"id": self.settings.model_name, "object": "model", "created": created, "owned_by": "tensorrt_llm"}]

    def num_held(self) -> int:
        return len(self.holds)

    def own_info(self) -> Json:
        return {"disaggregated_params": None, "kv_cache_hash_algo": "emulated"}

    async def health_generate(self, request: web.Request) -> web.Response:
        sink = CollectSink()
        await self.run_sequence(Sequence(id=next(self._ids), prompt_len=1, max_tokens=1), sink)
        if sink.error:
            return web.Response(status=500, text=f"Generation health check FAILED: {sink.error}")
        return web.Response(text="Generation health check OK")

    async def metrics(self, request: web.Request) -> web.Response:
        return json_answer(await self.iterations.drain(METRICS_WAIT_S))

    async def perf_metrics(self, request: web.Request) -> web.Response:
        return json_answer(self.perf.drain())

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

    # ------------------------------------------------------------------------------------------- generation

    def parse(self, body: Any, *, chat: bool) -> GenerationRequest:
        lifecycle = release_line(self.settings.version) == "1.4"
        return parse_request(body, chat=chat, vocab=self.settings.model.vocab, lifecycle=lifecycle)

    def sequence(self, request: GenerationRequest) -> tuple[Sequence, KvSource | None]:
        return self._sequence(request), self._kv_source(request)

    def _kv_source(self, request: GenerationRequest) -> KvSource | None:
        """Where the KV cache of a generation-only request lies; ``None`` when there is nothing to fetch."""
        if request.kind != "generation_only" or self.environment.gen_only:
            return None
        if request.disagg.get("ctx_request_id") is None:
            raise Refused("Invalid disaggregated params: ctx_request_id is None")
        source = decode_source(str(request.disagg.get("encoded_opaque_state") or ""))
        try:
            check_layout(source, self._layout)
        except TransferError as error:
            self.log.error(str(error))
            raise
        return source

    def _sequence(self, request: GenerationRequest) -> Sequence:
        settings, prompt = self.settings, len(request.prompt_ids)
        if request.kind != "full" and settings.transceiver is None:
            raise Refused("Disaggregated serving is not enabled, please check the configuration?")
        left = settings.max_seq_len - prompt
        if left < 1:
            raise Refused(f"The prompt length ({prompt}) must be less than max_seq_len ({settings.max_seq_len})")
        if request.max_tokens is not None and request.max_tokens > left:
            self.log.warning(
                f"User-specified max_tokens ({request.max_tokens}) is greater than {left}, using {left} instead"
            )
        # The engine gives what fits into max_seq_len, however many tokens the request asks for.
        wanted = min(left, request.max_tokens or left)
        sequence = Sequence(
            id=next(self._ids),
            prompt_len=prompt,
            max_tokens=1 if request.kind == "context_only" else wanted,
            kind=request.kind,
        )
        if settings.block_reuse and request.kind != "generation_only":
            sequence.prompt_hash = block_hashes(request.prompt_ids, settings.tokens_per_block)
        if why := self.emulation.scheduler.refusal(sequence):
            raise Refused(why)
        return sequence

    def request_id(self, http: web.Request, prefix: str) -> str:
        return prefix + uuid.uuid4().hex

    def answered_model(self, request: GenerationRequest) -> str:
        return self.settings.model_name

    def streams(self, request: GenerationRequest) -> bool:
        return request.stream and request.kind != "context_only"

    def iterations_before(self, request: GenerationRequest) -> int:
        # The prompt's iteration, on the context server.
        return 1 if request.kind == "generation_only" else 0

    def begin_transfer(self, source: KvSource, sequence: Sequence) -> Callable[[], None]:
        sequence.transfer_s = self.emulation.transfer_s(source.tokens)

        def begin() -> None:
            task = asyncio.ensure_future(self._fetch(source, sequence))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return begin

    async def _fetch(self, source: KvSource, sequence: Sequence) -> None:
        try:
            await self.fetch.begin(source, sequence.transfer_s)
        except TransferError as error:
            self.log.error(str(error))
            self.engine.fail(sequence.id, str(error))

    def encoder(self, request: GenerationRequest, head: AnswerHead) -> TrtllmStream:
        return TrtllmStream(request, head)

    def answer(
        self,
        http: web.Request,
        generation: Generation[GenerationRequest, KvSource],
        head: AnswerHead,
        sink: CollectSink,
    ) -> bytes:
        request, sequence = generation.request, generation.sequence
        finish, disagg = "length", None
        if request.kind == "context_only":
            finish = "length" if request.max_tokens == 1 else "not_finished"
            ctx_request_id = request.disagg.get("disagg_request_id") or sequence.id
            self.holds.hold(ctx_request_id, sequence.id)
            # The address this client used is one that a generation server can reach as well.
            source = KvSource(http.host, ctx_request_id, len(request.prompt_ids), self._layout)
            disagg = kvfetch.disagg_answer(source, head.ids(0, 1)[0], request.disagg)
        return answer(
            request,
            head,
            sink.tokens,
            sink.iterations,
            finish_reason=finish,
            disagg=disagg,
            cached=sequence.reused,
        )

    def finished(self, generation: Generation[GenerationRequest, KvSource], iterations: int) -> None:
        if self.settings.perf_metrics:
            source = generation.source
            kv_bytes = self.emulation.kv_bytes(source.tokens) if source else 0.0
            record = self.perf.add(
                generation.request, generation.sequence, generation.arrival_s, iterations, kv_bytes
            )
            if self._late:
                self._times_file.write(record)
                self._fresh[generation.sequence.id] = record

    def answer_headers(
        self, http: web.Request, generation: Generation[GenerationRequest, KvSource]
    ) -> Mapping[str, str]:
        return self._times(http, generation)

    def trailing_events(self, http: web.Request, generation: Generation[GenerationRequest, KvSource]) -> bytes:
        return times_event(self._times(http, generation))

    def _times(self, http: web.Request, generation: Generation[GenerationRequest, KvSource]) -> dict[str, str]:
        """What a request that asks for its times is sent of them, where the engine keeps them."""
        record = self._fresh.pop(generation.sequence.id, None)
        if record is None or not wants_times(http.headers):
            return {}
        return fields_of_worker(record["perf_metrics"]["timing_metrics"])

    # ------------------------------------------------------------------------------------------- errors

    def bad_request(self, message: str) -> web.Response:
        return json_answer({"error": message}, 400)

    def refused(self, error: Refused) -> web.Response:
        return self.failed(str(error))

    def failed(self, message: str) -> web.Response:
        error = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
        return json_answer(error, 400)

    def failed_events(self, message: str) -> bytes:
        """Late releases end such a stream with the error and ``[DONE]``; before, it just ended."""
        if not self._late:
            return b""
        error = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
        return b"data: " + encode({"error": error}) + b"\n\n" + DONE

    def injected_failure(self, message: str) -> web.Response:
        return json_answer({"detail": message}, 500)
