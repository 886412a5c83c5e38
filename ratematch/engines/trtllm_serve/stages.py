"""Stage times of a request, read from what TensorRT-LLM's ``/perf_metrics`` answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ratematch.engines.engine import Json
from ratematch.measure.breakdown import Breakdown


def read_breakdown(records: Sequence[Json], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """Mean stages of the orchestrator's joined ``records``, without those that arrived first (warm-up, ramp) and last
    (drain). ``None`` when fewer than two complete records are left."""
    stages = sorted(stage for record in records if (stage := _stages(record)) is not None)
    kept = stages[skip_first : len(stages) - skip_last]
    if len(kept) < 2:
        return None
    columns = list(zip(*kept, strict=True))[1:]
    return Breakdown(len(kept), *(fmean(column) for column in columns))


def _stages(record: Json) -> tuple[float, ...] | None:
    """(arrival, dispatch, ctx queue, prefill, KV transfer, gen queue, decode), seconds; ``None`` when incomplete."""
    try:
        ctx = record["ctx_perf_metrics"]["perf_metrics"]["timing_metrics"]
        gen = record["gen_perf_metrics"]["perf_metrics"]["timing_metrics"]
        arrival = float(record["disagg_server_arrival_time"])
        transfer = float(gen["kv_cache_transfer_end"]) - float(gen["kv_cache_transfer_start"])
        before_decode = float(gen["first_scheduled_time"]) - float(gen["arrival_time"])
        return (
            arrival,
            float(ctx["arrival_time"]) - arrival + float(gen["arrival_time"]) - float(ctx["first_token_time"]),
            float(ctx["first_scheduled_time"]) - float(ctx["arrival_time"]),
            float(ctx["first_token_time"]) - float(ctx["first_scheduled_time"]),
            transfer,
            before_decode - transfer,
            float(gen["last_token_time"]) - float(gen["first_scheduled_time"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
