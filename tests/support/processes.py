"""Real processes for tests of what starts and ends them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ratematch.loadgen.cores import threads_of


def wait_until(true: Callable[[], object], what: str, seconds: float = 60.0, every_s: float = 0.05) -> None:
    """Look until ``true()``; a test that waits for something that never comes fails with ``what``.

    ``every_s``: between two looks; longer where a look starts a process: those that wait would else take the machine
    from those that they wait for.
    """
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(every_s)


def processes_with(word: str) -> Iterator[tuple[int, str]]:
    """Ids and command lines of live processes whose command line or environment holds ``word``.

    Looked through again and again while tests wait, beside three clusters' processes: without a path for each.
    """
    wanted, own = word.encode(), os.getpid()
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:  # noqa: PTH208
        with contextlib.suppress(OSError):
            command = _read(f"/proc/{pid}/cmdline")
            if pid != own and (wanted in command or wanted in _read(f"/proc/{pid}/environ")):
                yield pid, command.replace(b"\0", b" ").decode(errors="replace")


def _read(file: str) -> bytes:
    with open(file, "rb", buffering=0) as opened:  # noqa: PTH123
        return opened.read()


def cpus_of(pids: Iterable[int]) -> frozenset[int]:
    """CPUs that any thread of the processes may use."""
    found: set[int] = set()
    for thread in threads_of(pids):
        with contextlib.suppress(ProcessLookupError):
            found |= os.sched_getaffinity(thread)
    return frozenset(found)


def name_of(pid: int) -> str:
    """The kernel's name of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def processes_in(folder: Path) -> list[int]:
    """Ids of live processes whose working directory is ``folder``."""
    ids = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder:
                ids.append(int(process.name))
    return ids
