"""One load in virtual time: the client's side."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from ratematch.errors import RunError, UserError
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.records import RequestRecord
from ratematch.plan.load import Concurrency, Load, Rate, Trace, due_times_s
from ratematch.plan.workload import Workload, draw_lengths
from ratematch.simulate.compiled.build import compiled_loop
from ratematch.simulate.phase import PhaseResult, Reply, Schedule, fill_record
from ratematch.simulate.service import Service

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
    loop = service.loop = service.loop or compiled_loop(service) or PlainLoop(service)
    warm = PhaseResult([], 0)
    if load.warmup:
        warm_load = replace(load, seconds=0.0, stagger_s=0.0) if isinstance(load, Concurrency) else load
        warm_load = replace(warm_load, num_requests=load.warmup)
        lengths = draw_lengths(workload, load.warmup, seed + 1)
        warm = loop.run(_schedule(warm_load, lengths, seed + 1, load.num_requests))
    start_s = service.timeline.now_s
    measured = loop.run(_schedule(load, _lengths(workload, load, seed), seed, 0))
    start_ns, end_ns = round(start_s * 1e9), round(service.timeline.now_s * 1e9)
    return LoadResult(
        warmup=warm.records,
        records=measured.records,
        start_ns=start_ns,
        end_ns=end_ns,
        wall_start_ns=time.time_ns(),
        health=_health(measured, max(1, end_ns - start_ns)),
    )


def _lengths(workload: Workload, load: Load, seed: int) -> Iterable[tuple[int, int]]:
    if isinstance(load, Concurrency) and load.seconds:
        return (pair for block in itertools.count() for pair in draw_lengths(workload, BLOCK, seed + block))
    return draw_lengths(workload, load.num_requests, seed)


def _schedule(load: Load, lengths: Iterable[tuple[int, int]], seed: int, first_seq: int) -> Schedule:
    count = load.num_requests
    if isinstance(load, Rate):
        due_s = tuple(due_times_s(load, seed).tolist())
        return Schedule(
            load.label,
            lengths,
            count,
            open_loop=True,
            due_s=due_s,
            most_in_flight=load.max_in_flight,
            first_seq=first_seq,
        )
    assert isinstance(load, Concurrency)
    return Schedule(
        load.label,
        lengths,
        count,
        endless=bool(load.seconds),
        slots=load.concurrency if load.seconds else min(load.concurrency, count),
        seconds=load.seconds,
        stagger_s=load.stagger_s,
        first_seq=first_seq,
    )


class PlainLoop:
    """Runs phases by the events of ``service``'s timeline."""

    def __init__(self, service: Service):
        self._service = service

    def run(self, schedule: Schedule) -> PhaseResult:
        """Run one phase to its end.

        Raises:
            RunError: the servers can never answer. EngineFailure: a fill gate can never open.
        """
        phase = _Phase(self._service, schedule)
        phase.run()
        return PhaseResult(phase.records, phase.most)


class _Phase:
    """Sends what a schedule says, and makes records of the replies."""

    def __init__(self, service: Service, schedule: Schedule):
        self.records: list[RequestRecord] = []
        self.most = 0
        self._schedule = schedule
        self._service = service
        self._timeline = service.timeline
        self._lengths = iter(schedule.lengths)
        self._sent = self._done = 0
        self._slots = schedule.slots  # closed loop: that may still send
        self._due = len(schedule.due_s)  # open loop: requests that are not due yet
        self._last_send_s = math.inf
        self._waiting: deque[float] = deque()  # open loop: due, and too many are in flight

    def run(self) -> None:
        schedule, start_s = self._schedule, self._timeline.now_s
        if schedule.seconds:
            self._last_send_s = start_s + schedule.seconds
        for slot in range(schedule.slots):
            when_s = start_s + slot * schedule.stagger_s / schedule.slots
            self._timeline.at(when_s, lambda when_s=when_s: self._next(when_s))  # type: ignore[misc]
        for offset_s in schedule.due_s:
            when_s = start_s + offset_s
            self._timeline.at(when_s, lambda when_s=when_s: self._arrive(when_s))  # type: ignore[misc]
        if not self._timeline.run(self._is_over):
            raise RunError(f"{schedule.label}: {self._sent - self._done} requests would never be answered")

    def _is_over(self) -> bool:
        return self._done == self._sent and not (self._slots or self._due or self._waiting)

    def _next(self, free_s: float) -> None:
        """A slot of the closed loop is free."""
        if free_s >= self._last_send_s or not self._send(free_s, self._next):
            self._slots -= 1

    def _arrive(self, due_s: float) -> None:
        self._due -= 1
        most = self._schedule.most_in_flight
        if most and self._sent - self._done >= most:
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
            seq=self._schedule.first_seq + self._sent,
            intended_ns=round(intended_s * 1e9),
            sent_ns=round(self._timeline.now_s * 1e9),
            isl=isl,
            osl_requested=osl,
        )
        self.records.append(record)
        self._sent += 1
        self.most = max(self.most, self._sent - self._done)

        def ended(reply: Reply) -> None:
            self._done += 1
            fill_record(record, reply)
            then(self._timeline.now_s)

        self._service.send(isl, osl, ended)
        return True


def _health(phase: PhaseResult, wall_ns: int) -> ClientHealth:
    """A client in virtual time is never late and takes no time of its own."""
    busy_ns = sum([(record.end_ns or 0) - (record.sent_ns or 0) for record in phase.records])
    return ClientHealth(
        cpu_share=0.0,
        loop_lag_p99_ms=0.0,
        loop_lag_max_ms=0.0,
        max_in_flight=phase.most_in_flight,
        mean_in_flight=busy_ns / wall_ns,
        late_sends=0,
        late_ms=LATE_MS,
        send_lag_p99_ms=0.0,
        at_transport=True,
        event_loop="virtual",
    )
