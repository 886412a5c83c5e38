"""What a load is doing, told to live views without holding up the load.

The results folder lies on a shared file system, where one small file may take seconds to write. The loop that sends
requests must not wait for it, so a thread writes, and always only what is newest.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ratematch.store import ExperimentFolder

LAST_S = 2.0
"""How long the end of a load waits for the last word to be written."""


@contextlib.contextmanager
def telling(folder: ExperimentFolder) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that hands over what ``progress.json`` is to hold and returns at once."""
    newest: list[dict[str, Any]] = []
    news, over = threading.Event(), threading.Event()

    def write() -> None:
        while True:
            news.wait()
            news.clear()
            if newest:
                folder.write_progress(newest.pop())
            if over.is_set() and not newest:
                return

    def tell(content: dict[str, Any]) -> None:
        newest[:] = [content]
        news.set()

    thread = threading.Thread(target=write, name="tell progress", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        news.set()
        thread.join(LAST_S)
