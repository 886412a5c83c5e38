"""Sends the requests of a load on schedule and makes one record of each.

:func:`drive` owns its event loop (uvloop where there is one), its connections and the clock. Before the clock starts:
requests encoded, warm-up requests run at the same load, a connection opened for each slot of a closed loop, garbage
collected and the collector switched off. While the load runs, answers are kept as raw bytes; they are decoded after
the last one, or in small steps between arrivals when more than ``backlog_bytes`` have piled up.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ratematch.loadgen.client import Target, open_pool, request_encoder
from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.phase import Phase
from ratematch.loadgen.schedule import ALONE, Part, Shard, Share, take_part
from ratematch.measure.clienthealth import ClientHealth
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

_UNWATCHED = LoadControl()

__all__ = ["ClientHealth", "LoadControl", "LoadResult", "Progress", "drive"]


def drive(
    target: Target,
    load: Load,
    requests: Iterable[RequestSpec],
    warmup: Sequence[RequestSpec] = (),
    *,
    seed: int = 0,
    control: LoadControl = _UNWATCHED,
    share: Share = ALONE,
) -> LoadResult:
    """Run ``load`` against ``target``: ``warmup`` first, to its end, then ``requests``, in their order.

    Closed loop: ``load.concurrency`` in flight, the next sent when one ends; a request's intended instant is when its
    slot became free. Slots start together, or spread evenly over ``load.stagger_s``. Open loop: request k is due at
    ``due_times_s(load, seed)[k]`` after the start (a trace: when it says), whatever the server does; a late one is
    sent late, never skipped. The turns of a conversation are sent one after another in one slot.

    A list of ``requests`` decides how many are sent, not ``load.num_requests``, and is encoded before the clock
    starts; an iterator (for loads with ``seconds``) is advanced when a request is needed. ``share``: what this
    process sends of the schedule, among processes that were given the same arguments.

    Failures are records. The load ends early (``aborted`` says why) as ``control`` says.

    Raises:
        UserError: the target's base URL is unusable.
        ValueError: concurrency, rate or speed is not positive.
    """
    warm, measured = _parts(target, load, requests, warmup, seed, share.shard)
    _allow_sockets(measured.most_sockets)
    loop = new_event_loop()
    try:
        return loop.run_until_complete(_run_load(target, warm, measured, share.wait_start, control))
    finally:
        # After Ctrl-C the main task still stands in the middle of the load: let it put the collector back on.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _parts(
    target: Target,
    load: Load,
    requests: Iterable[RequestSpec],
    warmup: Sequence[RequestSpec],
    seed: int,
    shard: Shard,
) -> tuple[Part, Part]:
    encode = request_encoder(target)
    warm_load = replace(load, seconds=0.0, stagger_s=0.0) if isinstance(load, Concurrency) else load
    warm = take_part(warm_load, warmup, encode, seed + 1, shard)
    return warm, take_part(load, requests, encode, seed, shard)


async def _run_load(
    target: Target, warm: Part, part: Part, wait_start: Callable[[], int] | None, control: LoadControl
) -> LoadResult:
    pool = open_pool(target)
    try:
        warming = Phase("warm-up", target, pool, control)
        if warm.total:  # an empty warm-up has nothing to wait for
            await warming.run(warm)
        measured = Phase("load", target, pool, control, aborted=warming.aborted)
        start_ns = await asyncio.to_thread(wait_start) if wait_start is not None else None
        wall_start_ns = time.time_ns()
        if warming.aborted is None:
            await pool.open_ahead(len(part.slot_offsets_ns))
            with _collector_off():
                offset_ns = time.time_ns() - time.monotonic_ns()
                await measured.run(part, start_ns)
                wall_start_ns = measured.start_ns + offset_ns
        began_s = time.process_time()
        records = await measured.records()
        decode_s = time.process_time() - began_s
        event_loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        return LoadResult(
            warmup=await warming.records(),
            records=records,
            start_ns=measured.start_ns,
            end_ns=measured.end_ns,
            wall_start_ns=wall_start_ns,
            health=replace(measured.health(event_loop), decode_cpu_s=decode_s),
            aborted=measured.aborted,
        )
    finally:
        pool.close()


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
    # What a caller has frozen stays so: where that is much, it is not looked through at every load.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
