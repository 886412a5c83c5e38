"""One stretch of a load, warm-up or measured: requests sent on schedule, watched, and turned into records."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from time import monotonic_ns

import numpy as np

from ratematch.loadgen.client import Exchange, Target, exchange_bytes
from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.finish import finish_record, redact
from ratematch.loadgen.generate import is_generate
from ratematch.loadgen.loadresult import Ended, Progress
from ratematch.loadgen.pool import ConnectionPool
from ratematch.loadgen.schedule import Chain, Part
from ratematch.loadgen.sendgate import SendGate
from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.columns import Columns
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import RequestSpec
from ratematch.store.recordlog import RecordLog

_TICK_S = 0.05
"""How often the watch looks at the stop event, at time limits and at its own lateness."""

_SENDS_AT_ONCE = 8
"""Sends begun between two looks at the sockets. Closed-loop requests of equal length end together; hundreds of sends
in one go would hold up reads by tens of milliseconds: what is stamped on reading would be late, and what the kernel
stamps might be read as one."""

_NEVER_NS = 1 << 62

_EXCHANGE_B = 2048
"""Bytes of an exchange that waits to be decoded, beside what came over the wire and its prompt."""

_TURN_NS, _LONGEST_TURN_NS = 200_000, 5_000_000
"""Time for decoding between two looks at the sockets, and the most of it."""

_RECENT = 64
"""Answers behind the TTFT shown while a load runs."""


class Phase:
    """Runs once. ``aborted`` says why it ended early; ``records()`` gives the records in the order of sending, once.

    What is kept of a request that is over is its record, in the log's file, and 8 bytes here.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        pool: ConnectionPool,
        control: LoadControl,
        aborted: str | None = None,
    ) -> None:
        self.name, self.aborted = name, aborted
        self.start_ns = self.end_ns = monotonic_ns()
        self._target, self._pool, self._control = target, pool, control
        self._in_flight: dict[Exchange, None] = {}
        self._log = RecordLog(control.folder)
        self._backlog: deque[Exchange] = deque()
        self._backlog_bytes = 0
        self._backlog_grew = asyncio.Event()
        self._send_gate = SendGate(_SENDS_AT_ONCE)
        self._loop_lags_ms, self._send_lags_ns = array("d"), array("q")
        self._busy_ns = 0
        self._recent_ttft_ms: deque[float] = deque(maxlen=_RECENT)
        self._recent_tpot_ms: deque[float] = deque(maxlen=_RECENT)
        self._begun = self._done = self._failed = self._tokens = self._refused_in_a_row = self._max_in_flight = 0
        self._ended: list[Ended] = []
        self._total = 0
        self._last_send_ns, self._last_end_ns = _NEVER_NS, 0
        self._cpu_s = 0.0

    async def run(self, part: Part, start_ns: int | None = None) -> None:
        """Send every request of ``part``, from ``start_ns`` on (now), and wait for the last answer, or end early."""
        self._total = part.total
        self.start_ns = monotonic_ns() if start_ns is None else start_ns
        watch = asyncio.create_task(self._watch())
        decoder = asyncio.create_task(self._decode_when_full())
        cpu_s = time.process_time()
        closed = isinstance(part.load, Concurrency)
        sending = asyncio.create_task(self._closed_loop(part) if closed else self._open_loop(part))
        try:
            # The watch ends first only when it fails: what `on_progress` raises must not be lost.
            await asyncio.wait((sending, watch, decoder), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._cpu_s = time.process_time() - cpu_s
            if not sending.done():
                self._stop("the client failed")
                await asyncio.wait((sending,))
            self.end_ns = max(self.start_ns, self._last_end_ns)
            watch.cancel()
            decoder.cancel()
            outcomes = await asyncio.gather(sending, watch, decoder, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
        if self._control.on_progress is not None:
            self._control.on_progress(self._progress())

    async def _closed_loop(self, part: Part) -> None:
        if isinstance(part.load, Concurrency) and part.load.seconds:
            self._last_send_ns = self.start_ns + round(part.load.seconds * 1e9)
        starts_ns = [self.start_ns + offset_ns for offset_ns in part.slot_offsets_ns]
        await asyncio.gather(*(self._slot(part.chains, free_ns) for free_ns in starts_ns))

    async def _slot(self, chains: Iterator[Chain], free_ns: int) -> None:
        await _sleep_until(free_ns)
        while not self._over():
            chain = next(chains, None)
            if chain is None:
                return
            free_ns = await self._run_chain(chain, free_ns)

    async def _open_loop(self, part: Part) -> None:
        sends: set[asyncio.Task[int]] = set()
        most = part.max_in_flight
        gate = asyncio.Semaphore(most) if most else None
        for chain, due_ns in zip(part.chains, part.due_ns, strict=True):
            intended_ns = self.start_ns + due_ns
            await _sleep_until(intended_ns, self._over)
            if self._over():
                break
            send = asyncio.create_task(self._run_chain(chain, intended_ns, gate))
            sends.add(send)
            send.add_done_callback(sends.discard)
        if sends:
            await asyncio.gather(*sends)

    async def _run_chain(self, chain: Chain, intended_ns: int, gate: asyncio.Semaphore | None = None) -> int:
        """Send one request, or the turns of one conversation, each when the one before has ended; return the end."""
        for spec, body in chain:
            if spec.turn:
                intended_ns += round(spec.delay_s * 1e9)
                await _sleep_until(intended_ns, self._over)
                if self._over():
                    break
            async with gate or nullcontext():
                if self.aborted is not None:
                    break
                intended_ns = await self._send(spec, body, intended_ns)
        return intended_ns

    def _over(self) -> bool:
        """Is no further request to be begun?"""
        if self.aborted is not None or monotonic_ns() >= self._last_send_ns:
            return True
        return self._control.draining

    async def _send(self, spec: RequestSpec, body: bytes, intended_ns: int) -> int:
        """Send one request, wait for its end and return the instant of it."""
        counted = not is_generate(self._target.api)
        exchange = Exchange(spec, intended_ns, self._begun, task=asyncio.current_task(), counted=counted)
        self._begun += 1
        self._in_flight[exchange] = None
        self._max_in_flight = max(self._max_in_flight, len(self._in_flight))
        try:
            await exchange_bytes(self._pool, body, exchange, self._send_gate)
        finally:
            del self._in_flight[exchange]
        self._note_end(exchange)
        return exchange.end_ns or monotonic_ns()

    def _note_end(self, exchange: Exchange) -> None:
        self._done += 1
        end_ns = exchange.end_ns or monotonic_ns()
        self._last_end_ns = max(self._last_end_ns, end_ns)
        if exchange.sent_ns is not None:
            self._send_lags_ns.append(exchange.sent_ns - exchange.intended_ns)
            self._busy_ns += end_ns - exchange.sent_ns
        tokens, complete = exchange.first_look()
        self._tokens += tokens
        self._failed += not complete
        first_ns = exchange.first_body_ns
        if first_ns is not None and exchange.sent_ns is not None:
            last_ns = exchange.stamps[-1]
            self._recent_ttft_ms.append((first_ns - exchange.sent_ns) / 1e6)
            if tokens > 1:
                self._recent_tpot_ms.append((last_ns - first_ns) / 1e6 / (tokens - 1))
            if complete and self._control.on_progress is not None:
                self._ended.append(Ended(exchange.intended_ns, exchange.sent_ns, first_ns, last_ns, tokens))
        refused = exchange.failure is not None and exchange.failure[0] == "connect_error"
        self._refused_in_a_row = self._refused_in_a_row + 1 if refused else 0
        if self._refused_in_a_row >= self._control.give_up_after and exchange.failure is not None:
            last = redact(exchange.failure[1], self._target)
            self._stop(f"{self._refused_in_a_row} connect errors in a row, the last: {last}")
        self._backlog.append(exchange)
        self._backlog_bytes += _size(exchange)
        if self._backlog_bytes > self._control.backlog_bytes:
            self._backlog_grew.set()

    def _stop(self, reason: str) -> None:
        if self.aborted is None:
            self.aborted = reason
            for exchange in list(self._in_flight):
                exchange.cut("cancelled", f"the load was stopped: {reason}")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        next_progress = loop.time() + self._control.progress_s
        next_look = 0.0
        while True:
            due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            self._loop_lags_ms.append(max(0.0, (now - due) * 1e3))
            if self._control.stopped:
                self._stop("stopped on request")
            if (complaint := self._log.complaint) is not None:
                self._stop(complaint)
            if now >= next_look:
                next_look = now + self._cut_overdue()
            if self._control.on_progress is not None and now >= next_progress:
                next_progress = now + self._control.progress_s
                self._control.on_progress(self._progress())

    def _cut_overdue(self) -> float:
        """Cut requests over a time limit; return the seconds until the next look."""
        now = monotonic_ns()
        timeout_s, stall_s = self._target.timeout_s, self._target.idle_s
        from_sending = is_generate(self._target.api)
        for exchange in list(self._in_flight):
            begun_ns = exchange.sent_ns or exchange.begun_ns
            if now - begun_ns > timeout_s * 1e9:
                exchange.cut("timeout", f"no end after {timeout_s:g} s")
            elif stall_s is not None and (from_sending or exchange.first_body_ns is not None):
                since_ns = exchange.stamps[-1] if exchange.stamps else begun_ns
                if now - since_ns > stall_s * 1e9:
                    why = f"stalled: no bytes for {stall_s:g} s after {len(exchange.stamps)} reads"
                    exchange.cut("timeout", why)
        shortest_s = timeout_s if stall_s is None else min(timeout_s, stall_s)
        return min(1.0, shortest_s / 20)

    async def _decode_when_full(self) -> None:
        while True:
            await self._backlog_grew.wait()
            self._backlog_grew.clear()
            await self._decode_backlog()

    async def _decode_backlog(self) -> None:
        turn_over_ns = self._turn_over_ns()
        while self._backlog:
            for _ in self._decode(self._backlog[0]):
                if monotonic_ns() >= turn_over_ns:
                    await asyncio.sleep(0)
                    turn_over_ns = self._turn_over_ns()

    def _turn_over_ns(self) -> int:
        """Until when answers are decoded before the sockets are looked at again: the more of them wait, the longer,
        so that those of a load that fills this process do not pile up."""
        much = max(1.0, self._backlog_bytes / self._control.backlog_bytes)
        return monotonic_ns() + min(_LONGEST_TURN_NS, round(_TURN_NS * much**2))

    def _decode(self, exchange: Exchange) -> Iterator[None]:
        """Turn the first of the backlog into its record, in small steps."""
        size = _size(exchange)
        # Left in the queue until it is done: a cancellation in between must not lose it.
        record = yield from finish_record(exchange, self._target)
        self._backlog.popleft()
        self._backlog_bytes -= size
        yield from self._log.add(exchange.number, record)
        yield

    async def records(self) -> Columns:
        """The record of every request that was begun, in the order of their sending."""
        await self._decode_backlog()
        if (complaint := self._log.complaint) is not None and self.aborted is None:
            self.aborted = complaint
        return self._log.close()

    def _progress(self) -> Progress:
        ended, self._ended = tuple(self._ended), []
        return Progress(
            phase=self.name,
            total=self._total,
            sent=self._begun,
            done=self._done,
            failed=self._failed,
            in_flight=len(self._in_flight),
            tokens=self._tokens,
            elapsed_s=(monotonic_ns() - self.start_ns) / 1e9,
            ttft_ms=float(np.median(self._recent_ttft_ms)) if self._recent_ttft_ms else None,
            tpot_ms=float(np.median(self._recent_tpot_ms)) if self._recent_tpot_ms else None,
            ended=ended,
        )

    def health(self, event_loop: str) -> ClientHealth:
        """How the client itself did; after the phase has run."""
        lags_ms = np.array(self._send_lags_ns) / 1e6
        wall_ns = max(1, self.end_ns - self.start_ns)
        return ClientHealth(
            cpu_share=self._cpu_s * 1e9 / wall_ns,
            loop_lag_p99_ms=float(np.percentile(self._loop_lags_ms, 99)) if self._loop_lags_ms else 0.0,
            loop_lag_max_ms=max(self._loop_lags_ms, default=0.0),
            max_in_flight=self._max_in_flight,
            mean_in_flight=self._busy_ns / wall_ns,
            late_sends=int((lags_ms > self._control.late_ms).sum()),
            late_ms=self._control.late_ms,
            send_lag_p99_ms=float(np.percentile(lags_ms, 99)) if len(lags_ms) else None,
            at_transport=True,
            kernel_stamped=self._pool.kernel_stamped,
            event_loop=event_loop,
        )


def _size(exchange: Exchange) -> int:
    """Bytes of memory that it holds, about."""
    return len(exchange.wire) + exchange.spec.prompt.nbytes + 16 * len(exchange.stamps) + _EXCHANGE_B


async def _sleep_until(instant_ns: int, given_up: Callable[[], bool] | None = None) -> None:
    """Return at ``instant_ns`` of the monotonic clock or just after, never before; at once when it has passed.

    Absolute: lateness of one sleep is never carried into the next. Wakes now and then to ask ``given_up``.
    """
    while (left_ns := instant_ns - monotonic_ns()) > 0:
        if given_up is not None and given_up():
            return
        # uvloop rounds timers to whole milliseconds, also down: the rest is a turn or two of the loop.
        await asyncio.sleep(min(left_ns / 1e9, 10 * _TICK_S) if left_ns > 1_000_000 else 0)
