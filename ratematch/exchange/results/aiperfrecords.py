"""Reads AIPerf's ``profile_export.jsonl``, a request a line. It is written by ``aiperf`` beside this. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np

from ratematch.errors import UserError
from ratematch.exchange.results.aiperf import REQUEST_TAGS, TOOL, by_tag, scale
from ratematch.exchange.results.fields import count, describe, number, section
from ratematch.exchange.results.foreign import ForeignLoad, Hints
from ratematch.measure.records import Outcome, RequestRecord

MOST_NS = 4_000_000_000_000_000_000
"""Instants are 64-bit nanoseconds of the Unix epoch: this is the year 2096."""
LONGEST_NS = 10_000_000_000_000_000
"""No request takes as long: 115 days."""


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
        where = f"{file}:{place}"
        metadata, values, error = _parse_line(line, where)
        record = _read_record(len(records) + len(warmup), metadata, values, error, where)
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
    lacking = tuple(f"{tag} ({number} of {len(answered)} requests)" for tag, number in missing.items())
    return ForeignLoad(TOOL, file, hints, records=tuple(records), warmup=tuple(warmup), missing=lacking)


def _parse_line(line: str, where: str) -> tuple[Mapping[str, Any], Mapping[str, Any], Any]:
    """Metadata, metrics and error of a record."""
    try:
        content = json.loads(line)
        section({"line": content}, "line", where)
    except (ValueError, RecursionError, UserError) as error:
        raise UserError(f"{where}: no record of AIPerf's profile_export.jsonl (not a JSON object)") from error
    if content.get("metadata") is None:
        raise UserError(f"{where}: no record of AIPerf's profile_export.jsonl (no metadata)")
    return section(content, "metadata", where), by_tag(section(content, "metrics", where)), content.get("error")


def _read_record(
    seq: int, metadata: Mapping[str, Any], values: Mapping[str, Any], error: Any, where: str
) -> RequestRecord:
    start = _instant(metadata, "request_start_ns", where)
    if start is None:
        raise UserError(f"{where}: no record of AIPerf's profile_export.jsonl (no request_start_ns)")
    end = _instant(metadata, "request_end_ns", where)
    if end is not None and end < start:
        raise UserError(f"{where}: request_end_ns is before request_start_ns")
    record = RequestRecord(seq, start, sent_ns=start, end_ns=end)
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
            record.status = code if isinstance(code, int) and 0 <= code < 1_000_000 else None
            said = str(error.get("message") or error.get("type") or "error")
            record.error = said.encode("utf-8", "replace").decode("utf-8")
        return record
    ttft, latency = _ns(values, "time_to_first_token", where), _ns(values, "request_latency", where)
    if ttft and (latency is None or ttft <= latency * (1 + 1e-6)):  # 0: the client saw no token arrive
        record.first_token_ns = start + round(ttft)
    if latency is not None:
        record.last_token_ns = start + round(latency)
        record.end_ns = record.end_ns if record.end_ns is not None else record.last_token_ns
    if record.first_token_ns is not None and record.last_token_ns is not None:
        record.chunk_ns = _chunks(values, record.first_token_ns, record.last_token_ns, where)
    record.status = 200
    return record


def _chunks(values: Mapping[str, Any], first: int, last: int, where: str) -> list[int]:
    """Instants of the chunks of an answer."""
    gaps = section(values, "inter_chunk_latency", where)
    listed = gaps.get("value")
    if not isinstance(listed, list) or not listed:
        return [first, last] if last > first else [first]
    try:
        between = np.array(listed, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: inter_chunk_latency is not a list of numbers") from error
    unit = scale(gaps, "inter_chunk_latency", where)
    if not (between.ndim == 1 and (between >= 0).all() and between.max() <= LONGEST_NS / len(listed) / unit):
        raise UserError(f"{where}: inter_chunk_latency is no list of times between chunks")
    return [first, *(first + round(after) for after in (np.cumsum(between) * unit).tolist())]


def _instant(metadata: Mapping[str, Any], key: str, where: str) -> int | None:
    """Nanoseconds as they are: as a float they would lose their last digits."""
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_NS:
        raise UserError(f"{where}: {key} is {describe(value)}, not nanoseconds of a clock")
    return value


def _ns(values: Mapping[str, Any], tag: str, where: str) -> float | None:
    metric = section(values, tag, where)
    value = number(metric, "value", f"{where}: {tag}")
    if value is None:
        return None
    length = value * scale(metric, tag, where)
    if length > LONGEST_NS:
        raise UserError(f"{where}: {tag} is {describe(value)} {metric['unit']}: no request takes as long")
    return length


def _tokens(values: Mapping[str, Any], tag: str, where: str) -> int | None:
    return count(section(values, tag, where), "value", f"{where}: {tag}")


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
