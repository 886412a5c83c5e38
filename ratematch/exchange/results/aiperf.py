"""AIPerf's ``profile_export_aiperf.json``, read and written, and ``profile_export.jsonl``, written. Pure.

Records are read by :mod:`ratematch.exchange.results.aiperfrecords`.

Tags and units are AIPerf's, and so are the definitions: ``inter_token_latency`` is (latency - TTFT) / (OSL - 1) of a
request, which is our TPOT; gaps between chunks are ``inter_chunk_latency``; durations are from the first start to the
last token. Instants are wall-clock nanoseconds. Where our clock differs, ``RunInfo.origin`` says so in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.exchange.results.aiperfconfig import Config
from ratematch.exchange.results.aiperfconfig import read_config as read_input_config
from ratematch.exchange.results.fields import count, describe, flag, number, section
from ratematch.exchange.results.foreign import ForeignLoad, Hints, RunInfo, Tool, list_missing, make_stats
from ratematch.exchange.results.wholerun import APART, RunFigures, measure_run
from ratematch.measure import metrics
from ratematch.measure.goodput import Goodput, good
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats
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
OLDER_TAGS = {"ttft": "time_to_first_token", "ttst": "time_to_second_token"}
"""Names of metrics before October 2025, when summaries had their metrics under ``records`` too."""


def is_summary(content: Any) -> bool:
    """Is this ``profile_export_aiperf.json``, by its shape?"""
    return _has(content, "avg") or (isinstance(content, dict) and _has(content.get("records"), "avg"))


def by_tag(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """``metrics`` by the names that they have today."""
    return {**{tag: metrics[older] for older, tag in OLDER_TAGS.items() if older in metrics}, **metrics}


def is_aggregate(content: Any) -> bool:
    """Is this the summary of several runs (``profile_export_aiperf_aggregate.json``), by its shape?"""
    return _has(content, "ci_low") or (isinstance(content, dict) and _has(content.get("metrics"), "ci_low"))


def _has(content: Any, statistic: str) -> bool:
    """Does ``content`` have that of its requests/s?"""
    throughput = content.get("request_throughput") if isinstance(content, dict) else None
    return isinstance(throughput, dict) and statistic in throughput


def read_summary(content: Mapping[str, Any], file: str, place: str = "") -> ForeignLoad:
    """The figures of ``profile_export_aiperf.json`` (schema 1.0 to 1.5): distributions by tag, rates of the run.

    Raises:
        UserError: a figure that is no number, or of a unit that is not known.
    """
    where = f"{file}: {place}" if place else file
    content = by_tag({**section(content, "records", where), **content})
    done = count({"avg": _read_mean(content, "request_count", where)}, "avg", f"{where}: request_count")
    failed = count({"avg": _read_mean(content, "error_request_count", where)}, "avg", f"{where}: error_request_count")
    stats = {}
    for ours, tag in DISTRIBUTION_TAGS.items():
        metric = section(content, tag, where)
        if not metric:
            continue
        to_ms = scale(metric, tag, where) / NS_PER_UNIT["ms"]
        values = {name: number(metric, theirs, f"{where}: {tag}") for name, theirs in STAT_NAMES.items()}
        stats[ours] = make_stats({k: None if v is None else v * to_ms for k, v in values.items()}, done or 0)
    isl, osl = (
        _read_mean(content, "input_sequence_length", where),
        _read_mean(content, "output_sequence_length", where),
    )
    config = read_input_config(content, where)
    acceptance = _read_mean(content, "spec_decode_acceptance_length", where)
    figures = RunFigures(
        num_requests=None if done is None else done + (failed or 0),
        num_failed=failed,
        stats=stats,
        req_s=_read_mean(content, "request_throughput", where),
        tok_s=_read_mean(content, "output_token_throughput", where),
        isl=isl,
        osl=osl,
        acceptance_length=acceptance or None,
        seconds=_read_seconds(content, where),
        tokens=_read_mean(content, "total_osl", where),
        contradictions=tuple(_contradictions(content, stats.get("tpot_ms"), where)),
        notes=(*config.notes, *(["the run was cancelled before its end"] if flag(content, "was_cancelled") else [])),
    )
    return ForeignLoad(
        TOOL,
        file,
        _hints(config, content, isl, osl),
        place,
        figures=measure_run(figures, TOOL),
        missing=list_missing(content, SUMMARY_TAGS),
        drafted=True if acceptance else None,
    )


def _contradictions(content: Mapping[str, Any], tpot: Stats | None, where: str) -> Iterator[str]:
    """The mean of tok/s/user is at least 1 over the mean of TPOT, whatever their distribution (Jensen)."""
    speed = _read_mean(content, "output_token_throughput_per_user", where)
    if speed and tpot is not None and speed * tpot.mean < 1000 * (1 - APART):
        yield f"{speed:g} tok/s/user, and a TPOT of {tpot.mean:g} ms makes {1000 / tpot.mean:.5g} at least"


def read_config(content: Mapping[str, Any], file: str) -> Hints:
    """What the summary's configuration says of model and load.

    Raises:
        UserError: a part of it is of another type.
    """
    return _hints(read_input_config(content, file), content)


def _hints(config: Config, content: Mapping[str, Any], isl: float | None = None, osl: float | None = None) -> Hints:
    emulated = content.get("emulated")
    return Hints(
        model=config.model,
        isl=isl,
        osl=osl,
        # With a rate, a concurrency is only its limit.
        concurrency=None if config.request_rate else config.concurrency,
        request_rate=config.request_rate,
        emulated=emulated if isinstance(emulated, bool) else None,
    )


def _read_mean(content: Mapping[str, Any], tag: str, file: str) -> float | None:
    return number(section(content, tag, file), "avg", f"{file}: {tag}")


def _read_seconds(content: Mapping[str, Any], file: str) -> float | None:
    duration = _read_mean(content, "benchmark_duration", file)
    if duration is None:
        return None
    return duration * scale(section(content, "benchmark_duration", file), "benchmark_duration", file) / 1e9


def scale(metric: Mapping[str, Any], tag: str, where: str) -> float:
    """Nanoseconds of the unit of ``metric``.

    Raises:
        UserError: a unit that is not known.
    """
    unit = metric.get("unit")
    if not isinstance(unit, str) or unit not in NS_PER_UNIT:
        raise UserError(f"{where}: {tag} has the unit {describe(unit)}; known: {', '.join(NS_PER_UNIT)}")
    return NS_PER_UNIT[unit]


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
    endpoint = {"model_names": [info.model], "type": "generate" if info.api.startswith("generate") else info.api}
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
