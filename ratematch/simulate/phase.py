"""One phase of a load, warm-up or measured part: what is to be sent when, and what came of it. The plain loop and the
compiled one take the one and return the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.records import RequestRecord


@dataclass(frozen=True)
class Schedule:
    """What a phase sends. ``label``: of its load. ``lengths``: prompt and answer tokens of each request, ``count`` of
    them, or ``endless``.

    Closed loop: ``slots`` clients, which begin over ``stagger_s`` and send for ``seconds``, or without end where that
    is 0. Open loop: request k is due ``due_s[k]`` after the start, and waits while ``most_in_flight`` (0: any number)
    are under way. ``first_seq``: number of the first record.
    """

    label: str
    lengths: Iterable[tuple[int, int]]
    count: int
    endless: bool = False
    open_loop: bool = False
    slots: int = 0
    seconds: float = 0.0
    stagger_s: float = 0.0
    due_s: tuple[float, ...] = ()
    most_in_flight: int = 0
    first_seq: int = 0


@dataclass(frozen=True)
class PhaseResult:
    """Records in the order of sending, and how many requests were under way at most."""

    records: list[RequestRecord]
    most_in_flight: int


class Loop(Protocol):
    """Runs phases one after another against one deployment."""

    def run(self, schedule: Schedule) -> PhaseResult: ...


@dataclass(slots=True)
class Reply:
    """How a request ended.

    ``chunks_s``: when each token-carrying chunk reached the client. ``iterations``: that it took. ``error``: the
    message in place of a whole answer, with its HTTP ``status``.
    """

    end_s: float
    chunks_s: NDArray[np.float64] | None = None
    tokens: int = 0
    iterations: int = 0
    status: int = 200
    error: str | None = None


def fill_record(record: RequestRecord, reply: Reply) -> None:
    """Note in ``record`` how its request ended."""
    record.end_ns = round(reply.end_s * 1e9)
    record.status = reply.status
    if reply.error is not None or reply.chunks_s is None:
        record.outcome = "truncated" if reply.status == 200 else "http_error"
        record.error = reply.error if reply.status == 200 else f"HTTP {reply.status}: {reply.error}"
        return
    record.chunk_ns = np.rint(reply.chunks_s * 1e9).astype(np.int64).tolist()
    record.first_token_ns, record.last_token_ns = record.chunk_ns[0], record.chunk_ns[-1]
    record.isl_reported, record.osl, record.cached_tokens = record.isl, reply.tokens, 0
    record.finish_reason = "length"
    record.decoded_per_iter = round(reply.tokens / reply.iterations, 4)
