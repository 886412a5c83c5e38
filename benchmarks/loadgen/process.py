"""CPU and memory of a client and all its processes, sampled from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PERIOD_S = 0.1
MEMORY_EVERY = 10
ALL_EVERY = 10


@dataclass(frozen=True)
class Ran:
    """One client's run. ``cpu``: (instant ns, CPU seconds so far) of its whole session of processes."""

    began_ns: int
    status: int | None
    cpu: list[tuple[int, float]]
    peak_mb: float
    output: str

    def cpu_between(self, start_ns: float, end_ns: float) -> float:
        at, used = np.array(self.cpu).T
        return float(np.interp(end_ns, at, used) - np.interp(start_ns, at, used))

    @property
    def cpu_s(self) -> float:
        return self.cpu[-1][1]


def run_client(argv: Sequence[str], cwd: Path, environment: Mapping[str, str], limit_s: float) -> Ran:
    """Run to its end, or cut it at ``limit_s`` (status ``None``)."""
    log = cwd / "log"
    with log.open("w") as file:
        began_ns = time.monotonic_ns()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        status: int | None
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            sampler.over.set()
            sampler.join()
            _end_session(process.pid)
            process.wait()
    return Ran(began_ns, status, sampler.cpu, sampler.peak_mb, log.read_text(errors="replace"))


def _end_session(session: int) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        left = _pids(session)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, kind)
        if left and kind == signal.SIGTERM:
            time.sleep(1)


def _pids(session: int) -> list[int]:
    return [pid for pid, _ in _stats(session)]


def _stats(session: int, among: Iterable[int] | None = None) -> list[tuple[int, float]]:
    """(pid, CPU seconds, those of children that it has waited for included) of every process of a session, or of
    those of ``among`` that still are."""
    found = []
    for pid in among if among is not None else (int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((pid, sum(map(int, fields[11:15])) * TICK_S))
    return found


class _Sampler(threading.Thread):
    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.over = session, threading.Event()
        self.cpu: list[tuple[int, float]] = [(time.monotonic_ns(), 0.0)]
        self.peak_mb = 0.0

    def run(self) -> None:
        turn = 0
        known: list[int] = []
        most = 0.0
        while True:
            last = self.over.wait(PERIOD_S)
            # A look at all processes of the machine takes milliseconds of a core that client and server want.
            everybody = turn % ALL_EVERY == 0 or last
            stats = _stats(self.session, None if everybody else known)
            known = [pid for pid, _ in stats]
            # A process that ends moves its time to its parent: the sum can only dip for a moment.
            most = max(most, sum(used for _, used in stats))
            self.cpu.append((time.monotonic_ns(), most))
            if turn % MEMORY_EVERY == 0 or last:
                self.peak_mb = max(self.peak_mb, sum(_pss_mb(pid) for pid, _ in stats))
            turn += 1
            if last:
                return


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
