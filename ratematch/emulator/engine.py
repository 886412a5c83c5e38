"""The clock of a worker: runs the pure scheduler in real time and hands tokens to whoever waits for them.

Steps end at absolute deadlines. A step that follows another without a gap starts at the planned end of that one, not
at the instant the event loop woke up, so late wake-ups do not add up. When the loop cannot keep up, results made with
this emulator are not trustworthy; how late it was is counted (``EmulatorLag``) and shown in ``/server_info``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ratematch.emulator.admission import Admissions, check_gate
from ratematch.emulator.scheduler import Scheduler, Sequence, Step

MAX_CATCH_UP_S = 1.0
"""Furthest the planned clock may fall behind the real one before the difference is given up as lost time."""


TOLERATED_LATE_SHARE = 0.02
"""Share of the busy time; less than repeated loads differ from each other."""


class Sink(Protocol):
    """Where the tokens of one sequence go. Called from the engine's pass over a finished step; must not block."""

    def push(self, tokens: int, finished: bool, at_s: float) -> None: ...

    def fail(self, message: str) -> None: ...


@dataclass
class EmulatorLag:
    """How well real time kept up with planned time.

    ``steps``, ``busy_s``: steps run and their planned seconds. ``behind``: steps that ended later than planned by
    more than their own length. ``late_s``: seconds by which the loop fell behind beyond that, each counted once.
    ``max_late_s``: worst single end. ``lost_s``: given up after more than ``MAX_CATCH_UP_S``.
    """

    steps: int = 0
    busy_s: float = 0.0
    behind: int = 0
    late_s: float = 0.0
    max_late_s: float = 0.0
    lost_s: float = 0.0

    @property
    def trustworthy(self) -> bool:
        """The loop fell behind by no more than ``TOLERATED_LATE_SHARE`` of the busy time and gave none up."""
        return self.lost_s == 0.0 and self.late_s <= TOLERATED_LATE_SHARE * self.busy_s


class Engine:
    """Drives one ``Scheduler`` from an asyncio loop.

    ``on_step(step, start_s, end_s)`` is called after each step with planned times on the monotonic clock.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        on_step: Callable[[Step, float, float], None] | None = None,
        on_late: Callable[[float], None] | None = None,
    ):
        self.scheduler = scheduler
        self.lag = EmulatorLag()
        self.hanging = False
        self.stall_until_s = 0.0
        self._on_step = on_step
        self._on_late = on_late
        self._sinks: dict[int, Sink] = {}
        self._admissions = Admissions()
        self._excess_s = 0.0
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Sequences whose answer is not finished."""
        return len(self._sinks)

    def submit(self, sequence: Sequence, sink: Sink, on_admitted: Callable[[], None] | None = None) -> None:
        """Queue a sequence; its tokens go to ``sink`` until it is finished or cancelled.

        ``on_admitted`` is called once the sequence has a slot and KV blocks, which is when a KV transfer begins.
        """
        self.scheduler.add(sequence, time.monotonic())
        self._sinks[sequence.id] = sink
        if on_admitted is not None:
            self._admissions.expect(sequence, on_admitted)
        self._wake.set()

    def fail(self, sequence_id: int, message: str) -> None:
        """End a sequence with an error."""
        sink = self._sinks.get(sequence_id)
        self.cancel(sequence_id)
        if sink is not None:
            sink.fail(message)

    def cancel(self, sequence_id: int) -> None:
        """Forget a sequence whose client is gone; unknown ids are ignored."""
        if self._sinks.pop(sequence_id, None) is not None:
            self.scheduler.cancel(sequence_id)
            self._wake.set()

    def release(self, sequence_id: int) -> None:
        """Free the KV blocks a finished context-only sequence still holds."""
        self.scheduler.release(sequence_id)
        self._wake.set()

    def stall(self, duration_s: float) -> None:
        """Run no step for so long from now on (fault injection)."""
        self.stall_until_s = time.monotonic() + duration_s
        self._wake.set()

    async def run(self) -> None:
        """Run steps until cancelled."""
        clock = time.monotonic
        start_s = clock()
        while True:
            self._wake.clear()
            if self.hanging or clock() < self.stall_until_s:
                await self._sleep(None if self.hanging else self.stall_until_s)
                start_s = clock()
                continue
            step = self.scheduler.begin(start_s)
            self._admissions.notify()
            if step is None:
                check_gate(self.scheduler)
                await self._sleep(self.scheduler.wake_s())
                start_s = clock()
                continue
            end_s = start_s + step.duration_s
            await asyncio.sleep(max(0.0, end_s - clock()))
            self._finish(step, start_s, end_s)
            start_s = self._next_start(clock(), end_s, step.duration_s)

    async def _sleep(self, until_s: float | None) -> None:
        """Until something changes or the monotonic clock shows ``until_s``."""
        if until_s is None:
            await self._wake.wait()
            return
        timer = asyncio.get_running_loop().call_later(max(0.0, until_s - time.monotonic()), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _finish(self, step: Step, start_s: float, end_s: float) -> None:
        for emission in self.scheduler.finish(step, end_s):
            sink = self._sinks.get(emission.seq.id)
            if sink is None:
                continue
            if emission.finished:
                del self._sinks[emission.seq.id]
            sink.push(emission.tokens, emission.finished, end_s)
        if self._on_step is not None:
            self._on_step(step, start_s, end_s)

    def _next_start(self, now_s: float, end_s: float, duration_s: float) -> float:
        late_s = now_s - end_s
        kept = self.lag
        kept.steps += 1
        kept.busy_s += duration_s
        excess_s = max(0.0, late_s - duration_s)
        kept.late_s += max(0.0, excess_s - self._excess_s)
        self._excess_s = excess_s
        if not excess_s:
            return end_s
        kept.behind += 1
        kept.max_late_s = max(kept.max_late_s, late_s)
        if self._on_late is not None:
            self._on_late(late_s)
        if late_s <= MAX_CATCH_UP_S:
            return end_s
        kept.lost_s += late_s
        self._excess_s = 0.0
        return now_s
