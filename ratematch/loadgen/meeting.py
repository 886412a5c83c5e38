"""The folder in which several senders of this machine meet, and what killed ones left of theirs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PREFIX = "ratematch-load-"
_LOCK = "lock"

_YOUNG_S = 60.0
"""Folders younger than this are left alone: one that was made a moment ago may not be locked yet."""


class Meeting(NamedTuple):
    """``lock``: descriptor to be handed to every sender: the folder is in use as long as one of them lives."""

    folder: Path
    lock: int


@contextlib.contextmanager
def meet() -> Iterator[Meeting]:
    """A new folder, removed at the end; those of loads that were killed before are removed now."""
    remove_left(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / _LOCK).open("w") as lock:
        # Without locks nobody clears away what a killed load left, and loads are sent as well.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Meeting(Path(name), lock.fileno())


def remove_left(place: Path) -> None:
    """Remove this user's folders in ``place`` whose load and senders are all gone: the kernel lets a lock go with the
    last process that has it, however that ends, and knows those of other containers too."""
    for file in place.glob(f"{PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):
            state = file.stat()
            if state.st_uid != os.getuid() or time.time() - state.st_mtime < _YOUNG_S:
                continue
            with file.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent, ignore_errors=True)
