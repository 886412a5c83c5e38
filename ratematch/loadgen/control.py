"""How a load is followed and ended while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ratematch.loadgen.loadresult import Progress


@dataclass(frozen=True)
class LoadControl:
    """What holds for every phase of a load and every process that sends it.

    ``stop``: when set, the load ends early and the requests in flight are recorded as ``cancelled``. ``drain``: when
    set, no further request is begun and those in flight are waited for. ``on_progress`` is called about every
    ``progress_s`` seconds in the load's thread and must be quick; what it raises ends the load.

    ``give_up_after``: connect errors in a row after which the load ends. ``late_ms``: from this lateness on a send
    counts as late. ``backlog_bytes``: answers are decoded while the load runs when more memory than this has piled
    up. ``folder``: where records are kept that memory should not hold while the load runs, in files without a name;
    ``None`` = where the system keeps large ones.
    """

    stop: threading.Event | None = None
    drain: threading.Event | None = None
    on_progress: Callable[[Progress], None] | None = None
    progress_s: float = 0.5
    give_up_after: int = 32
    late_ms: float = 10.0
    backlog_bytes: int = 48 << 20
    folder: Path | None = None

    @property
    def stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    @property
    def draining(self) -> bool:
        return self.drain is not None and self.drain.is_set()
