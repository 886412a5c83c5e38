"""A load from its job to its records: with as many processes as it needs, and no longer than it has to be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.shards import LoadJob, count_processes, drive_in_processes
from ratematch.measure.early import EarlyRules, EarlyStop


class DriveMany(Protocol):
    """Sends a job with ``count`` processes."""

    def __call__(
        self,
        job: LoadJob,
        count: int,
        *,
        stop: threading.Event | None = None,
        drain: threading.Event | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> LoadResult: ...


def send_load(
    job: LoadJob,
    source: PromptSource,
    *,
    rules: EarlyRules | None = None,
    processes: int | None = None,
    most: int | None = None,
    drive_many: DriveMany = drive_in_processes,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> LoadResult:
    """Run ``job``. ``processes``: how many send, chosen when ``None``, ``most`` (``None``: as many as there are cores
    here) at most; several do so by ``drive_many``. ``rules`` may end the load early.

    Raises:
        UserError: an unusable base URL, a file that cannot be read, a sender that could not begin.
    """
    early = EarlyStop(rules or EarlyRules(), job.load)
    drain = threading.Event()
    reasons: list[str] = []

    def look(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress)
        if progress.phase == "load" and not reasons and (reason := early.observe(progress.ended)):
            reasons.append(reason)
            drain.set()

    source.notes.clear()
    count = processes or count_processes(job.load, job.workload, most)
    if count > 1:
        result = drive_many(job, count, stop=stop, drain=drain, on_progress=look)
    else:
        requests, warmup = job.make_requests(source)
        result = drive(
            job.target, job.load, requests, warmup, seed=job.seed, stop=stop, drain=drain, on_progress=look
        )
    notes = (*source.notes, *result.notes)
    return replace(result, notes=notes, ended_early=reasons[0] if reasons else None)
