"""Records as AIPerf's ``profile_export.jsonl`` and ``profile_export_aiperf.json``. Pure.

Tags and units are AIPerf's, and so are the definitions: ``inter_token_latency`` is (latency - TTFT) / (OSL - 1) of a
request, which is our TPOT; gaps between chunks are ``inter_chunk_latency``; durations are from the first start to the
last token. Instants are wall-clock nanoseconds. Where our clock differs, ``runabout.origin`` says so in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratematch.exchange.runabout import RunAbout
from ratematch.measure import metrics
from ratematch.measure.goodput import Goodput, good
from ratematch.measure.records import RequestRecord
from ratematch.plan.experiment import load_to_json

Floats = NDArray[np.float64]
RECORDS_FILE = "profile_export.jsonl"
SUMMARY_FILE = "profile_export_aiperf.json"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)

Per = Callable[[Sequence[RequestRecord], RunAbout], Floats]

TAGS: dict[str, tuple[str, Per]] = {
    "time_to_first_token": ("ms", lambda records, about: metrics.ttft_ms(records, about.since)),
    "time_to_second_token": ("ms", lambda records, about: metrics.ttst_ms(records)),
    "inter_token_latency": ("ms", lambda records, about: metrics.tpot_ms(records)),
    "request_latency": ("ms", lambda records, about: metrics.e2el_ms(records, about.since)),
    "output_token_throughput_per_user": (
        "tokens/sec/user",
        lambda records, about: 1e3 / np.where(metrics.tpot_ms(records) > 0, metrics.tpot_ms(records), np.nan),
    ),
    "output_sequence_length": ("tokens", lambda records, about: metrics.output_tokens(records)),
    "output_token_count": ("tokens", lambda records, about: metrics.output_tokens(records)),
    "input_sequence_length": ("tokens", lambda records, about: _prompt_tokens(records)),
}
"""Metrics of one request: AIPerf's tag, unit, and the values of records in their order, NaN where undefined."""


def profile_export_lines(
    records: Sequence[RequestRecord], about: RunAbout, warmup: Sequence[RequestRecord] = ()
) -> Iterator[dict[str, Any]]:
    """One object a request that was sent, warm-up first (``profile_export.jsonl``). Failed ones carry ``error``."""
    for phase, some in (("warmup", warmup), ("profiling", records)):
        sent = sorted((record for record in some if record.sent_ns is not None), key=lambda record: record.seq)
        columns = {tag: (unit, values(sent, about)) for tag, (unit, values) in TAGS.items()}
        for number, record in enumerate(sent):
            whole = metrics.is_complete(record)
            yield {
                "metadata": _metadata(record, about, phase),
                "metrics": _metrics_of(record, columns, number) if whole else {},
                "error": None if whole else _error(record),
            }


def profile_export_aiperf(
    records: Sequence[RequestRecord], about: RunAbout, goodput: Goodput | None = None
) -> dict[str, Any]:
    """The object of ``profile_export_aiperf.json``: a distribution a tag, counts and rates of the whole run."""
    sent = [record for record in records if record.sent_ns is not None]
    done = [record for record in sent if metrics.is_complete(record)]
    content: dict[str, Any] = {}
    for tag, (unit, values) in TAGS.items():
        known = values(done, about)
        if (stats := _distribution(known[~np.isnan(known)], unit)) is not None:
            content[tag] = stats
    if (gaps := _distribution(metrics.chunk_gap_ms(done), "ms")) is not None:
        content["inter_chunk_latency"] = gaps
    tokens_in, tokens_out = float(np.nansum(_prompt_tokens(done))), float(metrics.output_tokens(done).sum())
    content |= {
        "request_count": _single(len(done), "requests"),
        "error_request_count": _single(len(sent) - len(done), "requests"),
        "total_isl": _single(tokens_in, "tokens"),
        "total_osl": _single(tokens_out, "tokens"),
        "total_output_tokens": _single(tokens_out, "tokens"),
    }
    if done:
        content |= _run_level(done, about, tokens_in, tokens_out, goodput)
    endpoint = {"model_names": [about.model], "type": "chat" if about.api == "chat" else "completions"}
    config = {"endpoint": {**endpoint, "urls": [about.url], "streaming": True}, "load": load_to_json(about.load)}
    errors: dict[str, int] = {}
    for record in sent:
        if not metrics.is_complete(record):
            text = record.error or record.outcome
            errors[text] = errors.get(text, 0) + 1
    summary = [{"error_details": {"message": text}, "count": count} for text, count in sorted(errors.items())]
    return {**content, "input_config": config, "error_summary": summary, "was_cancelled": False, **about.origin}


def _run_level(
    done: Sequence[RequestRecord], about: RunAbout, tokens_in: float, tokens_out: float, goodput: Goodput | None
) -> dict[str, Any]:
    first = float(metrics.start_ns(done, about.since).min())
    last = float(max(record.last_token_ns or 0 for record in done))
    seconds = (last - first) / 1e9
    content = {
        "min_request_timestamp": _single(first + about.wall_offset_ns, "ns"),
        "max_response_timestamp": _single(last + about.wall_offset_ns, "ns"),
        "benchmark_duration": _single(seconds, "sec"),
    }
    if seconds > 0:
        content["request_throughput"] = _single(len(done) / seconds, "requests/sec")
        content["output_token_throughput"] = _single(tokens_out / seconds, "tokens/sec")
        content["total_token_throughput"] = _single((tokens_in + tokens_out) / seconds, "tokens/sec")
    if goodput is not None:
        count = int(good(done, goodput, about.since).sum())
        content["good_request_count"] = _single(count, "requests")
        if seconds > 0:
            content["goodput"] = _single(count / seconds, "requests/sec")
    return content


def _metadata(record: RequestRecord, about: RunAbout, phase: str) -> dict[str, Any]:
    start = record.intended_ns if about.since == "intended" else record.sent_ns or 0
    end = record.end_ns if record.end_ns is not None else record.last_token_ns
    return {
        "session_num": record.seq,
        "x_request_id": f"ratematch-{record.seq}",
        "x_correlation_id": f"ratematch-{record.seq}",
        "conversation_id": f"session_{record.seq}",
        "turn_index": 0,
        "request_start_ns": start + about.wall_offset_ns,
        "request_ack_ns": None,
        "request_end_ns": None if end is None else end + about.wall_offset_ns,
        "worker_id": "ratematch",
        "record_processor_id": "ratematch",
        "benchmark_phase": phase,
        "was_cancelled": record.outcome == "cancelled",
        "cancellation_time_ns": record.end_ns + about.wall_offset_ns
        if record.outcome == "cancelled" and record.end_ns is not None
        else None,
    }


def _metrics_of(record: RequestRecord, columns: dict[str, tuple[str, Floats]], number: int) -> dict[str, Any]:
    content: dict[str, Any] = {
        tag: {"value": _plain(values[number], unit), "unit": unit}
        for tag, (unit, values) in columns.items()
        if not np.isnan(values[number])
    }
    if len(record.chunk_ns) > 1:
        gaps = (np.diff(record.chunk_ns) / metrics.NS_PER_MS).tolist()
        content["inter_chunk_latency"] = {"value": gaps, "unit": "ms"}
    return content


def _plain(value: float, unit: str) -> float | int:
    return int(value) if unit == "tokens" else float(value)


def _error(record: RequestRecord) -> dict[str, Any]:
    text = record.error or ("no usage in the answer" if record.outcome == "ok" else record.outcome)
    return {"code": record.status, "type": record.outcome, "message": text}


def _prompt_tokens(records: Sequence[RequestRecord]) -> Floats:
    return np.array([record.isl or record.isl_reported or np.nan for record in records], dtype=np.float64)


def _single(value: float, unit: str) -> dict[str, Any]:
    return {"unit": unit, "avg": float(value)}


def _distribution(known: Floats, unit: str) -> dict[str, Any] | None:
    if known.size == 0:
        return None
    percentiles = np.percentile(known, PERCENTILES)
    return {
        "unit": unit,
        "avg": float(known.mean()),
        **{f"p{name}": float(value) for name, value in zip(PERCENTILES, percentiles, strict=True)},
        "min": float(known.min()),
        "max": float(known.max()),
        "std": float(known.std()),
    }
