"""What a load leaves behind, and what it shows while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
class ClientHealth:
    """Was the client able to do what it was asked?

    ``cpu_share``: CPU seconds of this process per second of load (1 = one core full). ``loop_lag_p99_ms`` and
    ``loop_lag_max_ms``: lateness of a timer every 50 ms; about 1 ms is the timer's own grain. ``late_sends``:
    requests sent more than ``late_ms`` after their intended instant. ``mean_in_flight``: from the socket write to the
    end, over the whole measured part, its tail included. ``at_transport``: were bytes stamped when they arrived
    (else: when the task woke up)? ``processes``: how many sent; shares and counts are sums over them, lags the worst.
    ``decode_cpu_s``: CPU seconds spent on decoding the answers after the load. ``kernel_stamped``: share of the reads
    whose instant is the kernel's, which is right however late the read was.
    """

    cpu_share: float
    loop_lag_p99_ms: float
    loop_lag_max_ms: float
    max_in_flight: int
    mean_in_flight: float
    late_sends: int
    late_ms: float
    send_lag_p99_ms: float | None
    at_transport: bool
    event_loop: str
    processes: int = 1
    decode_cpu_s: float = 0.0
    kernel_stamped: float = 0.0


@dataclass(frozen=True)
class LoadResult:
    """Everything one load left behind. Instants are ns of the records' monotonic clock.

    ``wall_start_ns``: the wall clock (Unix epoch) at ``start_ns``. ``aborted``: why the load ended before its last
    request, or ``None``; requests that were never sent have no record. ``ended_early``: why no further request was
    begun, by a rule that leaves the load whole.
    """

    warmup: list[RequestRecord]
    records: list[RequestRecord]
    start_ns: int
    end_ns: int
    wall_start_ns: int
    health: ClientHealth
    aborted: str | None = None
    ended_early: str | None = None
    notes: tuple[str, ...] = ()
