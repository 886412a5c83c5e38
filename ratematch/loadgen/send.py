"""A load from its job to its records: with as many processes as it needs, and no longer than it has to be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.shards import LoadJob, count_processes, drive_in_processes
from ratematch.measure.columns import columns_of
from ratematch.measure.early import EarlyRules, EarlyStop

SAME_PROMPTS = (
    "its prompts are the data set's own, the same in every run: a server that was sent them before answers from its "
    "prefix cache, and this one does not report whether it did"
)


class DriveMany(Protocol):
    """Sends a job with ``count`` processes."""

    def __call__(self, job: LoadJob, count: int, control: LoadControl) -> LoadResult: ...


@dataclass(frozen=True)
class Senders:
    """The processes that send a load.

    ``count``: how many, chosen by the load when ``None``; then ``most`` at most (``None``: as many as there are cores
    here). ``drive_many``: how several do it.
    """

    count: int | None = None
    most: int | None = None
    drive_many: DriveMany = drive_in_processes


_LOCAL = Senders()


def send_load(
    job: LoadJob,
    source: PromptSource,
    *,
    rules: EarlyRules | None = None,
    senders: Senders = _LOCAL,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    folder: Path | None = None,
) -> LoadResult:
    """Run ``job`` with as many ``senders`` as it needs. ``rules`` may end the load early; ``stop``,
    ``on_progress`` and ``folder`` as in :class:`ratematch.loadgen.control.LoadControl`.

    Raises:
        UserError: an unusable base URL, a file that cannot be read, a sender that could not begin.
    """
    early = EarlyStop(rules or EarlyRules(), job.load)
    drain = threading.Event()
    reasons: list[str] = []

    def check_rules(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress)
        if progress.phase == "load" and not reasons and (reason := early.observe(progress.ended)):
            reasons.append(reason)
            drain.set()

    source.notes.clear()
    control = LoadControl(stop, drain, check_rules, folder=folder)
    count = senders.count or count_processes(job.load, job.workload, senders.most)
    if count > 1:
        result = senders.drive_many(job, count, control)
    else:
        requests, warmup = job.make_requests(source)
        result = drive(job.target, job.load, requests, warmup, seed=job.seed, control=control)
    notes = (*source.notes, *_note_same_prompts(source, result), *result.notes)
    return replace(result, notes=notes, ended_early=reasons[0] if reasons else None)


def _note_same_prompts(source: PromptSource, result: LoadResult) -> tuple[str, ...]:
    """Prompts that no seed changes may be in a prefix cache, and only the server knows."""
    reported = columns_of(result.records).known("cached_tokens").any()
    return (SAME_PROMPTS,) if source.fixed and not reported else ()
