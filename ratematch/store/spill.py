"""What comes row by row for as long as somebody measures, kept so that memory does not grow with it.

The last few MB wait in memory; what is older goes to a file without a name in the folder of what is measured. The
kernel removes such a file with the process, however that ends: it counts for nobody and leaves nothing to clean up.
It is written by a thread of its own, so that a slow disk stops nobody: rows then wait in memory until it takes them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from ratematch.errors import NO_ROOM
from ratematch.store.files import disk_full_message

HOLD_B = 4 << 20
"""Bytes that wait in memory before anything is written: what is shorter never touches the disk."""

LARGE_FILES = Path("/var/tmp")
"""Where files without a folder of their own go: ``/tmp`` is memory on many machines."""


class Spill:
    """Batches of rows of one ``schema``, in the order in which they came; added by one thread, read by any.

    ``folder``: where the file without a name is; ``None`` = where the system keeps large ones. ``problem``: why what
    was added last could not be written; it is still in memory then, and so is what comes after it.
    """

    def __init__(self, schema: pa.Schema, folder: Path | None = None, hold_b: int | None = None) -> None:
        self.schema, self._folder = schema, folder
        self._hold_b = HOLD_B if hold_b is None else hold_b
        self.rows = 0
        self.problem: OSError | None = None
        self._file: int | None = None
        self._close: Callable[[], object] = lambda: None
        self._sizes = array("q")  # of the batches in the file, one after another
        self._held: deque[pa.Buffer] = deque()
        self._held_b = self._written = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = False

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch``; returns at once."""
        content = batch.serialize()
        with self._lock:
            self.rows += batch.num_rows
            self._held.append(content)
            self._held_b += content.size
            if self._held_b > self._hold_b and self.problem is None and self._thread is None:
                self._thread = threading.Thread(target=self._write, name="spill", daemon=True)
                self._thread.start()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Everything that was added so far."""
        with self._lock:
            sizes, held = self._sizes[:], list(self._held)
        if self._file is not None:
            for size, end in zip(sizes, accumulate(sizes), strict=True):
                content = os.pread(self._file, size, end - size)
                yield pa.ipc.read_record_batch(pa.py_buffer(content), self.schema)
        for buffer in held:
            yield pa.ipc.read_record_batch(buffer, self.schema)

    def close(self) -> None:
        """Nothing is added or read from now on; the room of the file is free again."""
        with self._lock:
            self._over = True
            thread = self._thread
        if thread is not None:
            thread.join()
        self._held.clear()
        self._close()

    @property
    def complaint(self) -> str | None:
        """:attr:`problem` in words for a person."""
        if self.problem is None:
            return None
        where = self._folder or LARGE_FILES
        if self.problem.errno in NO_ROOM:
            return disk_full_message(where)
        return f"{where}: records of a load under way cannot be kept there ({self.problem.strerror})"

    def _write(self) -> None:
        """Until half as much waits in memory as may. Then the thread ends; the next one begins where it stopped."""
        try:
            if self._file is None:
                self._file = self._open()
                # Whoever lets go of this without a word gives the room back too.
                self._close = weakref.finalize(self, os.close, self._file)
            while (content := self._next()) is not None:
                write_whole(self._file, content, self._written)
                with self._lock:
                    self._held.popleft()
                    self._held_b -= content.size
                    self._sizes.append(content.size)
                    self._written += content.size
        except OSError as problem:
            with self._lock:
                self.problem, self._thread = problem, None

    def _next(self) -> pa.Buffer | None:
        """The oldest batch in memory, if it is to be written."""
        with self._lock:
            if self._over or self._held_b <= self._hold_b // 2:
                self._thread = None
                return None
            return self._held[0]

    def _open(self) -> int:
        if self._folder is not None:
            return open_nameless(self._folder)
        with contextlib.suppress(OSError):
            if "TMPDIR" not in os.environ:
                return open_nameless(LARGE_FILES)
        return open_nameless(None)


def open_nameless(folder: Path | None) -> int:
    """Descriptor of a new file without a name, which only this user can read.

    Raises:
        OSError: there can be none in ``folder`` (``None``: where temporary files go).
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return os.dup(file.fileno())


def write_whole(file: int, content: pa.Buffer, at: int) -> None:
    """Write all of ``content`` to ``file`` from the byte ``at`` on, or nothing of it.

    Raises:
        OSError: it cannot be written; the file ends at ``at``.
    """
    left = memoryview(content)
    try:
        while left:
            left = left[os.pwrite(file, left, at + content.size - len(left)) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, at)
        raise
