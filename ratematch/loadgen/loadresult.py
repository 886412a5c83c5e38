"""What a load leaves behind, and what it shows while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.records import RequestRecord


class Ended(NamedTuple):
    """A full answer at first look, ns: arrival of its first and last bytes, not yet of tokens; ``tokens``: usage."""

    intended_ns: int
    sent_ns: int
    first_ns: int
    last_ns: int
    tokens: int


@dataclass(frozen=True)
class Progress:
    """A load under way. ``tokens``: usage of ended requests; ``ttft_ms``, ``tpot_ms``: medians of the last answers.

    ``failed`` is a first look (status, connection, ``[DONE]``); the records decide. ``ended``: the answers since the
    progress before.
    """

    phase: str
    total: int
    sent: int
    done: int
    failed: int
    in_flight: int
    tokens: int
    elapsed_s: float
    ttft_ms: float | None
    tpot_ms: float | None = None
    ended: tuple[Ended, ...] = ()


@dataclass(frozen=True)
class LoadResult:
    """Everything one load left behind. Instants are ns of the records' monotonic clock.

    ``wall_start_ns``: the wall clock (Unix epoch) at ``start_ns``. ``aborted``: why the load ended before its last
    request, or ``None``; requests that were never sent have no record. ``ended_early``: why no further request was
    begun, by a rule that leaves the load whole.
    """

    warmup: Sequence[RequestRecord]
    records: Sequence[RequestRecord]
    start_ns: int
    end_ns: int
    wall_start_ns: int
    health: ClientHealth
    aborted: str | None = None
    ended_early: str | None = None
    notes: tuple[str, ...] = ()
