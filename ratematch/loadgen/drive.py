"""Sends the requests of a load on schedule and makes one record of each.

:func:`drive` owns its event loop (uvloop where there is one), one session and the clock. Before the clock starts:
bodies encoded, warm-up requests run at the same load, garbage collected and the collector switched off. The warm-up
also opens and warms the connections; without one the first requests connect, which shows in their send lag. While
the load runs, answers are kept as raw bytes; they are decoded after the last one, or in small steps between arrivals
when more than ``backlog_bytes`` have piled up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from yarl import URL

from ratematch.loadgen.client import Target, encode_body, open_session, request_url
from ratematch.loadgen.loadresult import ClientHealth, LoadResult, Progress
from ratematch.loadgen.phase import Limits, Phase
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.workload import RequestSpec

try:
    import uvloop
except ImportError:  # platforms without uvloop
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

_OTHER_FILES = 256
"""Open files a process may need beside its connections."""

__all__ = ["ClientHealth", "LoadResult", "Progress", "drive"]


def drive(
    target: Target,
    load: Load,
    requests: Sequence[RequestSpec],
    warmup: Sequence[RequestSpec] = (),
    *,
    seed: int = 0,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stagger_s: float = 0.0,
    give_up_after: int = 32,
    late_ms: float = 10.0,
    progress_s: float = 0.5,
    backlog_bytes: int = 32 << 20,
) -> LoadResult:
    """Run ``load`` against ``target``: ``warmup`` first, to its end, then ``requests``, in their order.

    Closed loop: ``load.concurrency`` in flight, the next sent when one ends; a request's intended instant is when its
    slot became free. Slots start together, or spread evenly over ``stagger_s``. Open loop: request k is due at
    ``due_times_s(load, seed)[k]`` after the start, whatever the server does; a late one is sent late, never skipped.

    Failures are records. The load ends early (``aborted`` says why) when ``stop`` is set, with the requests in flight
    recorded as ``cancelled``, or after ``give_up_after`` connect errors in a row. ``on_progress`` is called about
    every ``progress_s`` seconds in the loop's thread and must be quick; what it raises ends the load. ``requests``
    decides how many are sent, not ``load.num_requests``.

    Raises:
        UserError: the target's base URL is unusable.
        ValueError: concurrency or rate is not positive.
    """
    limits = Limits(stop, on_progress, stagger_s, give_up_after, late_ms, progress_s, backlog_bytes)
    if (load.concurrency if isinstance(load, Concurrency) else load.req_s) <= 0:
        raise ValueError(f"{load.label}: concurrency and rate must be positive")
    url = URL(request_url(target))
    _allow_sockets(load.concurrency if isinstance(load, Concurrency) else len(requests))
    loop = new_event_loop()
    try:
        return loop.run_until_complete(_run_load(target, url, load, requests, warmup, seed, limits))
    finally:
        # After Ctrl-C the main task still stands in the middle of the load: let it put the collector back on.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _run_load(
    target: Target,
    url: URL,
    load: Load,
    requests: Sequence[RequestSpec],
    warmup: Sequence[RequestSpec],
    seed: int,
    limits: Limits,
) -> LoadResult:
    warm_bodies = [encode_body(target, spec) for spec in warmup]
    bodies = [encode_body(target, spec) for spec in requests]
    async with open_session(target) as session:
        warm = Phase("warm-up", target, url, session, limits)
        await warm.run(dataclasses.replace(load, num_requests=len(warmup)), warmup, warm_bodies, seed + 1)
        measured = Phase("load", target, url, session, limits, aborted=warm.aborted)
        wall_start_ns = time.time_ns()
        if warm.aborted is None:
            with _collector_off():
                wall_start_ns = time.time_ns()
                await measured.run(dataclasses.replace(load, num_requests=len(requests)), requests, bodies, seed)
        return LoadResult(
            warmup=await warm.records(),
            records=await measured.records(),
            start_ns=measured.start_ns,
            end_ns=measured.end_ns,
            wall_start_ns=wall_start_ns,
            health=measured.health(type(asyncio.get_running_loop()).__module__.partition(".")[0]),
            aborted=measured.aborted,
        )


def _allow_sockets(number: int) -> None:
    """Raise this process's soft limit of open files, often 1,024, as far as ``number`` connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@contextmanager
def _collector_off() -> Iterator[None]:
    # A full collection over the prompts and records of a load stops the clock for tens of milliseconds.
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
