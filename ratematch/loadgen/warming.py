"""Puts the prompts of a load into a generation server's prefix cache before anything is timed (gen_only_warmed).

As many different prompts as the load keeps in flight are asked in turn, so that what they need of the KV cache is
what a full batch needs. Each is sent once with one token to answer, a few at a time. From then on the server finds
all of a prompt but its last block, and decodes at once: what it does afterwards is what a decode server does whose
KV caches come from elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from ratematch.errors import UserError
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import Progress
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.shards import LoadJob
from ratematch.measure.loadrun import WarmedPrompts
from ratematch.plan.load import Concurrency, Load

AT_ONCE = 16
"""Prompts that are computed at a time: more would only wait."""

LIMIT_S = 1800.0


def count_distinct(load: Load) -> int:
    """Different prompts of a load: as many as are in flight.

    Raises:
        UserError: a load of arrivals, which holds no number of requests in flight.
    """
    if not isinstance(load, Concurrency):
        raise UserError(f"{load.label}: prompts are warmed for closed loads only; give concurrency")
    return load.concurrency


def warm_prompts(job: LoadJob, source: PromptSource, stop: threading.Event, block: int = 0) -> WarmedPrompts:
    """Send each different prompt of ``job`` once; how many, how many failed, and what those were told.

    ``block``: tokens of a KV block; ``expected`` is then the share of prompt tokens that will be found. Failures
    are told, not raised: the load that follows shows whether they matter.
    """
    prompts = [replace(each, osl=1) for each in job.make_distinct(source)]
    began = time.monotonic()
    halt = threading.Event()

    def look(progress: Progress) -> None:
        if stop.is_set() or time.monotonic() - began > LIMIT_S:
            halt.set()

    load = Concurrency(min(AT_ONCE, len(prompts)), len(prompts))
    result = drive(job.target, load, prompts, stop=halt, on_progress=look)
    failed = [record for record in result.records if record.outcome != "ok"]
    return WarmedPrompts(
        prompts=len(prompts),
        failed=len(failed) + len(prompts) - len(result.records),
        seconds=time.monotonic() - began,
        errors=tuple(sorted({record.error or record.outcome for record in failed})[:3]),
        expected=expected_hits([each.isl for each in prompts], block) if block else None,
    )


def expected_hits(lengths: Sequence[int], block: int) -> float | None:
    """Share of prompts of ``lengths`` tokens that a server with blocks of ``block`` tokens finds.

    Whole blocks, and never the last token, which is computed again to have something to go on from. ``None`` where
    lengths are not known.
    """
    if not lengths or not all(lengths):
        return None
    return sum((length - 1) // block * block for length in lengths) / sum(lengths)
