"""Times request by request, as servers hand them out: read after a load, from the best source that has any."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ratematch.engines.engine import Json
from ratematch.loadgen.limits import TIMES_LINE_BYTES, TIMINGS_BYTES
from ratematch.measure.loadrun import TimesFrom
from ratematch.measure.records import RequestRecord
from ratematch.measure.requesttimes import TimesSources
from ratematch.plan.launchplan import LaunchPlan
from ratematch.run.telemetry import read_perf_metrics

FILES_S = 10.0
"""The longest wait for the files of servers: they write in batches, and a shared file system shows it late."""

CHECK_S = 0.1

Marks = Mapping[Path, int]
"""How long each file of times was, in bytes."""


@dataclass(frozen=True)
class CollectedTimes:
    """``lines``: a JSON object each. ``source``: where they are from. ``note``: why there are none, or not all.
    ``problems``: of single servers, by name."""

    lines: Sequence[bytes]
    source: TimesFrom | None
    note: str | None
    problems: Mapping[str, str]


def mark_times(plan: LaunchPlan, launch: Path, sources: TimesSources) -> Marks:
    """Leave what earlier requests left out of what follows: records that are handed out once are fetched, and files
    are read from their present end."""
    read_perf_metrics(plan, sources.route)
    if sources.files is not None:
        time.sleep(sources.lag_s)
    return {file: _size(file) for file in _find(launch, sources)}


def collect_times(
    plan: LaunchPlan,
    launch: Path,
    sources: TimesSources,
    marks: Marks,
    records: Sequence[RequestRecord],
    trim: Callable[[bytes], Json],
) -> CollectedTimes:
    """The times of the requests of a load, of which ``records`` are all, from the first source that has any.
    ``trim``: what is kept of a line of a file."""
    if sources.why_none:
        return CollectedTimes((), None, sources.why_none, {})
    why: list[str] = []
    if sources.files is not None:
        lines, note = _read_files(launch, sources, marks, sum(record.outcome == "ok" for record in records), trim)
        if lines:
            return CollectedTimes(lines, "files", note, {})
        why.append(note or f"no file {sources.files} has any")
    problems: dict[str, str] = {}
    if sources.route is not None:
        lines, problems = read_perf_metrics(plan, sources.route)
        if lines:
            return CollectedTimes(lines, "route", None, problems)
        why.append("; ".join(f"{name}: {what}" for name, what in problems.items()) or f"{sources.route} has none")
    if sources.ask is not None:
        lines = [_line_of(record) for record in records if record.times is not None]
        if lines:
            return CollectedTimes(lines, "answers", None, {})
        why.append("no answer carried any")
    return CollectedTimes((), None, "no times of requests: " + "; ".join(why), problems)


def _line_of(record: RequestRecord) -> bytes:
    return msgspec.json.encode({"request": record.seq, "times": msgspec.json.decode(record.times or "{}")})


def _read_files(
    launch: Path, sources: TimesSources, marks: Marks, wanted: int, trim: Callable[[bytes], Json]
) -> tuple[list[bytes], str | None]:
    """The lines that were added to files since ``marks``, and what of them cannot be used. Waits until each kind of
    server has written ``wanted`` of them, or the time for it is over."""
    _wait_for(launch, sources, marks, wanted)
    lines: list[bytes] = []
    unreadable, left = 0, TIMINGS_BYTES
    for file in _find(launch, sources):
        server = f"{file.parent.name}/{file.name}"
        for line in _added_lines(file, marks.get(file, 0)):
            try:
                kept = msgspec.json.encode({**trim(line), "server": server})
            except (ValueError, RecursionError, TypeError):  # bytes of a foreign program
                unreadable += 1
                continue
            left -= len(kept)
            if left < 0:
                return lines, f"files of times have more than {TIMINGS_BYTES} bytes; the rest was left out"
            lines.append(kept)
    return lines, f"{unreadable} lines in files of times are no records" if unreadable else None


def _wait_for(launch: Path, sources: TimesSources, marks: Marks, wanted: int) -> None:
    """Until the servers of each kind, which share a folder, have written ``wanted`` lines, or the time is over."""
    deadline = time.monotonic() + FILES_S
    seen: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    while True:
        for file in _find(launch, sources):
            size = _size(file)
            if seen.get(file) != size:  # lines may be long, and there may be many
                seen[file], counts[file] = size, sum(1 for _ in _added_lines(file, marks.get(file, 0)))
        kinds: dict[Path, int] = {}
        for file, count in counts.items():
            kinds[file.parent] = kinds.get(file.parent, 0) + count
        if (kinds and min(kinds.values()) >= wanted) or time.monotonic() >= deadline:
            return
        time.sleep(CHECK_S)


def _added_lines(file: Path, offset: int) -> Iterator[bytes]:
    """The whole lines of ``file`` from ``offset`` on; the beginning of one that is too long stands for it."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        opened.seek(offset)
        while line := opened.readline(TIMES_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) < TIMES_LINE_BYTES:
                    return  # still being written
                while (rest := opened.readline(TIMES_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
            yield line


def _find(launch: Path, sources: TimesSources) -> list[Path]:
    if sources.files is None:
        return []
    pattern = Path(sources.files)
    place = Path(pattern.anchor) if pattern.anchor else launch
    return sorted(place.glob(str(pattern.relative_to(pattern.anchor))))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
