"""One process at a time, also from several machines on one shared file system.

The kernel's ``flock`` decides wherever it works: it is let go when the process dies, however it dies. Some shared
file systems grant it to everybody, or keep it apart on each machine; so the holder also writes who it is and touches
the file every few seconds, and a file that another machine touched a moment ago counts as held.

What the file holds: ``host pid job``, with ``-`` for no Slurm job; empty once it was let go in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratematch.errors import RunError

TOUCH_S = 5.0
FRESH_S = 30.0
"""A sign of life younger than this is believed. Well above TOUCH_S: shared file systems show changes late."""


@dataclass(frozen=True)
class Holder:
    """Who holds, or last held, a lock. ``job``: its Slurm job, if it runs in one."""

    host: str
    pid: int
    job: str | None

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"pid {self.pid} on {self.host}{job}"


@contextlib.contextmanager
def hold(path: Path, refusal: str) -> Iterator[None]:
    """Hold ``path``.

    Raises:
        RunError: another process does; ``refusal`` with the holder in place of ``{}``.
    """
    with path.open("a+") as file:
        _take(file.fileno(), path, refusal)
        holder = read_holder(path)
        if holder and _lives_elsewhere(path, holder):
            raise RunError(refusal.format(holder))
        file.seek(0)
        file.truncate()
        file.write(f"{socket.gethostname()} {os.getpid()} {own_job() or '-'}")
        file.flush()
        over = threading.Event()
        thread = threading.Thread(target=_keep_touching, args=(path, over), name=f"hold {path.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            file.truncate(0)


def is_held(path: Path) -> bool:
    """Does a live process hold ``path``?"""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    holder = read_holder(path)
    return holder is not None and _lives_elsewhere(path, holder)


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock, or held it when it died; ``None`` when it was let go in order."""
    try:
        host, pid, job = path.read_text().split()
        return Holder(host, int(pid), None if job == "-" else job)
    except (OSError, ValueError):
        return None


def own_job() -> str | None:
    """The Slurm job that this process runs in, as the queue names it: ``123``, or ``123_4`` for an array's task."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _take(descriptor: int, path: Path, refusal: str) -> None:
    # A look at the state holds the lock for an instant, so one refusal is no proof of a second process.
    for attempt in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if attempt == 19:
                raise RunError(refusal.format(read_holder(path) or "unknown")) from error
            time.sleep(0.05)


def _lives_elsewhere(path: Path, holder: Holder) -> bool:
    """With the kernel's lock in hand: is there still somebody, on a machine whose locks this kernel does not see?"""
    if holder.host == socket.gethostname():
        return False
    if holder.job is not None and holder.job == own_job():
        return False  # our own job, started anew by Slurm, which ended the earlier start first
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < FRESH_S
    return False


def _keep_touching(path: Path, over: threading.Event) -> None:
    while not over.wait(TOUCH_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def forget(path: Path, job: str) -> None:
    """Strike out a holder that ran in Slurm job ``job``, once Slurm has reported that the job is over."""
    with contextlib.suppress(OSError), path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = read_holder(path)
        if holder and holder.job == job:
            file.truncate(0)
