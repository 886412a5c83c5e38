"""What shows while servers start that they will never be ready, so that no GPU waits for the deadline.

Three signs: a process that has ended (:meth:`ratematch.run.launch.Servers.check`); a line after which a server never
comes up, whatever it does (``given_up``); and a cause of failure in a log after which no server has written a line
for :data:`SILENT_S`: a rank that failed, and others that wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SILENT_S = 45.0
"""Longer than servers mostly are silent with nothing wrong; what they are silent for longer in (weights from a slow
disk, a large compilation) has no cause of failure before it."""


def never(text: str) -> bool:
    """No line says so."""
    return False


def nothing(logs: Sequence[str]) -> None:
    """No cause is known."""


@dataclass
class StartSigns:
    """``given_up``: does a log say that its server will never be ready? ``root_cause``: of failure, in whole logs,
    that no later line shows to have been dealt with; ``None`` for none."""

    given_up: Callable[[str], bool] = never
    root_cause: Callable[[Sequence[str]], object] = nothing
    silent_s: float = SILENT_S
    _size: int = field(default=-1, init=False)
    _since: float = field(default=0.0, init=False)
    _looked: bool = field(default=False, init=False)

    def fell_silent(self, logs: Sequence[Path]) -> object:
        """The cause of failure after which none of the servers with these ``logs`` has written for ``silent_s``;
        ``None`` while there is none. To be asked again and again during a start."""
        size = sum(log.stat().st_size for log in logs if log.exists())
        if size != self._size:
            self._size, self._since, self._looked = size, time.monotonic(), False
        if self._looked or time.monotonic() - self._since < self.silent_s:
            return None
        self._looked = True  # once a silence: nothing new can be in them
        return self.root_cause([log.read_text(encoding="utf-8", errors="replace") for log in logs if log.exists()])
