"""What a worker needs of the engine inside it, whichever engine that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from ratematch.emulator.dynamo.requests import ChunkSink, WorkerRequest
from ratematch.emulator.engine import Engine
from ratematch.emulator.protocol import Json
from ratematch.emulator.scheduler import Scheduler, Sequence, Step
from ratematch.plan.model import Model
from ratematch.plan.parallelism import Parallelism

Role = Literal["agg", "prefill", "decode"]
"""What a worker does: whole requests, prompts only, or what follows prompts that another worker computed."""

SourceT = TypeVar("SourceT")

CallPeer = Callable[[str, Json], Awaitable[Json]]
"""Sends a message to the worker of a name (:attr:`Backend.own_name`) and gives its answer; raises TransferError."""


@dataclass(frozen=True)
class Card:
    """What a worker registers of its engine; counts are of a data-parallel rank."""

    name: str
    context_length: int
    block_size: int
    kv_blocks: int
    max_sequences: int
    max_tokens: int
    ranks: int


class Backend(ABC, Generic[SourceT]):
    """The engine inside a worker. ``SourceT``: where a KV cache is fetched from."""

    engine: Engine
    own_name: str = ""

    def __init__(self, role: Role, model: Model, mapping: Parallelism, scheduler: Scheduler, stream_interval: int):
        self.role, self.model, self.mapping = role, model, mapping
        self.scheduler, self.stream_interval = scheduler, stream_interval

    @abstractmethod
    def card(self) -> Card:
        """What is registered."""

    @abstractmethod
    def on_step(self, step: Step, start_s: float, end_s: float) -> None:
        """A step is over; planned times on the monotonic clock."""

    @abstractmethod
    def sequence(self, number: int, request: WorkerRequest) -> tuple[Sequence, SourceT | None]:
        """The sequence ``number`` to run for a request, and where its KV cache is to be fetched from, if it is.

        Raises:
            Refused: it can never run here. TransferError: its KV cache cannot be fetched.
        """

    @abstractmethod
    def begin_transfer(self, source: SourceT, sequence: Sequence) -> Callable[[], None]:
        """Make ready to fetch a KV cache; returned: what to call once the scheduler has room for the sequence."""

    @abstractmethod
    def hand_over(self, request_id: str, sequence: Sequence) -> Json:
        """Keep the KV cache of a finished prompt; what the decode worker must be told of it."""

    @abstractmethod
    def metrics(self) -> str:
        """The engine's own metrics, in Prometheus' text format."""

    @abstractmethod
    def num_held(self) -> int:
        """KV caches that are kept for other workers."""

    async def start(self, call_peer: CallPeer) -> None:
        """The model is there; what is to be done before requests come."""

    async def answer_peer(self, message: Mapping[str, object]) -> Json:
        """What another worker of this engine is answered."""
        return {"error": "this engine has nothing to say to others"}

    def begun(self, sequence: Sequence, sink: ChunkSink) -> None:
        """A sequence is about to be queued."""

    def ended(self, sequence: Sequence, source: SourceT | None, reason: str | None) -> None:
        """A sequence has ended: ``length``, ``error``, or ``None`` when its client went away."""

    async def close(self) -> None:
        """Let go of what reaches other workers."""


@dataclass(frozen=True)
class Made:
    """An engine that is ready to load. ``warn``: writes a line of its log; ``failures``: what its log says when it
    dies of an injected failure, by name."""

    backend: Backend[Any]
    warn: Callable[[str], None]
    failures: Mapping[str, str]
