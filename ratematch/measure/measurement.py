"""The figures of one load, with their verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np

from ratematch.measure import metrics
from ratematch.measure.batches import batch_lives, batch_means, batch_series, drift, half_width
from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.columns import Columns, columns_of
from ratematch.measure.goodput import Goodput
from ratematch.measure.inwindow import measure_inside
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats, describe
from ratematch.measure.validity import DEFAULT_LIMITS, Evidence, Limits, judge
from ratematch.measure.window import Window, choose_window
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.workload import Workload

__all__ = ["Measurement", "Stats", "Window", "add_findings", "from_json", "measure_load", "to_json"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures of one load. ``None`` where undefined, never 0.

    Unsuffixed rates are those of the steady window (:func:`ratematch.measure.metrics.shares_inside` says how they are
    counted), latencies are of the requests that ended in it; ``*_run`` are over first send to last token, ramp and
    drain included, as ``benchmark_serving`` prints them. ``itl_ms.n`` counts gaps, not requests. ``in_flight``:
    mean requests in flight in the window. ``little``: in_flight / (req_s * (TTFT + (OSL-1) * TPOT)), 1 when
    consistent. ``acceptance_length``: tokens per iteration of a request, 1 without speculative decoding.
    ``tok_s_log``: output tok/s at full batch by the servers' own iteration logs, from the median step. ``valid``: may
    this point stand on a front; ``reasons`` say why not; ``warnings`` do not forbid it. ``tokens_per_chunk``: above 1
    with stream_interval or drafts: single tokens inside a chunk have no instant then. ``*_ci``: half width of the
    95 % confidence interval as a share of the figure, from batch means inside the window. ``goodput``: the limits;
    ``goodput_req_s``: requests/s that kept them, ``good_share``: their share of the full answers in the window.
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
    ttst_ms: Stats | None = None
    tokens_per_chunk: float | None = None
    tok_s_ci: float | None = None
    ttft_ci: float | None = None
    tpot_ci: float | None = None
    goodput: str | None = None
    goodput_req_s: float | None = None
    good_share: float | None = None


def measure_load(
    records: Sequence[RequestRecord],
    load: Load,
    workload: Workload,
    *,
    limits: Limits = DEFAULT_LIMITS,
    goodput: Goodput | None = None,
    client: ClientHealth | None = None,
) -> Measurement:
    """The figures of one load from its request records (warm-up not among them), with the verdict.

    Failed requests are in no latency and no rate; they hold their slot in ``in_flight``. Records in any order.
    ``client``: how well the client kept up, judged too; ``None`` = not known.
    """
    records = columns_of(records)
    records = records.take(np.argsort(records.ints("seq"), kind="stable"))  # sums in floats depend on the order
    since: metrics.Since = "sent" if isinstance(load, Concurrency) else "intended"
    window = choose_window(metrics.start_ns(records, since), metrics.end_ns(records), load)
    answers = records.take(metrics.are_complete(records))
    seen = measure_inside(records, window, since, goodput)
    inside = columns_of(seen.answers)
    in_order = inside.take(np.argsort(inside.ints("end_ns"), kind="stable"))
    wave = load.concurrency if isinstance(load, Concurrency) else 1
    lag = describe(metrics.send_lag_ms(records.take(records.known("sent_ns"))))
    settling = drift(metrics.e2el_ms(in_order, since), wave)
    verdict = judge(records, load, workload, Evidence(window, seen, lag, client, settling), limits)
    req_s_run, tok_s_run = _rates_of_run(answers, since)
    return Measurement(
        num_requests=len(records),
        num_ok=len(answers),
        num_failed=len(records) - len(answers),
        window=window,
        ttft_ms=seen.ttft_ms,
        tpot_ms=seen.tpot_ms,
        itl_ms=describe(metrics.itl_ms(inside), scratch=True),
        e2el_ms=describe(metrics.e2el_ms(inside, since)),
        send_lag_ms=lag,
        tok_s_user=metrics.tok_s_user(seen.tpot_ms.mean if seen.tpot_ms else None),
        tok_s=seen.tok_s,
        req_s=seen.req_s,
        tok_s_run=tok_s_run,
        req_s_run=req_s_run,
        isl_mean=metrics.mean_isl(inside),
        osl_mean=seen.osl.mean if seen.osl else None,
        in_flight=seen.in_flight,
        little=seen.little,
        valid=verdict.valid,
        reasons=verdict.reasons,
        warnings=verdict.warnings,
        acceptance_length=metrics.acceptance_length(answers),
        ttst_ms=describe(metrics.ttst_ms(inside)),
        tokens_per_chunk=metrics.tokens_per_chunk(inside),
        **_intervals(in_order, answers, load, window),
        goodput=str(goodput) if goodput is not None else None,
        goodput_req_s=seen.goodput_req_s,
        good_share=seen.good_share,
    )


def add_findings(figures: Measurement, findings: Iterable[tuple[bool, str]]) -> Measurement:
    """``figures`` with more (severe, text) in its reasons and warnings; severe ones make the load not valid."""
    judged = list(findings)
    reasons = tuple(text for severe, text in judged if severe)
    warnings = tuple(text for severe, text in judged if not severe)
    return replace(
        figures,
        valid=figures.valid and not reasons,
        reasons=(*figures.reasons, *reasons),
        warnings=(*figures.warnings, *warnings),
    )


def _intervals(ordered: Columns, answers: Columns, load: Load, window: Window | None) -> dict[str, float | None]:
    """Half widths of 95 % intervals, as shares of the figures, from the requests that ended in the window, in that
    order. The token rate of open loads is from when the tokens of all ``answers`` came."""
    if window is None or not len(ordered):
        return {}
    closed = isinstance(load, Concurrency)
    wave = load.concurrency if isinstance(load, Concurrency) else 1
    since: metrics.Since = "sent" if closed else "intended"
    lives_ms = metrics.e2el_ms(ordered, since)
    rate = batch_lives(lives_ms, np.nan_to_num(metrics.output_tokens(ordered)), wave) if closed else None
    if rate is None:
        instants, amounts = _arrivals_inside(answers, window)
        rate = batch_means(instants, amounts, 0.0, window.seconds, float(np.mean(lives_ms)) / 1e3)
    return {
        "tok_s_ci": half_width(rate),
        "ttft_ci": half_width(batch_series(metrics.ttft_ms(ordered, since), wave)),
        "tpot_ci": half_width(batch_series(metrics.tpot_ms(ordered), wave)),
    }


def _arrivals_inside(ordered: Columns, window: Window) -> tuple[metrics.Floats, metrics.Floats]:
    """When chunks came inside the window, in s from its start, and the tokens that each stands for."""
    instants, amounts = np.empty(len(ordered.store.chunks)), np.empty(len(ordered.store.chunks))
    number = 0
    for block in ordered.blocks():
        counts = block.chunk_counts
        tokens = np.nan_to_num(metrics.output_tokens(block)) / np.maximum(counts, 1)
        came = (block.chunks() - window.start_ns) / 1e9
        inside = (came > 0.0) & (came <= window.seconds)
        here = slice(number, number := number + int(inside.sum()))
        instants[here], amounts[here] = came[inside], np.repeat(tokens, counts)[inside]
    return instants[:number], amounts[:number]


def _rates_of_run(answers: Columns, since: metrics.Since) -> tuple[float | None, float | None]:
    """Requests/s and output tok/s from the first start to the last token; ``None`` without a full answer."""
    if not len(answers):
        return None, None
    latency_ns = metrics.e2el_ms(answers, since) * metrics.NS_PER_MS
    starts = metrics.start_ns(answers, since)
    seconds = float((starts + latency_ns).max() - starts.min()) / 1e9
    if seconds <= 0:
        return None, None
    return len(answers) / seconds, float(metrics.output_tokens(answers).sum()) / seconds


DISTRIBUTIONS = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "send_lag_ms", "ttst_ms")


def to_json(measurement: Measurement) -> dict[str, Any]:
    """Plain JSON values. A part of a distribution that an imported file does not hold (NaN) is ``None``."""
    content = asdict(measurement)
    for name in DISTRIBUTIONS:
        if content[name]:
            content[name] = {key: None if value != value else value for key, value in content[name].items()}
    return content


def from_json(content: dict[str, Any]) -> Measurement:
    """The inverse of :func:`to_json`. A key that this version does not know is ignored.

    Raises:
        KeyError, TypeError, ValueError: the content is not that of a measurement.
    """
    known = {name: value for name, value in content.items() if name in FIELDS}
    for name in DISTRIBUTIONS:
        known[name] = _filled_in(known[name]) if known.get(name) else None
    return msgspec.convert(known, Measurement)


FIELDS = frozenset(field.name for field in fields(Measurement))


ALWAYS = tuple(part.name for part in fields(Stats) if part.type == "float" and part.name != "mean")
"""Parts of a distribution that are numbers, NaN where an imported file does not hold them."""


def _filled_in(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a distribution with NaN for what it does not hold."""
    if None not in content.values():
        return content
    unknown = [name for name in ALWAYS if content.get(name, 0) is None]
    return {**content, **dict.fromkeys(unknown, math.nan)} if unknown else content
