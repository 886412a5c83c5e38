"""Reads what AIPerf writes: ``profile_export.jsonl`` (a request a line) and ``profile_export_aiperf.json`` (sums)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from ratematch.errors import UserError
from ratematch.exchange.foreign import ForeignLoad, Hints, list_missing, make_stats, number, whole_run
from ratematch.measure.records import Outcome, RequestRecord

NS_PER_UNIT = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9, "sec": 1e9, "seconds": 1e9}
NEEDED = ("time_to_first_token", "request_latency", "output_sequence_length", "input_sequence_length")
STATS = {
    "ttft_ms": "time_to_first_token",
    "tpot_ms": "inter_token_latency",
    "itl_ms": "inter_chunk_latency",
    "e2el_ms": "request_latency",
}
SUMMARY = ("request_count", "request_throughput", "output_token_throughput", *NEEDED, "inter_token_latency")
NAMES = {"mean": "avg", "std": "std", "min": "min", "max": "max"} | {
    f"p{p}": f"p{p}" for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)
}


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
            about, metrics = content["metadata"], content.get("metrics") or {}
            start = int(about["request_start_ns"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}:{place}: no record of AIPerf's profile_export.jsonl ({error!r})") from error
        where = f"{file}:{place}"
        record = _read_record(len(records) + len(warmup), start, about, metrics, content.get("error"), where)
        if record.outcome == "ok":
            for tag in NEEDED:
                if tag not in metrics:
                    missing[tag] = missing.get(tag, 0) + 1
        # Files older than the field hold profiled requests only.
        (records if about.get("benchmark_phase", "profiling") == "profiling" else warmup).append(record)
    if not records:
        raise UserError(f"{file}: holds no request of the profiling phase")
    answered = [record for record in records if record.outcome == "ok"]
    hints = Hints(isl=_mean(r.isl for r in answered if r.isl), osl=_mean(r.osl for r in answered if r.osl))
    told = tuple(f"{tag} ({count} of {len(answered)} requests)" for tag, count in missing.items())
    return ForeignLoad("AIPerf", file, hints, "", tuple(records), tuple(warmup), None, told)


def _read_record(
    seq: int, start: int, about: Mapping[str, Any], metrics: Mapping[str, Any], error: Any, where: str
) -> RequestRecord:
    end = about.get("request_end_ns")
    record = RequestRecord(seq, start, sent_ns=start, end_ns=int(end) if end is not None else None)
    isl, osl = _tokens(metrics, "input_sequence_length", where), _tokens(metrics, "output_sequence_length", where)
    record.isl, record.osl = isl or 0, osl
    # What was asked for is not in the file; AIPerf's own checks stand for it.
    record.osl_requested = osl or 0
    if error or about.get("was_cancelled"):
        kind = str((error or {}).get("type", "")) if isinstance(error, Mapping) else ""
        record.outcome = kind if kind in get_args(Outcome) and kind != "ok" else "http_error"  # type: ignore[assignment]
        if about.get("was_cancelled"):
            record.outcome = "cancelled"
        if isinstance(error, Mapping):
            code = error.get("code")
            record.status = code if isinstance(code, int) else None
            record.error = str(error.get("message") or error.get("type") or "error")
        return record
    ttft, latency = _ns(metrics, "time_to_first_token", where), _ns(metrics, "request_latency", where)
    if ttft is not None:
        record.first_token_ns = start + round(ttft)
    if latency is not None:
        record.last_token_ns = start + round(latency)
        record.end_ns = record.end_ns if record.end_ns is not None else record.last_token_ns
    if record.first_token_ns is not None and record.last_token_ns is not None:
        record.chunk_ns = [record.first_token_ns]
        gaps = metrics.get("inter_chunk_latency")
        if gaps and isinstance(gaps.get("value"), list) and gaps["value"]:
            scale, at = _scale(gaps, "inter_chunk_latency", where), float(record.first_token_ns)
            for gap in gaps["value"]:
                at += float(gap) * scale
                record.chunk_ns.append(round(at))
        elif record.last_token_ns > record.first_token_ns:
            record.chunk_ns.append(record.last_token_ns)
    record.status = 200
    return record


def _scale(metric: Mapping[str, Any], tag: str, where: str) -> float:
    unit = str(metric.get("unit", ""))
    if unit not in NS_PER_UNIT:
        raise UserError(f"{where}: {tag} has the unit {unit!r}; known: {', '.join(NS_PER_UNIT)}")
    return NS_PER_UNIT[unit]


def _ns(metrics: Mapping[str, Any], tag: str, where: str) -> float | None:
    metric = metrics.get(tag)
    value = number(metric, "value", f"{where}: {tag}") if metric else None
    return None if value is None else value * _scale(metric or {}, tag, where)


def _tokens(metrics: Mapping[str, Any], tag: str, where: str) -> int | None:
    metric = metrics.get(tag)
    value = number(metric, "value", f"{where}: {tag}") if metric else None
    return None if value is None else round(value)


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def is_summary(content: Any) -> bool:
    """Is this ``profile_export_aiperf.json``, by its shape?"""
    return isinstance(content, dict) and isinstance(content.get("request_throughput"), dict)


def read_summary(content: Mapping[str, Any], file: str) -> ForeignLoad:
    """The figures of ``profile_export_aiperf.json``: distributions by tag, rates of the whole run.

    Raises:
        UserError: a figure that is no number, or of a unit that is not known.
    """
    done = int(_single(content, "request_count", file) or 0)
    failed = _single(content, "error_request_count", file)
    stats = {}
    for ours, tag in STATS.items():
        metric = content.get(tag)
        if metric is None:
            continue
        scale = _scale(metric, tag, file) / NS_PER_UNIT["ms"]
        values = {name: number(metric, theirs, f"{file}: {tag}") for name, theirs in NAMES.items()}
        stats[ours] = make_stats({k: None if v is None else v * scale for k, v in values.items()}, done)
    isl, osl = _single(content, "input_sequence_length", file), _single(content, "output_sequence_length", file)
    figures = whole_run(
        num_requests=done + int(failed or 0),
        num_failed=None if failed is None else int(failed),
        stats=stats,
        req_s=_single(content, "request_throughput", file),
        tok_s=_single(content, "output_token_throughput", file),
        isl=isl,
        osl=osl,
        tool="AIPerf",
    )
    return ForeignLoad(
        "AIPerf", file, read_config(content, isl, osl), figures=figures, missing=list_missing(content, SUMMARY)
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


def _single(content: Mapping[str, Any], tag: str, file: str) -> float | None:
    metric = content.get(tag)
    return number(metric, "avg", f"{file}: {tag}") if isinstance(metric, Mapping) else None
