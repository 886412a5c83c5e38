"""Clocks: which machine's they are, wall against monotonic time, and the kernel's stamps of arrived bytes."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic_ns, time_ns

_STEP_NS = 100_000
"""Two readings of the offset may lie so far apart by an interruption between their clocks; further is looked at."""


def wall_offset_ns() -> int:
    """Wall clock minus monotonic clock of this machine: of a few readings the one that was interrupted least."""
    best_ns, offset_ns = 1 << 62, 0
    for _ in range(8):
        before_ns, wall_ns, after_ns = monotonic_ns(), time_ns(), monotonic_ns()
        if after_ns - before_ns < best_ns:
            best_ns, offset_ns = after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2
    return offset_ns


def boot_id() -> str:
    """Tells machines apart whose monotonic clocks have nothing in common."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename


class KernelClock:
    """From the wall clock, by which the kernel stamps what arrives, to the monotonic one of records.

    Both run alike (time servers slow down or speed up both), so their difference is a constant until somebody sets
    the wall clock; :meth:`offset_ns` is called before each batch of reads to notice that.
    """

    def __init__(self) -> None:
        self._offset_ns = wall_offset_ns()

    def offset_ns(self) -> int | None:
        """What to take from a kernel's stamp; ``None`` when the wall clock was set since the last call, so that
        stamps of what has arrived meanwhile mean nothing."""
        seen_ns = time_ns() - monotonic_ns()
        if -_STEP_NS < seen_ns - self._offset_ns < _STEP_NS:
            return self._offset_ns
        before_ns, self._offset_ns = self._offset_ns, wall_offset_ns()
        return self._offset_ns if abs(self._offset_ns - before_ns) < _STEP_NS else None
