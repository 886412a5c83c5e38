"""Files that are whole or not there: written aside, synced and renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ratematch.errors import DiskFull, ResultsError


def write_aside(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: the folder cannot be written; no partial file stays behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    """Write aside and rename, so that a reader sees the old or the new file, never a part.

    Raises:
        DiskFull: no space; the old file, if any, is untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if error.errno in FULL:
            raise DiskFull(disk_full_message(path)) from error
        raise


def disk_full_message(path: Path) -> str:
    return (
        f"{path}: the disk is full; free some space and run the same command again (nothing measured so far is lost)"
    )


def to_text(content: Any) -> str:
    """JSON as it is written here: one spelling for one content."""
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    write_text(path, to_text(content))


def write_lines(path: Path, contents: Iterable[Any]) -> None:
    """One JSON value a line, written aside and renamed.

    Raises:
        DiskFull: no space; the old file, if any, is untouched.
    """
    write_text(path, "".join(json.dumps(content, allow_nan=False) + "\n" for content in contents))


def read_json(path: Path) -> Any:
    """Raises ResultsError when the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path}: not valid JSON ({error}); move it away to measure again") from error


@contextlib.contextmanager
def reserve(folder: Path, size: int) -> Iterator[None]:
    """Hold ``size`` bytes of the disk in ``folder``; given back on leaving, for the file they were held for.

    Taken before a load is sent, so that GPU time is not spent on figures that could not be written.

    Raises:
        DiskFull: there is not that much room.
    """
    path = folder / ".reserved"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        if error.errno in FULL:
            raise DiskFull(disk_full_message(folder)) from error
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems without fallocate
            raise
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
