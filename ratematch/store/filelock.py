"""One process at a time, also from several machines on one shared file system.

The kernel's ``flock`` decides wherever it works: it is let go when the process dies, however it dies. Some shared
file systems grant it to everybody, or keep it apart on each machine; so the holder also writes who it is and touches
the file every few seconds, and a file that another machine touched a moment ago counts as held.

Where a file system has no ``flock`` at all (Lustre mounted without it, NFS without its lock service, some FUSE), a
second file beside it, ``NAME.claim``, takes its place: only one process can create it. That of a process that is gone
is put aside: on its own machine the list of processes says so, elsewhere its age.

What both files hold: ``host pid job``, with ``-`` for no Slurm job; empty once it was let go in order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ratematch.errors import RunError

TOUCH_S = 5.0
FRESH_S = 30.0
"""A sign of life younger than this is believed. Well above TOUCH_S: shared file systems show changes late."""

HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""What ``flock`` fails with where somebody else has the lock, and where the file system has none to give."""

Attempt = Literal["taken", "held", "no locks"]


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
        RunError: another process does; ``refusal`` with the holder in place of ``{}``. Or the file system fails.
    """
    with path.open("a+") as file, _exclusive(file.fileno(), path, refusal) as touched:
        file.seek(0)
        file.truncate()
        file.write(_own_line())
        file.flush()
        over = threading.Event()
        thread = threading.Thread(target=_keep_touching, args=(touched, over), name=f"hold {path.name}", daemon=True)
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
            attempt = try_flock(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    if attempt == "held":
        return True
    return _other_holder(path, locked=attempt == "taken") is not None


def try_flock(descriptor: int, operation: int = fcntl.LOCK_EX) -> Attempt:
    """Ask the kernel for a lock, without waiting.

    Raises:
        OSError: it fails for another reason than that somebody has it, or that there are no locks.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return "held"
        if error.errno in NO_LOCKS:
            return "no locks"
        raise
    return "taken"


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


def _own_line() -> str:
    return f"{socket.gethostname()} {os.getpid()} {own_job() or '-'}"


@contextlib.contextmanager
def _exclusive(descriptor: int, path: Path, refusal: str) -> Iterator[tuple[Path, ...]]:
    """Have ``path`` alone, by the kernel's lock or by its claim; yields the files that are to be touched."""
    kernel = _take(descriptor, path, refusal)
    if kernel == "taken":
        if holder := _other_holder(path, locked=True):
            raise RunError(refusal.format(holder))
        yield (path,)
        return
    claim = _claim_of(path)
    try:
        taken = _create_claim(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be locked here ({error.strerror})") from error
    if not taken:
        raise RunError(refusal.format(read_holder(claim) or read_holder(path) or "unknown"))
    try:
        if (holder := read_holder(path)) and _lives(path, holder):
            raise RunError(refusal.format(holder))
        yield path, claim
    finally:
        claim.unlink(missing_ok=True)


def _take(descriptor: int, path: Path, refusal: str) -> Attempt:
    # A look at the state holds the lock for an instant, so one refusal is no proof of a second process.
    for attempt in range(20):
        try:
            kernel = try_flock(descriptor)
        except OSError as error:
            raise RunError(f"{path}: cannot be locked ({error.strerror})") from error
        if kernel != "held":
            return kernel
        if attempt < 19:
            time.sleep(0.05)
    raise RunError(refusal.format(read_holder(path) or "unknown"))


def _claim_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.claim")


def _create_claim(path: Path) -> bool:
    """Create the claim of ``path``; false when somebody who lives has it.

    Raises:
        OSError: it cannot be written.
    """
    claim = _claim_of(path)
    for _ in range(20):
        with contextlib.suppress(FileExistsError), claim.open("x") as file:
            file.write(_own_line())
            return True
        if _claimant(path) is not None:
            return False
        _put_aside(claim, lambda: _is_over(claim))
    return False


def _put_aside(claim: Path, is_over: Callable[[], bool]) -> None:
    """Remove a claim that is over. Of several that try this one at a time looks and removes, so that nobody removes
    the claim that has followed meanwhile; what is left of one that died at it goes after a while."""
    taking = claim.with_name(f"{claim.name}-taking")
    try:
        taking.open("x").close()
    except FileExistsError:
        if not _is_fresh(taking):
            taking.unlink(missing_ok=True)
        time.sleep(0.005)
        return
    try:
        if is_over():
            claim.unlink(missing_ok=True)
    finally:
        taking.unlink(missing_ok=True)


def _is_over(claim: Path) -> bool:
    """Is it there, of a process that is gone? Then nobody but who removes it can change that."""
    if (holder := read_holder(claim)) is not None:
        return not _lives(claim, holder)
    return claim.exists() and not _is_fresh(claim)


def _claimant(path: Path) -> Holder | str | None:
    """Who lives and has the claim of ``path``; ``None`` when nobody has."""
    claim = _claim_of(path)
    if (holder := read_holder(claim)) is not None:
        return holder if _lives(claim, holder) else None
    return "unknown" if _is_fresh(claim) else None  # made a moment ago, and not written yet


def _other_holder(path: Path, *, locked: bool) -> Holder | str | None:
    """Who has ``path`` and is not seen by the kernel's lock. ``locked``: that lock works and nobody else has it."""
    if (claimant := _claimant(path)) is not None:
        return claimant
    holder = read_holder(path)
    lives = holder is not None and (_lives_elsewhere(path, holder) if locked else _lives(path, holder))
    return holder if lives else None


def _lives(path: Path, holder: Holder) -> bool:
    """Without the kernel's lock: is the process that ``path`` names still there?"""
    if holder.host != socket.gethostname():
        return _lives_elsewhere(path, holder)
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    # Another process may have got its number since: that one began after the last sign of life.
    return _is_fresh(path) or not _began_after(holder.pid, path)


def _began_after(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age_s > path.stat().st_mtime
    return True


def _is_fresh(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < FRESH_S
    return False


def _lives_elsewhere(path: Path, holder: Holder) -> bool:
    """Is there still somebody, on a machine whose locks and processes this kernel does not see?"""
    if holder.host == socket.gethostname():
        return False
    if holder.job is not None and holder.job == own_job():
        return False  # our own job, started anew by Slurm, which ended the earlier start first
    return _is_fresh(path)


def _keep_touching(paths: tuple[Path, ...], over: threading.Event) -> None:
    while not over.wait(TOUCH_S):
        for path in paths:
            with contextlib.suppress(OSError):
                os.utime(path)


def forget(path: Path, job: str) -> None:
    """Strike out a holder that ran in Slurm job ``job``, once Slurm has reported that the job is over."""
    with contextlib.suppress(OSError), path.open("r+") as file:
        if try_flock(file.fileno()) == "held":
            return
        holder = read_holder(path)
        if holder and holder.job == job:
            file.truncate(0)
        claim = _claim_of(path)
        claimant = read_holder(claim)
        if claimant and claimant.job == job:
            _put_aside(claim, lambda: (now := read_holder(claim)) is not None and now.job == job)
