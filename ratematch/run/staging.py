"""Keeps a copy of a model's weights on a node's own disk for as long as its input stays open. A script of its own.

One runs on each node of a job, as a step beside the servers. It imports nothing of ratematch, so that any Python of
the nodes will do::

    python3 -I staging.py SOURCE COPY LIMIT_B keep|remove < pipe        LIMIT_B: 0 = what the disk has free

It writes lines: ``ready NODE``, when the copy is whole; ``progress NODE BYTES OF``; ``waiting NODE why``; ``refused
NODE why``, before it ends with exit code 3.

``COPY`` is the one folder in one of its own, say ``DIR``. Beside that lie ``DIR.json`` (what it must hold: name, size
and time of every file of ``SOURCE``) and ``DIR.lock``. A copy is made in ``DIR.part``, which is renamed when each of
its files has its size, and sizes are looked at again before every use: what a killed job left half done is never
used. Whoever uses a copy holds a shared lock of it, whoever makes or removes one an exclusive one, so two jobs of a
node copy once and remove nothing of each other's; the kernel takes the locks from a process that dies. What nobody
holds any more, and was not to be kept, goes when the next copy is made here. Where copies would take more than the
limit together, those that are not in use go, the one that was used longest ago first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_B = 16 << 20
AT_ONCE = 8
"""Files that are copied beside each other: a parallel file system gives one reader a part of what it can."""
POLL_S = 0.3
REPORT_S = 2.0
REFUSED = 3
OURS = re.compile(r"-[0-9a-f]{10}$")
"""How the name of a copy ends; other files of the folder are somebody's own."""

Entry = tuple[str, int, int]
"""Name below the folder, bytes, time of the last change in nanoseconds."""


class Refused(Exception):
    """It cannot be done here; in one line."""


class Ended(Exception):
    """The input was closed, or a signal came."""


def list_files(source: Path) -> list[Entry]:
    """Every file below ``source``, links followed: the hub's cache is made of them.

    Raises:
        Refused: it is no folder, has no files, or one that is no plain file.
    """
    if not source.is_dir():
        raise Refused(f"{source} is no folder that this node sees")
    entries = []
    for folder, _, names in os.walk(source, followlinks=True):
        for name in names:
            file = Path(folder, name)
            try:
                status = file.stat()
            except OSError as error:
                raise Refused(f"{file} cannot be read ({error.strerror})") from error
            if not file.is_file():
                raise Refused(f"{file} is no plain file")
            entries.append((str(file.relative_to(source)), status.st_size, status.st_mtime_ns))
    if not entries:
        raise Refused(f"{source} holds no files")
    return sorted(entries)


class Copy:
    """The copy of ``source`` in the folder ``copy`` below one of its own (``path``), and others beside that."""

    def __init__(self, source: Path, copy: Path, limit_b: int, keep: bool):
        self.source, self.path, self.limit_b, self.keep = source, copy.parent, limit_b, keep
        self._name = copy.name
        self.ended = threading.Event()
        self.node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self.copied_b = self._of_b = 0
        self._failed = threading.Event()
        self._counting = threading.Lock()
        self._reported = 0.0
        self._waited = False

    def report(self, word: str, text: str = "") -> None:
        sys.stdout.write(f"{word} {self.node} {text}".rstrip() + "\n")
        sys.stdout.flush()

    def hold(self) -> None:
        """Have the copy, keep it until the end, and leave it as it should be left.

        Raises:
            Refused, OSError: it cannot be made. Ended: before it was whole.
        """
        entries = list_files(self.source)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self.ended.is_set():
            with self._locked(fcntl.LOCK_SH) as file:
                if file is None:
                    continue
                if self._is_whole(entries):
                    os.utime(beside(self.path, "json"))
                    self.report("ready")
                    self.ended.wait()
                    self._leave(file)
                    return
            with self._locked(fcntl.LOCK_EX) as file:
                # Another that made it meanwhile shares its lock until its job ends: then it is looked at again.
                if file is not None and not self._is_whole(entries):
                    try:
                        self._make(entries)
                    except BaseException:
                        beside(self.path, "lock").unlink()
                        raise
        raise Ended

    def _is_whole(self, entries: list[Entry]) -> bool:
        if read_entries(self.path) != entries or not self.path.is_dir():
            return False
        return wrong_sizes(self.path / self._name, entries) == []

    def _make(self, entries: list[Entry]) -> None:
        remove(self.path)
        with self._room():
            self._of_b = sum(size for _, size, _ in entries)
            self._make_room(self._of_b)
            content = {"source": str(self.source), "keep": self.keep, "files": entries}
            write_aside(beside(self.path, "json"), json.dumps(content))
        part = beside(self.path, "part")
        inside = part / self._name
        for folder in sorted({(inside / name).parent for name, _, _ in entries}):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                copies = [pool.submit(self._copy, inside, name) for name, _, _ in entries]
            errors = [error for copy in copies if (error := copy.exception())]
            for error in sorted(errors, key=lambda error: isinstance(error, Ended)):
                raise error
            if wrong := wrong_sizes(inside, entries):
                raise Refused(f"{wrong[0]} has another size than in {self.source}, which changed meanwhile")
        except BaseException:
            remove(self.path)
            raise
        part.rename(self.path)

    def _copy(self, folder: Path, name: str) -> None:
        try:
            with (self.source / name).open("rb") as source, (folder / name).open("wb") as copy:
                while chunk := source.read(CHUNK_B):
                    if self.ended.is_set() or self._failed.is_set():
                        raise Ended
                    copy.write(chunk)
                    self._count(len(chunk))
        except BaseException:
            self._failed.set()
            raise

    def _count(self, copied_b: int) -> None:
        with self._counting:
            self.copied_b += copied_b
            if time.monotonic() - self._reported > REPORT_S:
                self._reported = time.monotonic()
                self.report("progress", f"{self.copied_b} {self._of_b}")

    def _make_room(self, needed_b: int) -> None:
        """Remove what nobody uses until ``needed_b`` bytes fit; what is there of others' copies counts as it will be.

        Raises:
            Refused: it does not fit.
        """
        root = self.path.parent
        named = (file.with_suffix("") for file in root.glob("*.json") if OURS.search(file.stem))
        others = sorted(
            (path for path in named if path != self.path and read_entries(path) is not None),
            key=lambda path: beside(path, "json").stat().st_mtime,
        )
        unused = [path for path in others if not is_kept(path) or not path.is_dir()]
        for path in unused:
            self._try_remove(path)
        while True:
            others = [path for path in others if beside(path, "json").exists()]
            taken_b = {path: sum(size for _, size, _ in read_entries(path) or ()) for path in others}
            to_come_b = sum(taken_b[path] - bytes_in(path) for path in others)
            status = os.statvfs(root)
            free_b = status.f_bavail * status.f_frsize - to_come_b
            over_limit = self.limit_b and sum(taken_b.values()) + needed_b > self.limit_b
            if not over_limit and needed_b <= free_b:
                return
            if any(self._try_remove(path) for path in others):
                continue
            has = f"the limit is {gb(self.limit_b)}" if over_limit else f"{root} has {gb(free_b)} free"
            used = f", of which other jobs use {gb(sum(taken_b.values()))}" if others and over_limit else ""
            raise Refused(f"the weights in {self.source} are {gb(needed_b)}, and {has}{used}")

    def _try_remove(self, path: Path) -> bool:
        """Remove another copy, if nobody uses it."""
        with contextlib.suppress(OSError), open_lock(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
            beside(path, "lock").unlink()
            return True
        return False

    def _leave(self, file: int) -> None:
        """Remove the copy if it is not to be kept and nobody else uses it. ``file``: the lock, held shared."""
        if self.keep:
            return
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(self.path)
            beside(self.path, "lock").unlink()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """One at a time gives out room."""
        file = os.open(self.path.parent / "room.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[int | None]:
        """The lock of the copy; ``None``, after a moment, while others have it.

        Raises:
            Refused: the folder has no locks.
        """
        with open_lock(self.path) as file:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise Refused(f"{self.path.parent} has no locks ({error.strerror})") from error
            else:
                # Whoever removed the copy removed its lock too: this one may be of a file that is gone.
                yield file if same_file(file, beside(self.path, "lock")) else None
                return
        if not self._waited:
            self._waited = True
            self.report("waiting", "another job on this node copies these weights, or uses others in their place")
        self.ended.wait(POLL_S)
        yield None


@contextlib.contextmanager
def open_lock(path: Path) -> Iterator[int]:
    """The open file whose lock stands for the copy in ``path``."""
    file = os.open(beside(path, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def read_entries(path: Path) -> list[Entry] | None:
    """What the copy in ``path`` must hold; ``None`` where nobody wrote that."""
    try:
        return [(name, size, at) for name, size, at in json.loads(beside(path, "json").read_text())["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_kept(path: Path) -> bool:
    try:
        return json.loads(beside(path, "json").read_text())["keep"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def wrong_sizes(folder: Path, entries: list[Entry]) -> list[str]:
    """Files of ``entries`` that are not in ``folder`` with their size."""
    wrong = []
    for name, size, _ in entries:
        try:
            if (folder / name).stat().st_size != size:
                wrong.append(name)
        except OSError:
            wrong.append(name)
    return wrong


def bytes_in(path: Path) -> int:
    """What is on disk of a copy, whole or not."""
    folder = path if path.is_dir() else beside(path, "part")
    found = 0
    for below, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += Path(below, name).stat().st_size
    return found


def remove(path: Path) -> None:
    """Remove a copy and what was written of it; first its name, so that it is whole at no moment of that."""
    part = beside(path, "part")
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        path.rename(part)
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        beside(path, "json").unlink()


def write_aside(file: Path, text: str) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.replace(file)


def gb(size_b: float) -> str:
    return f"{size_b / 1e9:.1f} GB" if size_b >= 1e8 else f"{size_b / 1e6:.1f} MB"


def main(source: str, path: str, limit_b: str, keep: str) -> int:
    copy = Copy(Path(source), Path(path), int(limit_b), keep == "keep")

    def listen() -> None:
        while os.read(0, 64):
            pass
        copy.ended.set()

    # Slurm's signal before the time limit is not for us; a killed job's is.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: copy.ended.set())
    threading.Thread(target=listen, daemon=True).start()
    try:
        copy.hold()
    except Ended:
        return 0
    except Refused as error:
        copy.report("refused", str(error))
        return REFUSED
    except OSError as error:
        copy.report("refused", f"{error.filename or path}: {error.strerror or error}")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
