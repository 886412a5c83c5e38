"""Times of requests as late releases give them: with the answers to requests that ask for them, and in JSONL files.

The orchestrator knows its workers' times from the headers of their answers only, so its own records have no instants
of a KV transfer; the workers' files have them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from ratematch.emulator.protocol import Json, encode
from ratematch.engines.trtllm_serve.requesttimes import ASK, CHUNKS, INSTANTS, TIMING

RETURN_HEADER, RETURN_VALUE = ASK.header

_SPANS = (
    ("queue", "arrival_time", "first_scheduled_time"),
    ("ttft", "arrival_time", "first_token_time"),
    ("e2e", "arrival_time", "last_token_time"),
    ("kv_transfer", "kv_cache_transfer_start", "kv_cache_transfer_end"),
)


class TimesFile:
    """The file of one server, made at its first record; nothing is written without a ``folder``."""

    def __init__(self, folder: str | None, kind: str):
        self._folder = None if folder is None else Path(folder)
        self._kind = kind
        self._path: Path | None = None

    def write(self, record: Json) -> None:
        if self._folder is None:
            return
        if self._path is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            self._path = self._folder / f"perf_metrics-{self._kind}-{socket.gethostname()}-{os.getpid()}-{now}.jsonl"
        with self._path.open("ab") as file:
            file.write(encode(record) + b"\n")


def fields_of_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The fields that a worker's answer carries."""
    return {name: headers[name] for name in ASK.fields if name in headers}


def wants_times(headers: Mapping[str, str]) -> bool:
    """Does a request ask for the times of itself?"""
    return headers.get(RETURN_HEADER, "").strip() == RETURN_VALUE


def times_event(fields: Mapping[str, str]) -> bytes:
    """The event behind ``[DONE]``; nothing where there are no times."""
    return b"event: %b\ndata: %b\n\n" % (ASK.event.encode(), encode(dict(fields))) if fields else b""


def fields_of_worker(timing: Mapping[str, float | None]) -> dict[str, str]:
    """What a worker sends of one request."""
    lasted = [f"server_{name};dur={ms:.6f}" for name, ms in _durations(timing)]
    at = [
        f"server-{name};ts={timing[key]:.9f}"
        for name, key in (("start", "arrival_time"), ("end", "last_token_time"))
        if timing.get(key) is not None
    ]
    begin, first = timing.get("first_scheduled_time"), timing.get("first_token_time")
    computed = begin is not None and first is not None and timing.get("kv_cache_transfer_end") is None
    chunk = f"server-ctx-chunk-0-forward;dur={((first or 0) - (begin or 0)) * 1e3:.6f}" if computed else ""
    fields = {TIMING: ", ".join(lasted), INSTANTS: ", ".join(at), CHUNKS: chunk}
    return {name: value for name, value in fields.items() if value}


def _durations(timing: Mapping[str, float | None]) -> list[tuple[str, float]]:
    spans = [(name, timing.get(start), timing.get(end)) for name, start, end in _SPANS]
    return [(name, (end - start) * 1e3) for name, start, end in spans if start is not None and end is not None]


def fields_for_client(disagg: Mapping[str, float | None], phases: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the orchestrator sends of one request: its own times (``server_arrival_time``, ``ctx_dispatch_time``,
    ``server_first_token_time``) and what its workers sent, by phase."""
    own: list[str] = []
    for name, key in (("queue", "ctx_dispatch_time"), ("ttft", "server_first_token_time")):
        start, end = disagg.get("server_arrival_time"), disagg.get(key)
        if start is not None and end is not None:
            own.append(f"disagg_{name};dur={(end - start) * 1e3:.6f}")
    gathered = {TIMING: own}
    for phase, fields in phases.items():
        for header, text in fields.items():
            named = text.replace("server_", f"{phase}_").replace("server-", f"{phase}-")
            gathered.setdefault(header, []).append(named)
    return {header: ", ".join(items) for header, items in gathered.items() if items}


def timing_of_fields(fields: Mapping[str, str]) -> Json:
    """The instants that can be told from what a worker sent."""
    at = _pairs(fields.get(INSTANTS, ""), ";ts=")
    lasted = _pairs(fields.get(TIMING, ""), ";dur=")
    start = at.get("server-start")
    timing: Json = {"arrival_time": start, "last_token_time": at.get("server-end")}
    for name, key in (("queue", "first_scheduled_time"), ("ttft", "first_token_time")):
        duration = lasted.get(f"server_{name}")
        timing[key] = None if start is None or duration is None else start + duration / 1e3
    return timing


def _pairs(text: str, separator: str) -> dict[str, float]:
    parts = [item.strip().partition(separator) for item in text.split(",") if separator in item]
    return {name: float(value) for name, _, value in parts}


def read_event(rest: bytes) -> dict[str, str]:
    """The fields in the event of a worker; none where it sent none."""
    _, found, data = rest.partition(b"data: ")
    try:
        return msgspec.json.decode(data.strip(), type=dict[str, str]) if found else {}
    except msgspec.DecodeError:
        return {}
