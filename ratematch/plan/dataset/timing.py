"""The unit of time of a trace, where its names do not say it."""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.plan.dataset.entry import Entry, TimeUnit

SHORTEST_GAP_MS = 20.0
"""Mean gap in ms from which on whole numbers are taken for ms: 50 requests/s. As seconds, a trace with such gaps
would hold less than three requests a minute."""

TAKEN_FOR_MS = (
    "its timestamps are whole numbers and taken for ms, as in Mooncake's traces; --time-unit says otherwise"
)

_EPOCH_MS = (1e12, 2.5e12)
"""Milliseconds since 1970 of the years 2001 to 2049."""


def guess_unit(entries: Sequence[Entry]) -> tuple[TimeUnit | None, str]:
    """``("ms", "")`` where nothing else makes sense, else ``(None, why)``.

    Mooncake's traces and AIPerf's files are in ms, other tools' with the same names are in seconds, and neither says
    so. Whole numbers that are ms for certain: those with gaps of :data:`SHORTEST_GAP_MS` and more.
    """
    instants = [entry.at for entry in entries if entry.at is not None]
    waits = [entry.delay for entry in entries if entry.delay]
    if len(set(instants)) <= 1 and not waits:
        return "ms", ""
    if any(isinstance(value, float) for value in (*instants, *waits) if value):
        return None, "they are not whole numbers, so seconds or milliseconds"
    begin, end = min(instants, default=0.0), max(instants, default=0.0)
    gap = (end - begin) / (len(instants) - 1) if len(instants) > 1 else 0.0
    if begin > 1e9 and not _EPOCH_MS[0] <= begin <= _EPOCH_MS[1]:
        return None, f"they begin at {begin:.0f}, a date in seconds, microseconds or nanoseconds"
    if end > begin and gap < SHORTEST_GAP_MS:
        return None, f"in ms they would be {1e3 / gap:.3g} requests/s, in s {1 / gap:.3g}"
    mean = sum(waits) / len(waits) if waits else SHORTEST_GAP_MS
    if mean < SHORTEST_GAP_MS:
        return None, f"the waits between turns would be {mean:.3g} ms or {mean:.3g} s"
    return "ms", ""
