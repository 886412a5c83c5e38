"""Stage times of a request, read from what TensorRT-LLM's ``/perf_metrics`` answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import msgspec

from ratematch.engines.engine import Json
from ratematch.measure.breakdown import Breakdown


class Timing(msgspec.Struct):
    """Instants of a request in one server, seconds; ``None`` where it has none."""

    arrival_time: float | None = None
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    kv_cache_transfer_start: float | None = None
    kv_cache_transfer_end: float | None = None


class OfRequest(msgspec.Struct):
    """One server's figures of a request."""

    timing_metrics: Timing | None = None


class OfServer(msgspec.Struct):
    """What one server says of a request."""

    perf_metrics: OfRequest | None = None


class TimedRequest(msgspec.Struct):
    """What :func:`read_breakdown` looks at of a record, a small part of it."""

    ctx_perf_metrics: OfServer | None = None
    gen_perf_metrics: OfServer | None = None
    disagg_server_arrival_time: float | None = None


def read_breakdown(records: Sequence[Json | TimedRequest], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """Mean stages of the orchestrator's joined ``records``, without those that arrived first (warm-up, ramp) and last
    (drain). ``None`` when fewer than two complete records are left."""
    stages = sorted(stage for record in records if (stage := _stages(record)) is not None)
    kept = stages[skip_first : len(stages) - skip_last]
    if len(kept) < 2:
        return None
    columns = list(zip(*kept, strict=True))[1:]
    return Breakdown(len(kept), *(fmean(column) for column in columns))


def _stages(record: Json | TimedRequest) -> tuple[float, ...] | None:
    """(arrival, dispatch, ctx queue, prefill, KV transfer, gen queue, decode), seconds; ``None`` when incomplete."""
    if not isinstance(record, TimedRequest):
        return _stages_of_json(record)
    ctx, gen, arrival = record.ctx_perf_metrics, record.gen_perf_metrics, record.disagg_server_arrival_time
    if ctx is None or gen is None or ctx.perf_metrics is None or gen.perf_metrics is None:
        return None
    of_ctx, of_gen = ctx.perf_metrics.timing_metrics, gen.perf_metrics.timing_metrics
    if of_ctx is None or of_gen is None or arrival is None:
        return None
    instants = (
        of_ctx.arrival_time,
        of_ctx.first_scheduled_time,
        of_ctx.first_token_time,
        of_gen.arrival_time,
        of_gen.first_scheduled_time,
        of_gen.last_token_time,
        of_gen.kv_cache_transfer_start,
        of_gen.kv_cache_transfer_end,
    )
    known = [instant for instant in instants if instant is not None]
    return _between(arrival, known) if len(known) == len(instants) else None


def _stages_of_json(record: Json) -> tuple[float, ...] | None:
    """The same of a whole record, of which any part may be anything."""
    try:
        ctx = record["ctx_perf_metrics"]["perf_metrics"]["timing_metrics"]
        gen = record["gen_perf_metrics"]["perf_metrics"]["timing_metrics"]
        instants = [
            *(float(ctx[name]) for name in ("arrival_time", "first_scheduled_time", "first_token_time")),
            *(float(gen[name]) for name in ("arrival_time", "first_scheduled_time", "last_token_time")),
            *(float(gen[name]) for name in ("kv_cache_transfer_start", "kv_cache_transfer_end")),
        ]
        return _between(float(record["disagg_server_arrival_time"]), instants)
    except (KeyError, TypeError, ValueError):
        return None


def _between(arrival: float, instants: Sequence[float]) -> tuple[float, ...]:
    """The stages of a request that came to the orchestrator at ``arrival``. ``instants``: arrival, first scheduling
    and first token in the ctx server; arrival, first scheduling and last token in the gen server; start and end of
    the transfer."""
    ctx_arrival, ctx_begin, ctx_first, gen_arrival, gen_begin, gen_last, begin, end = instants
    transfer = end - begin
    return (
        arrival,
        ctx_arrival - arrival + gen_arrival - ctx_first,
        ctx_begin - ctx_arrival,
        ctx_first - ctx_begin,
        transfer,
        gen_begin - gen_arrival - transfer,
        gen_last - gen_begin,
    )
