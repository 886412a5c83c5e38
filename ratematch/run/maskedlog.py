"""Logs of servers, without their secrets: servers show their environment, and log what they are sent."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ratematch.plan.secret import Masker
from ratematch.store.masking import masker

READ_B = 65536
LAST_S = 1.0
"""How long what a server wrote last may take to its log."""


class ServerLog:
    """Where a server's output goes: into ``path`` itself, or, where there are secrets to mask, into a pipe that a
    thread of ours empties into it until the last process that writes to it has ended."""

    def __init__(self, path: Path):
        self.path = path
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """The file that a process started inside gets as its output."""
        found = masker()
        if not found.values:
            with self.path.open("wb") as output:
                yield output
            return
        log = self.path.open("wb", buffering=0)
        reading, writing = os.pipe()
        self._thread = threading.Thread(target=_copy, args=(reading, log, found), name="mask log", daemon=True)
        self._thread.start()
        with os.fdopen(writing, "wb") as output:
            yield output

    def settle(self) -> None:
        """Wait until what a server that has ended wrote last is there."""
        if self._thread is not None:
            self._thread.join(LAST_S)


def _copy(reading: int, log: IO[bytes], found: Masker) -> None:
    """Until the pipe is closed, whatever becomes of the log: a server whose output nobody takes would stand still."""

    def chunks() -> Iterator[bytes]:
        while data := os.read(reading, READ_B):
            yield data

    with os.fdopen(reading, "rb"), log:
        for part in found.lines(chunks()):
            with contextlib.suppress(OSError):
                log.write(part)
