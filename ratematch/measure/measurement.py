"""The figures of one load, with their verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ratematch.measure import metrics
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats, describe
from ratematch.measure.validity import DEFAULT_LIMITS, Limits, judge
from ratematch.measure.window import Window, choose_window
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.workload import Workload

__all__ = ["Measurement", "Stats", "Window", "from_json", "measure_load", "to_json"]


@dataclass(frozen=True)
class Measurement:
    """Figures of one load. ``None`` where undefined, never 0.

    Unsuffixed rates are those of the steady window (:func:`ratematch.measure.metrics.shares_inside` says how they are
    counted), latencies are of the requests that ended in it; ``*_run`` are over first send to last token, ramp and
    drain included, as ``benchmark_serving`` prints them. ``itl_ms.n`` counts gaps, not requests. ``in_flight``:
    mean requests in flight in the window. ``little``: in_flight / (req_s * (TTFT + (OSL-1) * TPOT)), 1 when
    consistent. ``acceptance_length``: tokens per iteration of a request, 1 without speculative decoding.
    ``tok_s_log``: output tok/s at full batch by the servers' own iteration logs, from the median step. ``valid``: may
    this point stand on a front; ``reasons`` say why not; ``warnings`` do not forbid it.
    """

    num_requests: int
    num_ok: int
    num_failed: int
    window: Window | None
    ttft_ms: Stats | None
    tpot_ms: Stats | None
    itl_ms: Stats | None
    e2el_ms: Stats | None
    send_lag_ms: Stats | None
    tok_s_user: float | None
    tok_s: float | None
    req_s: float | None
    tok_s_run: float | None
    req_s_run: float | None
    isl_mean: float | None
    osl_mean: float | None
    in_flight: float | None
    little: float | None
    valid: bool
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    acceptance_length: float | None = None
    tok_s_log: float | None = None


def measure_load(
    records: Sequence[RequestRecord], load: Load, workload: Workload, *, limits: Limits = DEFAULT_LIMITS
) -> Measurement:
    """The figures of one load from its request records (warm-up not among them), with the verdict.

    Failed requests are in no latency and no rate; they hold their slot in ``in_flight``. Records in any order.
    """
    records = sorted(records, key=lambda record: record.seq)  # sums in floats depend on the order
    since: metrics.Since = "sent" if isinstance(load, Concurrency) else "intended"
    starts, ends = metrics.start_ns(records, since), metrics.end_ns(records)
    window = choose_window(starts, ends, load)
    complete = np.array([metrics.is_complete(record) for record in records], dtype=bool)
    answers = [record for record in records if metrics.is_complete(record)]
    lag = describe(metrics.send_lag_ms([record for record in records if record.sent_ns is not None]))

    inside: list[RequestRecord] = []
    in_flight = req_s = tok_s = arrived_req_s = None
    ttft = tpot = None
    if window is not None and window.seconds > 0:
        first_ns, last_ns = window.start_ns, window.end_ns
        ended = ends[complete]
        chosen = (ended > first_ns) & (ended <= last_ns)
        inside = [record for record, take in zip(answers, chosen, strict=True) if take]
        ttft, tpot = describe(metrics.ttft_ms(inside, since)), describe(metrics.tpot_ms(inside))
        lives = ended - starts[complete]
        if window.steady and since == "sent":
            means = (ttft.mean if ttft else None), (tpot.mean if tpot else None)
            lives = metrics.lives_under_load_ns(answers, last_ns, *means)
        shares = metrics.shares_inside(starts[complete], ended, lives, first_ns, last_ns)
        req_s = float(shares.sum()) / window.seconds or None
        tok_s = float((shares * metrics.output_tokens(answers)).sum()) / window.seconds or None
        arrived = (starts >= first_ns) & (starts < last_ns)
        arrived_req_s = float(arrived.sum()) / window.seconds
        in_flight = metrics.mean_in_flight(starts, ends, first_ns, last_ns)
    osl = describe(metrics.output_tokens(inside))
    little = metrics.littles_ratio(
        in_flight, req_s, ttft.mean if ttft else None, tpot.mean if tpot else None, osl.mean if osl else None
    )
    req_s_run, tok_s_run = _rates_of_run(answers, since)
    verdict = judge(
        records,
        load,
        workload,
        window=window,
        in_flight=in_flight,
        little=little,
        req_s=req_s,
        arrived_req_s=arrived_req_s,
        send_lag_ms=lag,
        limits=limits,
    )
    return Measurement(
        num_requests=len(records),
        num_ok=len(answers),
        num_failed=len(records) - len(answers),
        window=window,
        ttft_ms=ttft,
        tpot_ms=tpot,
        itl_ms=describe(metrics.itl_ms(inside)),
        e2el_ms=describe(metrics.e2el_ms(inside, since)),
        send_lag_ms=lag,
        tok_s_user=metrics.tok_s_user(tpot.mean if tpot else None),
        tok_s=tok_s,
        req_s=req_s,
        tok_s_run=tok_s_run,
        req_s_run=req_s_run,
        isl_mean=float(np.mean([record.isl for record in inside])) if inside else None,
        osl_mean=osl.mean if osl else None,
        in_flight=in_flight,
        little=little,
        valid=verdict.valid,
        reasons=verdict.reasons,
        warnings=verdict.warnings,
        acceptance_length=metrics.acceptance_length(answers),
    )


def _rates_of_run(answers: Sequence[RequestRecord], since: metrics.Since) -> tuple[float | None, float | None]:
    """Requests/s and output tok/s from the first start to the last token; ``None`` without a full answer."""
    if not answers:
        return None, None
    latency_ns = metrics.e2el_ms(answers, since) * metrics.NS_PER_MS
    starts = metrics.start_ns(answers, since)
    seconds = float((starts + latency_ns).max() - starts.min()) / 1e9
    if seconds <= 0:
        return None, None
    return len(answers) / seconds, float(metrics.output_tokens(answers).sum()) / seconds


def to_json(measurement: Measurement) -> dict[str, Any]:
    return asdict(measurement)


def from_json(content: dict[str, Any]) -> Measurement:
    """The inverse of :func:`to_json`.

    Raises:
        TypeError: the content is not that of a measurement.
    """
    fields = dict(content)
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "send_lag_ms"):
        fields[name] = Stats(**fields[name]) if fields[name] else None
    fields["window"] = Window(**fields["window"]) if fields["window"] else None
    fields["reasons"], fields["warnings"] = tuple(fields["reasons"]), tuple(fields["warnings"])
    return Measurement(**fields)
