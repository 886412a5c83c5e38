"""One load in virtual time: the client's side."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ratematch.errors import RunError
from ratematch.loadgen.loadresult import ClientHealth, LoadResult
from ratematch.measure.records import RequestRecord
from ratematch.plan.load import Concurrency, Load, due_times_s
from ratematch.plan.workload import Workload, draw_lengths
from ratematch.simulate.service import Reply, Service

LATE_MS = 10.0


def simulate_load(service: Service, workload: Workload, load: Load, seed: int) -> LoadResult:
    """Run ``load`` against ``service``: its warm-up to the end, then its requests.

    The same requests, lengths and instants as :func:`ratematch.loadgen.drive.drive` sends for this seed. Instants are
    ns of virtual time.

    Raises:
        RunError: the servers can never answer.
    """
    requests = draw_lengths(workload, load.num_requests, seed)
    warmup = draw_lengths(workload, load.warmup, seed + 1)
    warm = _Phase(service, workload.isl, warmup, load.num_requests)
    warm.run(load, seed + 1)
    measured = _Phase(service, workload.isl, requests, 0)
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


class _Phase:
    """Warm-up or measured part: sends, and makes records of the replies."""

    def __init__(self, service: Service, isl: int, lengths: Sequence[int], first_seq: int):
        self.records: list[RequestRecord] = []
        self._service = service
        self._isl = isl
        self._lengths = lengths
        self._first_seq = first_seq
        self._sent = self._done = self._most = 0

    def run(self, load: Load, seed: int) -> None:
        if not self._lengths:
            return
        timeline = self._service.timeline
        closed = isinstance(load, Concurrency)
        if isinstance(load, Concurrency):
            for _ in range(min(load.concurrency, len(self._lengths))):
                self._send(timeline.now_s, again=True)
        else:
            start_s = timeline.now_s
            for due_s in due_times_s(load, seed)[: len(self._lengths)].tolist():
                when_s = start_s + due_s
                timeline.at(when_s, lambda when_s=when_s: self._send(when_s, again=False))  # type: ignore[misc]
        total = len(self._lengths)
        if not timeline.run(lambda: self._done >= total):
            waiting = total - self._done
            raise RunError(
                f"{load.label}: {waiting} of {total} requests would never be answered"
                + ("; more in flight than the servers hold?" if closed else "")
            )

    def _send(self, intended_s: float, again: bool) -> None:
        number = self._sent
        self._sent += 1
        self._most = max(self._most, self._sent - self._done)
        instant_ns = round(intended_s * 1e9)
        record = RequestRecord(
            seq=self._first_seq + number,
            intended_ns=instant_ns,
            sent_ns=instant_ns,
            isl=self._isl,
            osl_requested=self._lengths[number],
        )
        self.records.append(record)

        def ended(reply: Reply) -> None:
            self._done += 1
            _fill(record, reply)
            if again and self._sent < len(self._lengths):
                self._send(self._service.timeline.now_s, again=True)

        self._service.ask(self._isl, self._lengths[number], ended)

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
