"""Virtual time: what happens next, in order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

LAST = 1
"""Order of what must come after everything else of the same instant."""


class Timeline:
    """A clock that jumps from one event to the next. Seconds from its own start."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when_s: float, event: Callable[[], None], order: int = 0) -> None:
        """Call ``event`` at ``when_s``, or now when that has passed; of one instant by ``order``, then as entered."""
        heapq.heappush(self._events, (max(when_s, self.now_s), order, next(self._numbers), event))

    def run(self, until: Callable[[], bool]) -> bool:
        """Let events happen until ``until`` says so after one; false when there are none left before."""
        events = self._events
        while events:
            self.now_s, _, _, event = heapq.heappop(events)
            event()
            if until():
                return True
        return until()
