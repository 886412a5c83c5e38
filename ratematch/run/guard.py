"""Kills what a dead driver left behind. Started by :mod:`ratematch.run.launch`, as a script of its own.

It reads a pipe whose other end only the driver holds. When the driver ends in any way, ``kill -9`` included, the read
returns, and the guard ends every process that carries the driver's mark in its environment: first SIGTERM, then
SIGKILL. Servers are recognised by the mark, not by process id, so that children of servers in sessions of their own
are ended too. An ``srun`` carries the mark under another name, and only srun is known by that one: what it has in
its environment, Slurm's plugins have as well, and pyxis must be let remove its container. Last the guard removes what
they left on the node's own disk (``ratematch-*.<name of the start>`` in its temporary folder), and the files that
hold the secret of the start. It imports nothing of ratematch, to start fast and to survive anything that breaks the
driver.

Usage: ``python -I guard.py MARK GRACE_S FOLDER_OF_SECRETS < pipe``, or ``python -I guard.py end MARK GRACE_S`` to end
them now: how a driver cleans the other nodes of its allocation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "RATEMATCH_RUN"
STEP_VARIABLE = "RATEMATCH_STEP"
"""Of an ``srun``, whose tasks have ``RATEMATCH_RUN``."""

NAME = 12
"""Characters of a mark that name its start, to servers too."""


def marked(mark: str) -> list[int]:
    """Ids of all live processes, except this one, that were started with ``RATEMATCH_RUN=mark``, and of every srun
    with ``RATEMATCH_STEP=mark``."""
    own, step = f"{VARIABLE}={mark}".encode(), f"{STEP_VARIABLE}={mark}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) == os.getpid():
                continue
            words = (folder / "environ").read_bytes().split(b"\0")
            if own in words or (step in words and (folder / "comm").read_text().strip() == "srun"):
                pids.append(int(folder.name))
    return pids


def unmarked(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the marks of a start, for what must survive its end."""
    return {key: value for key, value in environment.items() if key not in (VARIABLE, STEP_VARIABLE)}


def end(mark: str, grace_s: float) -> None:
    """SIGTERM to all that carry ``mark``, SIGKILL to those that stay ``grace_s`` longer; then what they left on this
    machine's own disk and in its shared memory goes."""
    deadline = time.monotonic() + grace_s
    _send(mark, signal.SIGTERM)
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    while marked(mark):
        _send(mark, signal.SIGKILL)
        time.sleep(0.05)
    for left in Path(os.environ.get("TMPDIR") or "/tmp").glob(f"ratematch-*.{mark[:NAME]}"):
        shutil.rmtree(left, ignore_errors=True)
    remove_shared(mark)


SHARED = Path("/dev/shm")
LEAST_MARK = 16
"""Characters of a mark that nothing else holds by chance."""


def remove_shared(mark: str) -> None:
    """Remove the shared memory whose name holds ``mark``: what servers leave that were killed, or had no time."""
    if len(mark) < LEAST_MARK:
        return
    for left in SHARED.glob(f"*{mark}*"):
        with contextlib.suppress(OSError):
            left.unlink()


def _send(mark: str, number: signal.Signals) -> None:
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def remove(folder: Path) -> None:
    """Remove ``folder`` and the files in it; nothing where there is none, or a link in its place."""
    with contextlib.suppress(OSError):
        if not folder.is_symlink():
            for file in list(folder.iterdir()):
                file.unlink()
            folder.rmdir()


def main() -> None:
    if sys.argv[1] == "end":
        end(sys.argv[2], float(sys.argv[3]))
        return
    mark, grace_s = sys.argv[1], float(sys.argv[2])
    # A terminal's Ctrl-C goes to the driver, which then stops its servers itself; the guard is for when it cannot.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    end(mark, grace_s)
    remove(Path(sys.argv[3]))


if __name__ == "__main__":
    main()
