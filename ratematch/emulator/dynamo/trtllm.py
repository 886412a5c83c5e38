"""TensorRT-LLM inside a worker: the emulated engine of ``trtllm-serve``, with the metrics of Dynamo's own worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ratematch.emulator.dynamo.backend import Backend, CallPeer, Card, Role
from ratematch.emulator.dynamo.histograms import Histogram
from ratematch.emulator.dynamo.requests import WorkerRequest
from ratematch.emulator.errors import Refused, TransferError
from ratematch.emulator.kvholds import CtxHolds
from ratematch.emulator.protocol import Json, block_hashes
from ratematch.emulator.scheduler import Sequence, Step
from ratematch.emulator.trtllm.assembly import Emulation
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.metrics import IterationRecorder
from ratematch.emulator.trtllm.settings import WorkerSettings
from ratematch.emulator.trtllm.transfer import KvSource, check_layout, decode_source, encode_source
from ratematch.engines.trtllm_serve.agreement import hand_over

STATE = "encoded_opaque_state"


class RequestMetrics:
    """What a worker that publishes metrics counts of its requests. ``labels``: of every sample."""

    def __init__(self, model: str, role: Role):
        self._engine = f'engine_type="trtllm",model_name="{model}"'
        self._labels = f'disaggregation_mode="{role}",{self._engine}'
        self._queue = Histogram("trtllm_request_queue_time_seconds")
        self._ttft = Histogram("trtllm_time_to_first_token_seconds")
        self._tpot = Histogram("trtllm_time_per_output_token_seconds")
        self._e2e = Histogram("trtllm_e2e_request_latency_seconds")
        self._transfer = Histogram("trtllm_kv_transfer_latency_seconds")
        self._bytes = Histogram("trtllm_kv_transfer_bytes")
        self._speed = Histogram("trtllm_kv_transfer_speed_gb_s")
        self._completed = self._transfers = 0

    def finished(self, sequence: Sequence, kv_bytes: float) -> None:
        """A request has its last token. ``kv_bytes``: fetched for it."""
        last, first = sequence.finished_s, sequence.first_token_s
        if last is None or first is None:
            return
        scheduled = first if sequence.first_scheduled_s is None else sequence.first_scheduled_s
        self._completed += 1
        self._queue.observe(max(0.0, scheduled - sequence.arrival_s))
        self._ttft.observe(first - sequence.arrival_s)
        if sequence.generated > 1:
            self._tpot.observe((last - first) / (sequence.generated - 1))
        self._e2e.observe(last - sequence.arrival_s)
        if kv_bytes and sequence.transfer_s:
            self._transfers += 1
            self._transfer.observe(sequence.transfer_s)
            self._bytes.observe(kv_bytes)
            self._speed.observe(kv_bytes / sequence.transfer_s / 1e9)

    def lines(self) -> list[str]:
        lines = [
            "# TYPE trtllm_request_success_total counter",
            f'trtllm_request_success_total{{{self._engine},finished_reason="length"}} {self._completed}',
        ]
        for histogram in (self._queue, self._ttft, self._tpot, self._e2e):
            lines += histogram.lines(self._engine)
        if self._transfers:
            lines += [
                "# TYPE trtllm_kv_transfer_success_total counter",
                f"trtllm_kv_transfer_success_total{{{self._labels}}} {self._transfers}",
            ]
            for histogram in (self._transfer, self._bytes, self._speed):
                lines += histogram.lines(self._labels)
        return lines


class TrtllmBackend(Backend[KvSource]):
    """The engine of one worker. ``publish``: it counts its requests and iterations where they can be scraped."""

    def __init__(self, role: Role, settings: WorkerSettings, emulation: Emulation, log: Log, *, publish: bool):
        super().__init__(role, settings.model, settings.mapping, emulation.scheduler, settings.stream_interval)
        self.settings, self.emulation, self.log = settings, emulation, log
        self._iterations = IterationRecorder(settings, emulation.scheduler, log)
        self._counts = RequestMetrics(settings.model_name, role) if publish else None
        self._layout = hand_over(settings.config, settings.version)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, call_peer: CallPeer) -> None:
        self._call_peer = call_peer
        self.holds = CtxHolds(self.engine.release, self.settings.transfer_timeout_s, self._expired)

    def card(self) -> Card:
        settings, config = self.settings, self.scheduler.config
        return Card(
            settings.model_name,
            settings.max_seq_len,
            settings.tokens_per_block,
            config.kv_blocks,
            settings.max_batch_size,
            settings.max_num_tokens,
            self.mapping.dp_ranks,
        )

    def on_step(self, step: Step, start_s: float, end_s: float) -> None:
        self._iterations.record(step, start_s, end_s)

    def num_held(self) -> int:
        return len(self.holds)

    # ------------------------------------------------------------------------------------------- requests

    def sequence(self, number: int, request: WorkerRequest) -> tuple[Sequence, KvSource | None]:
        settings, prompt = self.settings, len(request.prompt_ids)
        source = self._source(request) if self.role == "decode" else None
        if self.role == "prefill" and settings.transceiver is None:
            raise Refused("Disaggregated serving is not enabled, please check the configuration?")
        left = settings.max_seq_len - prompt
        if left < 1:
            raise Refused(f"The prompt length ({prompt}) must be less than max_seq_len ({settings.max_seq_len})")
        # The engine gives what fits into max_seq_len, however many tokens the request asks for.
        wanted = min(left, request.max_tokens or left)
        if self.role == "prefill":
            sequence = Sequence(number, prompt, 1, kind="context_only")
        else:
            sequence = Sequence(number, prompt, wanted, kind="generation_only" if source is not None else "full")
        if settings.block_reuse and source is None:
            sequence.prompt_hash = block_hashes(request.prompt_ids, settings.tokens_per_block)
        if why := self.scheduler.refusal(sequence):
            raise Refused(why)
        return sequence, source

    def _source(self, request: WorkerRequest) -> KvSource:
        """Where the KV cache of a request lies."""
        if self.settings.transceiver is None:
            raise Refused("Disaggregated serving is not enabled, please check the configuration?")
        if not request.handed_over:
            raise Refused("Disaggregated params are required for decode mode")
        source = decode_source(str(request.handed_over.get(STATE) or ""))
        try:
            check_layout(source, self._layout)
        except TransferError as error:
            self.log.error(str(error))
            raise
        return source

    def hand_over(self, request_id: str, sequence: Sequence) -> Json:
        self.holds.hold(sequence.id, sequence.id)
        source = KvSource(self.own_name, sequence.id, sequence.prompt_len, self._layout)
        return {
            "request_type": "context_only",
            "ctx_request_id": sequence.id,
            "first_gen_tokens": [0],
            STATE: encode_source(source),
        }

    def _expired(self, request_id: int | str) -> None:
        timeout_s = self.settings.transfer_timeout_s
        self.log.warning(f"Terminating request {request_id}: KV cache transfer timed out after {timeout_s:g} s")

    # ------------------------------------------------------------------------------------------- transfers

    def begin_transfer(self, source: KvSource, sequence: Sequence) -> Callable[[], None]:
        sequence.transfer_s = self.emulation.transfer_s(source.tokens)

        def begin() -> None:
            task = asyncio.ensure_future(self._fetch(source, sequence))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return begin

    async def _fetch(self, source: KvSource, sequence: Sequence) -> None:
        message: Json = {"fetch": source.request_id, "duration_s": sequence.transfer_s}
        try:
            answer = await self._call_peer(source.endpoint, message)
            if not answer.get("held"):
                raise TransferError(f"KV cache of request {source.request_id} is no longer held by {source.endpoint}")
        except TransferError as error:
            self.log.error(str(error))
            self.engine.fail(sequence.id, str(error))

    async def answer_peer(self, message: Mapping[str, object]) -> Json:
        return {"held": self.holds.fetched(int(str(message["fetch"])), float(str(message["duration_s"])))}

    def ended(self, sequence: Sequence, source: KvSource | None, reason: str | None) -> None:
        if self._counts is not None and reason == "length":
            self._counts.finished(sequence, self.emulation.kv_bytes(source.tokens) if source else 0.0)

    # ------------------------------------------------------------------------------------------- metrics

    def metrics(self) -> str:
        if self._counts is None:
            return ""
        scheduler, name = self.scheduler, self.settings.model_name
        blocks = scheduler.reused_blocks + scheduler.missed_blocks
        gauges = {
            "trtllm_kv_cache_utilization": scheduler.kv_used_blocks / max(1, scheduler.kv_max_blocks),
            "trtllm_kv_cache_hit_rate": scheduler.reused_blocks / blocks if blocks else 0.0,
        }
        lines = self._counts.lines()
        for metric, value in gauges.items():
            lines += [f"# TYPE {metric} gauge", f'{metric}{{engine_type="trtllm",model_name="{name}"}} {value:.9g}']
        return "\n".join(lines) + "\n"
