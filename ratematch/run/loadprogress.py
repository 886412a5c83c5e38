"""How far a load is: put down for ``status`` while it runs, without holding it up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ratematch.loadgen.loadresult import Progress
from ratematch.plan.load import Load
from ratematch.store.folder import ExperimentFolder
from ratematch.store.progress import Measuring, RunProgress


def describe_progress(progress: Progress, load: Load, number: int, total: int) -> Measuring:
    return Measuring(
        time=time.time(),
        load=load.label,
        load_number=number + 1,
        loads=total,
        part=progress.phase,
        total=progress.total,
        done=progress.done,
        failed=progress.failed,
        in_flight=progress.in_flight,
        tok_s=progress.tokens / progress.elapsed_s if progress.elapsed_s > 0 else 0.0,
        ttft_ms=progress.ttft_ms,
    )


LAST_S = 2.0
"""How long the end of a load waits until its last progress is written."""


@contextlib.contextmanager
def reporting_progress(folder: ExperimentFolder) -> Iterator[Callable[[RunProgress], None]]:
    """A function that hands over what ``progress.json`` is to hold and returns at once."""
    newest: list[RunProgress] = []
    news, over = threading.Event(), threading.Event()

    def write() -> None:
        while True:
            news.wait()
            news.clear()
            if newest:
                folder.write_progress(newest.pop())
            if over.is_set() and not newest:
                return

    def report(progress: RunProgress) -> None:
        newest[:] = [progress]
        news.set()

    thread = threading.Thread(target=write, name="write progress", daemon=True)
    thread.start()
    try:
        yield report
    finally:
        over.set()
        news.set()
        thread.join(LAST_S)
