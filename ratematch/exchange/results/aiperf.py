"""AIPerf's ``profile_export.jsonl`` and ``profile_export_aiperf.json``, read and written. Pure.

Tags and units are AIPerf's, and so are the definitions: ``inter_token_latency`` is (latency - TTFT) / (OSL - 1) of a
request, which is our TPOT; gaps between chunks are ``inter_chunk_latency``; durations are from the first start to the
last token. Instants are wall-clock nanoseconds. Where our clock differs, ``RunInfo.origin`` says so in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.exchange.results.foreign import (
    ForeignLoad,
    Hints,
    RunFigures,
    RunInfo,
    Tool,
    list_missing,
    make_stats,
    measure_run,
    number,
)
from ratematch.measure import metrics
from ratematch.measure.goodput import Goodput, good
from ratematch.measure.records import Outcome, RequestRecord
from ratematch.plan.experiment import load_to_json

TOOL: Tool = "AIPerf"
RECORDS_FILE = "profile_export.jsonl"
SUMMARY_FILE = "profile_export_aiperf.json"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
NS_PER_UNIT = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9, "sec": 1e9, "seconds": 1e9}
REQUEST_TAGS = ("time_to_first_token", "request_latency", "output_sequence_length", "input_sequence_length")
"""Metrics that every answered request of a complete file has."""
DISTRIBUTION_TAGS = {
    "ttft_ms": "time_to_first_token",
    "tpot_ms": "inter_token_latency",
    "itl_ms": "inter_chunk_latency",
    "e2el_ms": "request_latency",
}
SUMMARY_TAGS = (
    "request_count",
    "request_throughput",
    "output_token_throughput",
    *REQUEST_TAGS,
    "inter_token_latency",
)
"""Metrics that a complete summary has."""
STAT_NAMES = {"mean": "avg", "std": "std", "min": "min", "max": "max"} | {f"p{p}": f"p{p}" for p in PERCENTILES}
"""Our names of what a distribution holds, and AIPerf's."""


def read_lines(lines: Iterable[str], file: str) -> ForeignLoad:
    """The requests of ``profile_export.jsonl``: failed ones are kept as such, warm-up apart.

    The clock is AIPerf's (Unix epoch, ns); a request starts when AIPerf says it does (``request_start_ns``), whatever
    the schedule wanted: how late its client was is not in the file.

    Raises:
        UserError: a line that is no such record, with its number.
    """
    records: list[RequestRecord] = []
    warmup: list[RequestRecord] = []
    missing: dict[str, int] = {}
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            metadata, values = content["metadata"], content.get("metrics") or {}
            start = int(metadata["request_start_ns"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}:{place}: no record of AIPerf's profile_export.jsonl ({error!r})") from error
        where = f"{file}:{place}"
        record = _read_record(len(records) + len(warmup), start, metadata, values, content.get("error"), where)
        if record.outcome == "ok":
            for tag in REQUEST_TAGS:
                if tag not in values:
                    missing[tag] = missing.get(tag, 0) + 1
        # Files older than the field hold profiled requests only.
        (records if metadata.get("benchmark_phase", "profiling") == "profiling" else warmup).append(record)
    if not records:
        raise UserError(f"{file}: holds no request of the profiling phase")
    answered = [record for record in records if record.outcome == "ok"]
    hints = Hints(isl=_mean(r.isl for r in answered if r.isl), osl=_mean(r.osl for r in answered if r.osl))
    lacking = tuple(f"{tag} ({count} of {len(answered)} requests)" for tag, count in missing.items())
    return ForeignLoad(TOOL, file, hints, records=tuple(records), warmup=tuple(warmup), missing=lacking)


def _read_record(
    seq: int, start: int, metadata: Mapping[str, Any], values: Mapping[str, Any], error: Any, where: str
) -> RequestRecord:
    end = metadata.get("request_end_ns")
    record = RequestRecord(seq, start, sent_ns=start, end_ns=int(end) if end is not None else None)
    isl, osl = _tokens(values, "input_sequence_length", where), _tokens(values, "output_sequence_length", where)
    record.isl, record.osl = isl or 0, osl
    # The requested length is not in the file; AIPerf's own checks stand for it.
    record.osl_requested = osl or 0
    if error or metadata.get("was_cancelled"):
        kind = str((error or {}).get("type", "")) if isinstance(error, Mapping) else ""
        record.outcome = kind if kind in get_args(Outcome) and kind != "ok" else "http_error"  # type: ignore[assignment]
        if metadata.get("was_cancelled"):
            record.outcome = "cancelled"
        if isinstance(error, Mapping):
            code = error.get("code")
            record.status = code if isinstance(code, int) else None
            record.error = str(error.get("message") or error.get("type") or "error")
        return record
    ttft, latency = _ns(values, "time_to_first_token", where), _ns(values, "request_latency", where)
    if ttft is not None:
        record.first_token_ns = start + round(ttft)
    if latency is not None:
        record.last_token_ns = start + round(latency)
        record.end_ns = record.end_ns if record.end_ns is not None else record.last_token_ns
    if record.first_token_ns is not None and record.last_token_ns is not None:
        record.chunk_ns = [record.first_token_ns]
        gaps = values.get("inter_chunk_latency")
        if gaps and isinstance(gaps.get("value"), list) and gaps["value"]:
            scale, at = _scale(gaps, "inter_chunk_latency", where), float(record.first_token_ns)
            for gap in gaps["value"]:
                at += float(gap) * scale
                record.chunk_ns.append(round(at))
        elif record.last_token_ns > record.first_token_ns:
            record.chunk_ns.append(record.last_token_ns)
    record.status = 200
    return record


def is_summary(content: Any) -> bool:
    """Is this ``profile_export_aiperf.json``, by its shape?"""
    return isinstance(content, dict) and isinstance(content.get("request_throughput"), dict)


def read_summary(content: Mapping[str, Any], file: str) -> ForeignLoad:
    """The figures of ``profile_export_aiperf.json``: distributions by tag, rates of the whole run.

    Raises:
        UserError: a figure that is no number, or of a unit that is not known.
    """
    done = int(_read_mean(content, "request_count", file) or 0)
    failed = _read_mean(content, "error_request_count", file)
    stats = {}
    for ours, tag in DISTRIBUTION_TAGS.items():
        metric = content.get(tag)
        if metric is None:
            continue
        scale = _scale(metric, tag, file) / NS_PER_UNIT["ms"]
        values = {name: number(metric, theirs, f"{file}: {tag}") for name, theirs in STAT_NAMES.items()}
        stats[ours] = make_stats({k: None if v is None else v * scale for k, v in values.items()}, done)
    isl, osl = _read_mean(content, "input_sequence_length", file), _read_mean(content, "output_sequence_length", file)
    figures = RunFigures(
        num_requests=done + int(failed or 0),
        num_failed=None if failed is None else int(failed),
        stats=stats,
        req_s=_read_mean(content, "request_throughput", file),
        tok_s=_read_mean(content, "output_token_throughput", file),
        isl=isl,
        osl=osl,
    )
    return ForeignLoad(
        TOOL,
        file,
        read_config(content, isl, osl),
        figures=measure_run(figures, TOOL),
        missing=list_missing(content, SUMMARY_TAGS),
    )


def read_config(content: Mapping[str, Any], isl: float | None = None, osl: float | None = None) -> Hints:
    """What the summary's configuration says of model and load."""
    config = content.get("input_config") or {}
    endpoint = config.get("endpoint") or {}
    load = config.get("loadgen") or config.get("load") or {}
    models = endpoint.get("model_names") or []
    concurrency, rate = load.get("concurrency"), load.get("request_rate") or load.get("req_s")
    emulated = content.get("emulated")
    return Hints(
        model=str(models[0]) if models else None,
        isl=isl,
        osl=osl,
        concurrency=int(concurrency) if isinstance(concurrency, int | float) else None,
        request_rate=float(rate) if isinstance(rate, int | float) else None,
        emulated=emulated if isinstance(emulated, bool) else None,
    )


def _read_mean(content: Mapping[str, Any], tag: str, file: str) -> float | None:
    metric = content.get(tag)
    return number(metric, "avg", f"{file}: {tag}") if isinstance(metric, Mapping) else None


def _scale(metric: Mapping[str, Any], tag: str, where: str) -> float:
    unit = str(metric.get("unit", ""))
    if unit not in NS_PER_UNIT:
        raise UserError(f"{where}: {tag} has the unit {unit!r}; known: {', '.join(NS_PER_UNIT)}")
    return NS_PER_UNIT[unit]


def _ns(values: Mapping[str, Any], tag: str, where: str) -> float | None:
    metric = values.get(tag)
    value = number(metric, "value", f"{where}: {tag}") if metric else None
    return None if value is None else value * _scale(metric or {}, tag, where)


def _tokens(values: Mapping[str, Any], tag: str, where: str) -> int | None:
    metric = values.get(tag)
    value = number(metric, "value", f"{where}: {tag}") if metric else None
    return None if value is None else round(value)


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


Floats = NDArray[np.float64]
Per = Callable[[Sequence[RequestRecord], RunInfo], Floats]
REQUEST_METRICS: dict[str, tuple[str, Per]] = {
    "time_to_first_token": ("ms", lambda records, info: metrics.ttft_ms(records, info.since)),
    "time_to_second_token": ("ms", lambda records, info: metrics.ttst_ms(records)),
    "inter_token_latency": ("ms", lambda records, info: metrics.plain_tpot_ms(records)),
    "request_latency": ("ms", lambda records, info: metrics.e2el_ms(records, info.since)),
    "output_token_throughput_per_user": (
        "tokens/sec/user",
        lambda records, info: (
            1e3 / np.where(metrics.plain_tpot_ms(records) > 0, metrics.plain_tpot_ms(records), np.nan)
        ),
    ),
    "output_sequence_length": ("tokens", lambda records, info: metrics.output_tokens(records)),
    "output_token_count": ("tokens", lambda records, info: metrics.output_tokens(records)),
    "input_sequence_length": ("tokens", lambda records, info: _prompt_tokens(records)),
}
"""Metrics of a request as they are written: AIPerf's tag, the unit, and the values of
records in their order, NaN where undefined."""


def profile_export_lines(
    records: Sequence[RequestRecord], info: RunInfo, warmup: Sequence[RequestRecord] = ()
) -> Iterator[dict[str, Any]]:
    """One object a request that was sent, warm-up first (``profile_export.jsonl``). Failed ones carry ``error``."""
    for phase, some in (("warmup", warmup), ("profiling", records)):
        sent = sorted((record for record in some if record.sent_ns is not None), key=lambda record: record.seq)
        columns = {tag: (unit, values(sent, info)) for tag, (unit, values) in REQUEST_METRICS.items()}
        for index, record in enumerate(sent):
            whole = metrics.is_complete(record)
            yield {
                "metadata": _metadata(record, info, phase),
                "metrics": _metrics_of(record, columns, index) if whole else {},
                "error": None if whole else _error(record),
            }


def profile_export_aiperf(
    records: Sequence[RequestRecord], info: RunInfo, goodput: Goodput | None = None
) -> dict[str, Any]:
    """The object of ``profile_export_aiperf.json``: a distribution a tag, counts and rates of the whole run."""
    sent = [record for record in records if record.sent_ns is not None]
    done = [record for record in sent if metrics.is_complete(record)]
    content: dict[str, Any] = {}
    for tag, (unit, values) in REQUEST_METRICS.items():
        known = values(done, info)
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
        content |= _run_level(done, info, tokens_in, tokens_out, goodput)
    endpoint = {"model_names": [info.model], "type": "chat" if info.api == "chat" else "completions"}
    config = {"endpoint": {**endpoint, "urls": [info.url], "streaming": True}, "load": load_to_json(info.load)}
    errors: dict[str, int] = {}
    for record in sent:
        if not metrics.is_complete(record):
            text = record.error or record.outcome
            errors[text] = errors.get(text, 0) + 1
    summary = [{"error_details": {"message": text}, "count": count} for text, count in sorted(errors.items())]
    return {**content, "input_config": config, "error_summary": summary, "was_cancelled": False, **info.origin}


def _run_level(
    done: Sequence[RequestRecord], info: RunInfo, tokens_in: float, tokens_out: float, goodput: Goodput | None
) -> dict[str, Any]:
    first = float(metrics.start_ns(done, info.since).min())
    last = float(max(record.last_token_ns or 0 for record in done))
    seconds = (last - first) / 1e9
    content = {
        "min_request_timestamp": _single(first + info.wall_offset_ns, "ns"),
        "max_response_timestamp": _single(last + info.wall_offset_ns, "ns"),
        "benchmark_duration": _single(seconds, "sec"),
    }
    if seconds > 0:
        content["request_throughput"] = _single(len(done) / seconds, "requests/sec")
        content["output_token_throughput"] = _single(tokens_out / seconds, "tokens/sec")
        content["total_token_throughput"] = _single((tokens_in + tokens_out) / seconds, "tokens/sec")
    if goodput is not None:
        count = int(good(done, goodput, info.since).sum())
        content["good_request_count"] = _single(count, "requests")
        if seconds > 0:
            content["goodput"] = _single(count / seconds, "requests/sec")
    return content


def _metadata(record: RequestRecord, info: RunInfo, phase: str) -> dict[str, Any]:
    start = record.intended_ns if info.since == "intended" else record.sent_ns or 0
    end = record.end_ns if record.end_ns is not None else record.last_token_ns
    return {
        "session_num": record.seq,
        "x_request_id": f"ratematch-{record.seq}",
        "x_correlation_id": f"ratematch-{record.seq}",
        "conversation_id": f"session_{record.seq}",
        "turn_index": 0,
        "request_start_ns": start + info.wall_offset_ns,
        "request_ack_ns": None,
        "request_end_ns": None if end is None else end + info.wall_offset_ns,
        "worker_id": "ratematch",
        "record_processor_id": "ratematch",
        "benchmark_phase": phase,
        "was_cancelled": record.outcome == "cancelled",
        "cancellation_time_ns": record.end_ns + info.wall_offset_ns
        if record.outcome == "cancelled" and record.end_ns is not None
        else None,
    }


def _metrics_of(record: RequestRecord, columns: dict[str, tuple[str, Floats]], index: int) -> dict[str, Any]:
    content: dict[str, Any] = {
        tag: {"value": _plain(values[index], unit), "unit": unit}
        for tag, (unit, values) in columns.items()
        if not np.isnan(values[index])
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
