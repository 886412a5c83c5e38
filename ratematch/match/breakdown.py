"""Where the time of a request goes, from the servers' own timing records (``/perf_metrics``, contract, section 5.2).

A disaggregated request: orchestrator -> ctx queue -> prefill -> handover -> KV transfer and gen queue -> decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Breakdown:
    """Mean seconds of the stages of ``num`` requests.

    ``ctx_queue``: arrival to first scheduled, ``prefill``: to the first token, both in the ctx server.
    ``kv_transfer``: its own start to end. ``gen_queue``: from the gen server's arrival to its first scheduling, the
    transfer in between taken out. ``decode``: first to last token in the gen server, and from scheduling to the first
    token there. ``dispatch``: orchestrator arrival to ctx arrival, and ctx first token to gen arrival; 0 where nobody
    tells it, and then a part of what the client sees beyond the servers.

    ``kv_posting``: share of the time in which gen servers posted KV transfers while their decode waited; it is
    within ``decode``. ``kv_descriptors``: pieces that the KV cache of a request was sent in, ``kv_b`` bytes in all.
    ``None``: not told.
    """

    num: int
    dispatch_s: float
    ctx_queue_s: float
    prefill_s: float
    kv_transfer_s: float
    gen_queue_s: float
    decode_s: float
    kv_posting: float | None = None
    kv_descriptors: float | None = None
    kv_b: float | None = None

    @property
    def total_s(self) -> float:
        return (
            self.dispatch_s
            + self.ctx_queue_s
            + self.prefill_s
            + self.kv_transfer_s
            + self.gen_queue_s
            + self.decode_s
        )


def read_breakdown(records: Sequence[dict[str, Any]], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """Mean stages of the orchestrator's joined ``records``, without those that arrived first (warm-up, ramp) and last
    (drain). ``None`` when fewer than two complete records are left."""
    stages = sorted(found for record in records if (found := _stages(record)) is not None)
    kept = stages[skip_first : len(stages) - skip_last]
    if len(kept) < 2:
        return None
    columns = list(zip(*kept, strict=True))[1:]
    return Breakdown(len(kept), *(fmean(column) for column in columns))


def _stages(record: dict[str, Any]) -> tuple[float, ...] | None:
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
