"""What a server does around its scheduler, whatever its clock: notices of admission, and a check of the fill gate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ratematch.emulator.scheduler import Scheduler, Sequence


class EngineFailure(RuntimeError):
    """The executor cannot go on; the server ends."""


class Admissions:
    """Calls to make when sequences get a slot and KV blocks, which is when their KV transfers begin."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Sequence, Callable[[], None]]] = deque()

    def expect(self, sequence: Sequence, on_admitted: Callable[[], None]) -> None:
        """Call ``on_admitted`` once ``sequence``, which was just queued, is admitted."""
        self._waiting.append((sequence, on_admitted))

    def notify(self) -> None:
        """Make the calls that are due. Admission is first come, first served, so only the oldest can be next."""
        waiting = self._waiting
        while waiting and (waiting[0][0].admitted_s is not None or waiting[0][0].state == "cancelled"):
            sequence, on_admitted = waiting.popleft()
            if sequence.state != "cancelled":
                on_admitted()


def check_gate(scheduler: Scheduler) -> None:
    """A fill gate beyond the slots waits for ever without a word, as the engine does; one that KV memory alone
    keeps from opening is an error.

    Raises:
        EngineFailure: the gate can never open.
    """
    config = scheduler.config
    if config.fill_gate is None or config.fill_gate > config.slots * config.mapping.dp_ranks:
        return
    if problem := scheduler.gate_problem():
        raise EngineFailure(problem)
