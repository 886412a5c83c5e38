"""vLLM inside a worker: the emulated engine of ``vllm serve``, whose NIXL connector hands KV caches over."""

from __future__ import annotations

from collections.abc import Callable

from ratematch.emulator.dynamo.backend import Backend, CallPeer, Card, Role
from ratematch.emulator.dynamo.requests import ChunkSink, WorkerRequest
from ratematch.emulator.errors import Refused
from ratematch.emulator.protocol import Json, block_hashes
from ratematch.emulator.scheduler import Sequence, Step
from ratematch.emulator.vllm.assembly import Emulation
from ratematch.emulator.vllm.connector import Connector
from ratematch.emulator.vllm.logs import Log
from ratematch.emulator.vllm.metrics import Metrics
from ratematch.emulator.vllm.nixl import Remote
from ratematch.emulator.vllm.settings import ServeSettings

PARAMS = "kv_transfer_params"
"""Where the prefill worker's hand-over has what its connector said."""


class VllmBackend(Backend[Remote]):
    """The engine of one worker. ``side``: host and port of its side channel."""

    def __init__(self, role: Role, settings: ServeSettings, emulation: Emulation, side: tuple[str, int], log: Log):
        super().__init__(role, settings.model, settings.mapping, emulation.scheduler, settings.stream_interval)
        self.settings, self.emulation, self.log = settings, emulation, log
        self._metrics = Metrics(settings, emulation.scheduler, log)
        self._side = side

    async def start(self, call_peer: CallPeer) -> None:
        self._connector = Connector(
            self.settings, self.emulation.layout, self.engine, self._metrics, self._side, self.log
        )
        await self._connector.start()

    async def close(self) -> None:
        await self._connector.close()

    def card(self) -> Card:
        settings = self.settings
        return Card(
            settings.names[0],
            settings.max_model_len,
            settings.block_size,
            self.scheduler.config.kv_blocks,
            settings.max_num_seqs,
            settings.max_num_batched_tokens,
            self.mapping.dp_ranks,
        )

    def on_step(self, step: Step, start_s: float, end_s: float) -> None:
        self._metrics.step(step, start_s, end_s)

    def num_held(self) -> int:
        return len(self._connector.holds)

    def sequence(self, number: int, request: WorkerRequest) -> tuple[Sequence, Remote | None]:
        settings, prompt = self.settings, len(request.prompt_ids)
        longest = settings.max_model_len
        wanted = request.max_tokens if request.max_tokens is not None else max(1, longest - prompt)
        if prompt + wanted > longest:
            raise Refused(
                f"This model's maximum context length is {longest} tokens. However, you requested {wanted} output "
                f"tokens and your prompt contains {prompt} input tokens"
            )
        remote = None
        if self.role == "decode":
            _, remote = self._connector.read(request.handed_over.get(PARAMS) or {})
            if remote is None:
                raise Refused("a decode worker was given no kv_transfer_params")
        prefill = self.role == "prefill"
        sequence = Sequence(number, prompt, 1 if prefill else wanted, kind="context_only" if prefill else "full")
        if settings.prefix_caching:
            # The last token is always computed, and so is all of its block: only the blocks before it can be found.
            sequence.prompt_hash = block_hashes(request.prompt_ids[:-1], settings.block_size)
        if why := self.scheduler.refusal(sequence):
            raise Refused(why)
        return sequence, remote

    def hand_over(self, request_id: str, sequence: Sequence) -> Json:
        return {PARAMS: self._connector.hold(request_id, sequence)}

    def begin_transfer(self, source: Remote, sequence: Sequence) -> Callable[[], None]:
        return self._connector.expect(source, sequence)

    def begun(self, sequence: Sequence, sink: ChunkSink) -> None:
        self._metrics.started(sequence, sink)

    def ended(self, sequence: Sequence, source: Remote | None, reason: str | None) -> None:
        self._metrics.finished(sequence, reason)
        if source is not None:
            self._connector.give_back(source)

    def metrics(self) -> str:
        return self._metrics.text()
