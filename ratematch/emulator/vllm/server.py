"""The HTTP server of an emulated ``vllm serve``: its routes over the emulated engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import Refused
from ratematch.emulator.face import Face, Generation
from ratematch.emulator.protocol import DONE, AnswerHead, Json, block_hashes
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.serving import json_answer
from ratematch.emulator.sinks import CollectSink, StreamSink
from ratematch.emulator.vllm.assembly import Emulation
from ratematch.emulator.vllm.connector import Connector
from ratematch.emulator.vllm.logs import START_FAILURES, Log
from ratematch.emulator.vllm.metrics import LOG_PERIOD_S, Metrics
from ratematch.emulator.vllm.nixl import Remote
from ratematch.emulator.vllm.protocol import (
    FAILED_STREAM,
    ServeRequest,
    VllmStream,
    answer,
    error_body,
    parse_request,
)
from ratematch.emulator.vllm.settings import ServeSettings


class Server(Face[ServeRequest, Remote]):
    """One emulated server; ``run`` serves until a stop signal.

    ``side``: host and port of its side channel, where it hands KV caches over.
    """

    start_failures = START_FAILURES
    failed_stream = FAILED_STREAM + DONE

    def __init__(
        self,
        settings: ServeSettings,
        environment: Environment,
        emulation: Emulation,
        side: tuple[str, int],
        log: Log,
    ):
        self.metrics = Metrics(settings, emulation.scheduler, log)
        super().__init__(settings, environment, emulation.scheduler, self.metrics.step, log)
        self.settings, self.emulation, self.log = settings, emulation, log
        self.connector = Connector(settings, emulation.layout, self.engine, self.metrics, side, log)
        self._fingerprint = f"vllm-{settings.version}-{self.connector.engine_id[:8]}"

    # ------------------------------------------------------------------------------------------- life

    @property
    def host(self) -> str:
        # The real one listens everywhere; a stand-in is tried by hand on machines that others share.
        return self.settings.host or "127.0.0.1"

    async def loaded(self) -> None:
        await self.connector.start()
        config = self.emulation.scheduler.config
        self.log.core(
            f"GPU KV cache size: {config.kv_tokens:,} tokens, Maximum concurrency for {config.max_seq_len:,} tokens "
            f"per request: {config.kv_tokens / config.max_seq_len:.2f}x"
        )

    def background(self) -> tuple[Coroutine[Any, Any, None]]:
        return (self._log_throughput(),)

    async def _log_throughput(self) -> None:
        while self.settings.log_stats:
            await asyncio.sleep(LOG_PERIOD_S)
            self.metrics.log_lines()

    async def close(self) -> None:
        await self.connector.close()

    # ------------------------------------------------------------------------------------------- routes

    def own_routes(self) -> list[web.RouteDef]:
        return [web.get("/ping", self.health), web.get("/metrics", self.prometheus)]

    def version(self) -> str:
        return f"{self.settings.version}.0+emulated"

    def model_cards(self) -> list[Json]:
        settings = self.settings
        card = {"object": "model", "created": int(time.time()), "owned_by": "vllm", "root": settings.path}
        return [
            {"id": name, **card, "parent": None, "max_model_len": settings.max_model_len} for name in settings.names
        ]

    def num_held(self) -> int:
        return len(self.connector.holds)

    async def prometheus(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics.text())

    # ------------------------------------------------------------------------------------------- generation

    def parse(self, body: Any, *, chat: bool) -> ServeRequest:
        return parse_request(body, chat=chat, vocab=self.settings.model.vocab)

    def sequence(self, request: ServeRequest) -> tuple[Sequence, Remote | None]:
        settings, prompt = self.settings, len(request.prompt_ids)
        if request.model is not None and request.model not in settings.names:
            raise Refused(f"The model `{request.model}` does not exist.", 404, "NotFoundError", "model")
        longest = settings.max_model_len
        if request.max_tokens is not None and request.max_tokens > longest:
            raise Refused(
                f"max_tokens={request.max_tokens} cannot be greater than max_model_len={longest}. Please request "
                f"fewer output tokens. (parameter=max_tokens, value={request.max_tokens})",
                param="max_tokens",
            )
        wanted = request.max_tokens if request.max_tokens is not None else max(1, longest - prompt)
        if prompt + wanted > longest:
            raise Refused(
                f"This model's maximum context length is {longest} tokens. However, you requested {wanted} output "
                f"tokens and your prompt contains {prompt} input tokens, for a total of {prompt + wanted} tokens. "
                "Please reduce the length of the input prompt or the number of requested output tokens."
            )
        keeps, remote = self.connector.read(request.transfer)
        if keeps and wanted != 1:
            raise Refused("the emulator hands a KV cache over after one token: max_tokens must be 1")
        sequence = Sequence(
            id=next(self._ids), prompt_len=prompt, max_tokens=wanted, kind="context_only" if keeps else "full"
        )
        if settings.prefix_caching:
            # The last token is always computed, and so is all of its block: only the blocks before it can be found.
            sequence.prompt_hash = block_hashes(request.prompt_ids[:-1], settings.block_size)
        if why := self.emulation.scheduler.refusal(sequence):
            raise Refused(why)
        return sequence, remote

    def request_id(self, http: web.Request, prefix: str) -> str:
        return prefix + (http.headers.get("X-Request-Id") or uuid.uuid4().hex[:16])

    def answered_model(self, request: ServeRequest) -> str:
        return request.model or self.settings.names[0]

    def begin_transfer(self, source: Remote, sequence: Sequence) -> Callable[[], None]:
        return self.connector.expect(source, sequence)

    def begun(self, sequence: Sequence, sink: StreamSink | CollectSink) -> None:
        self.metrics.started(sequence, sink)

    def ended(self, sequence: Sequence, source: Remote | None, reason: str | None) -> None:
        self.metrics.finished(sequence, reason)
        if source is not None:
            self.connector.give_back(source)

    def encoder(self, request: ServeRequest, head: AnswerHead) -> VllmStream:
        return VllmStream(request, head, self._fingerprint)

    def answer(
        self, http: web.Request, generation: Generation[ServeRequest, Remote], head: AnswerHead, sink: CollectSink
    ) -> bytes:
        transfer = self.connector.hold(head.request_id, generation.sequence)
        return answer(generation.request, head, sink.tokens, self._fingerprint, transfer)

    # ------------------------------------------------------------------------------------------- errors

    def bad_request(self, message: str) -> web.Response:
        return self.refused(Refused(message))

    def refused(self, error: Refused) -> web.Response:
        return json_answer(error_body(str(error), error.kind, error.status, error.param), error.status)

    def failed(self, message: str) -> web.Response:
        return self.injected_failure("Internal server error")

    def injected_failure(self, message: str) -> web.Response:
        return self.refused(Refused(message, 500, "InternalServerError"))
