"""One load in virtual time: the client's side."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from ratematch.errors import RunError, UserError
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.records import RequestRecord
from ratematch.plan.load import Concurrency, Load, Rate, Trace, due_times_s
from ratematch.plan.workload import Workload, draw_lengths
from ratematch.simulate.service import Reply, Service

LATE_MS = 10.0
BLOCK = 256
"""Requests drawn at once for a load that lasts for a time."""


def why_not_simulated(workload: Workload, load: Load) -> str | None:
    """What of a load virtual time cannot stand for; ``None`` when it can."""
    if workload.reuses:
        return "shared prefixes, conversations and data sets are not simulated: prefix caches are left out"
    if isinstance(load, Trace):
        return "traces are not simulated"
    return None


def simulate_load(service: Service, workload: Workload, load: Load, seed: int) -> LoadResult:
    """Run ``load`` against ``service``: its warm-up to the end, then its requests.

    The same number of requests, lengths and instants as :func:`ratematch.loadgen.drive.drive` sends (where lengths
    vary: of the same distribution). Instants are ns of virtual time.

    Raises:
        UserError: see :func:`why_not_simulated`. RunError: the servers can never answer.
    """
    if why := why_not_simulated(workload, load):
        raise UserError(f"{load.label}: {why}")
    warm_load = replace(load, seconds=0.0, stagger_s=0.0) if isinstance(load, Concurrency) else load
    warm = _Phase(service, draw_lengths(workload, load.warmup, seed + 1), load.num_requests)
    if load.warmup:
        warm.run(replace(warm_load, num_requests=load.warmup), seed + 1)
    measured = _Phase(service, _lengths(workload, load, seed), 0)
    start_s = service.timeline.now_s
    measured.run(load, seed)
    start_ns, end_ns = round(start_s * 1e9), round(service.timeline.now_s * 1e9)
    return LoadResult(
        warmup=warm.records,
        records=measured.records,
        start_ns=start_ns,
        end_ns=end_ns,
        wall_start_ns=time.time_ns(),
        health=measured.health(max(1, end_ns - start_ns)),
    )


def _lengths(workload: Workload, load: Load, seed: int) -> Iterable[tuple[int, int]]:
    if isinstance(load, Concurrency) and load.seconds:
        return (pair for block in itertools.count() for pair in draw_lengths(workload, BLOCK, seed + block))
    return draw_lengths(workload, load.num_requests, seed)


class _Phase:
    """Warm-up or measured part: sends, and makes records of the replies."""

    def __init__(self, service: Service, lengths: Iterable[tuple[int, int]], first_seq: int):
        self.records: list[RequestRecord] = []
        self._service = service
        self._timeline = service.timeline
        self._lengths = iter(lengths)
        self._first_seq = first_seq
        self._sent = self._done = self._most = 0
        self._slots = 0  # closed loop: that may still send
        self._due = 0  # open loop: requests that are not due yet
        self._last_send_s = math.inf
        self._waiting: deque[float] = deque()  # open loop: due, and too many are in flight
        self._most_allowed = 0

    def run(self, load: Load, seed: int) -> None:
        start_s = self._timeline.now_s
        if isinstance(load, Concurrency):
            if load.seconds:
                self._last_send_s = start_s + load.seconds
            self._slots = load.concurrency if load.seconds else min(load.concurrency, load.num_requests)
            for slot in range(self._slots):
                when_s = start_s + slot * load.stagger_s / self._slots
                self._timeline.at(when_s, lambda when_s=when_s: self._next(when_s))  # type: ignore[misc]
        elif isinstance(load, Rate):
            self._most_allowed = load.max_in_flight
            due_s = due_times_s(load, seed).tolist()
            self._due = len(due_s)
            for offset_s in due_s:
                when_s = start_s + offset_s
                self._timeline.at(when_s, lambda when_s=when_s: self._arrive(when_s))  # type: ignore[misc]
        if not self._timeline.run(self._is_over):
            raise RunError(f"{load.label}: {self._sent - self._done} requests would never be answered")

    def _is_over(self) -> bool:
        return self._done == self._sent and not (self._slots or self._due or self._waiting)

    def _next(self, free_s: float) -> None:
        """A slot of the closed loop is free."""
        if free_s >= self._last_send_s or not self._send(free_s, self._next):
            self._slots -= 1

    def _arrive(self, due_s: float) -> None:
        self._due -= 1
        if self._most_allowed and self._sent - self._done >= self._most_allowed:
            self._waiting.append(due_s)
        else:
            self._send(due_s, self._let_in)

    def _let_in(self, now_s: float) -> None:
        if self._waiting:
            self._send(self._waiting.popleft(), self._let_in)

    def _send(self, intended_s: float, then: Callable[[float], None]) -> bool:
        """Send the next request, if there is one; ``then`` is called at its end."""
        lengths = next(self._lengths, None)
        if lengths is None:
            return False
        isl, osl = lengths
        record = RequestRecord(
            seq=self._first_seq + self._sent,
            intended_ns=round(intended_s * 1e9),
            sent_ns=round(self._timeline.now_s * 1e9),
            isl=isl,
            osl_requested=osl,
        )
        self.records.append(record)
        self._sent += 1
        self._most = max(self._most, self._sent - self._done)

        def ended(reply: Reply) -> None:
            self._done += 1
            _fill(record, reply)
            then(self._timeline.now_s)

        self._service.send(isl, osl, ended)
        return True

    def health(self, wall_ns: int) -> ClientHealth:
        """A client in virtual time is never late and takes no time of its own."""
        busy_ns = sum((record.end_ns or 0) - (record.sent_ns or 0) for record in self.records)
        return ClientHealth(
            cpu_share=0.0,
            loop_lag_p99_ms=0.0,
            loop_lag_max_ms=0.0,
            max_in_flight=self._most,
            mean_in_flight=busy_ns / wall_ns,
            late_sends=0,
            late_ms=LATE_MS,
            send_lag_p99_ms=0.0,
            at_transport=True,
            event_loop="virtual",
        )


def _fill(record: RequestRecord, reply: Reply) -> None:
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
