"""What a server does around its scheduler, whatever its clock: tell who is admitted, see that the fill gate opens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ratematch.emulator.scheduler import Scheduler, Sequence


class EngineFailure(RuntimeError):
    """The executor cannot go on; the server ends."""


class Admissions:
    """Who is to be told when a sequence has a slot and KV blocks, which is when its KV transfer begins."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Sequence, Callable[[], None]]] = deque()

    def expect(self, sequence: Sequence, tell: Callable[[], None]) -> None:
        """Call ``tell`` once ``sequence``, which was just queued, is admitted."""
        self._waiting.append((sequence, tell))

    def tell(self) -> None:
        """Admission is first come, first served, so only the oldest can be next."""
        waiting = self._waiting
        while waiting and (waiting[0][0].admitted_s is not None or waiting[0][0].state == "cancelled"):
            sequence, tell = waiting.popleft()
            if sequence.state != "cancelled":
                tell()


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
