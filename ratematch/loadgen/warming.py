"""Requests before the clock: what is sent so that servers are warm, and timed by nobody.

:func:`warm_prompts` puts the prompts of a load into a generation server's prefix cache (mode gen_only_warmed). As
many different prompts as the load keeps in flight are used in turn, so that what they need of the KV cache is what a
full batch needs. Each is sent once with one token to answer, a few at a time. From then on the server finds all of a
prompt but its last block, and decodes at once: what it does afterwards is what a decode server does whose KV caches
come from elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from ratematch.errors import UserError
from ratematch.loadgen.client import Target
from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import Progress
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.shards import LoadJob
from ratematch.measure.loadrun import WarmedPrompts, Warming
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.workload import RequestSpec

AT_ONCE = 16
"""Requests in flight: more would only wait in the server."""

PROMPTS_LIMIT_S = 1800.0


def send_before_clock(
    target: Target, requests: Sequence[RequestSpec], stop: threading.Event, limit_s: float
) -> Warming:
    """Send each request once, :data:`AT_ONCE` in flight; after ``limit_s`` seconds the rest is given up.

    Failures are reported, not raised: the load that follows shows whether they matter.
    """
    begin_s = time.monotonic()
    halt = threading.Event()

    def check_limit(progress: Progress) -> None:
        if stop.is_set() or time.monotonic() - begin_s > limit_s:
            halt.set()

    load = Concurrency(min(AT_ONCE, len(requests)), len(requests))
    result = drive(target, load, requests, control=LoadControl(stop=halt, on_progress=check_limit))
    failed = [record for record in result.records if record.outcome != "ok"]
    return Warming(
        requests=len(requests),
        failed=len(failed) + len(requests) - len(result.records),
        seconds=time.monotonic() - begin_s,
        errors=tuple(sorted({record.error or record.outcome for record in failed})[:3]),
    )


def count_distinct(load: Load) -> int:
    """Different prompts of a load: as many as are in flight.

    Raises:
        UserError: a load of arrivals, which holds no number of requests in flight.
    """
    if not isinstance(load, Concurrency):
        raise UserError(f"{load.label}: prompts are warmed for closed loads only; give concurrency")
    return load.concurrency


def warm_prompts(job: LoadJob, source: PromptSource, stop: threading.Event, block: int = 0) -> WarmedPrompts:
    """Send each different prompt of ``job`` once. ``block``: tokens of a KV block; 0 = not known."""
    prompts = [replace(prompt, osl=1) for prompt in job.make_distinct(source)]
    sent = send_before_clock(job.target, prompts, stop, PROMPTS_LIMIT_S)
    expected = expected_hits([prompt.isl for prompt in prompts], block) if block else None
    return WarmedPrompts(sent.requests, sent.failed, sent.seconds, sent.errors, expected)


def expected_hits(lengths: Sequence[int], block: int) -> float | None:
    """Share of prompts of ``lengths`` tokens that a server with blocks of ``block`` tokens finds.

    Whole blocks, and never the last token, which is computed again to have something to go on from. ``None`` where
    lengths are not known.
    """
    if not lengths or not all(lengths):
        return None
    return sum((length - 1) // block * block for length in lengths) / sum(lengths)
