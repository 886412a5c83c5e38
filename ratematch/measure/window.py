"""The part of a load that counts: what is left out at both ends, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.batches import settled_from
from ratematch.plan.load import Concurrency, Load

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """The part of a load that counts, on the records' clock. ``rule`` says how it was chosen, in words.

    ``num_requests``: requests that ended inside, in (start, end]; ``num_outside``: the others. ``steady``: the rule
    for a steady load could be kept.
    """

    start_ns: int
    end_ns: int
    num_requests: int
    num_outside: int
    steady: bool
    rule: str

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def choose_window(starts: Floats, ends: Floats, load: Load) -> Window | None:
    """The steady-state window of a load, from the instants (ns) at which requests took and left their slots.

    Closed loop: from the end of the first wave (the last of the requests that first filled all slots has ended: the
    burst of prompts at the start is over) to the first slot left empty. A request that ends inside has then lived
    under the full load from its first to its last instant. Where the latencies of what ends inside change after that,
    by a change-point test (:func:`ratematch.measure.batches.settled_from`), it starts behind the change. When fewer
    than ``concurrency`` requests end inside, the window starts when all slots are first full, and is not steady; when
    that is too short too (fewer than twice ``concurrency`` requests), it is the whole run.

    Open loop: from the first arrival plus one 90th percentile of latency (the number in flight has built up) to the
    last arrival; when less than half of the arrivals are left, from the first to the last arrival, not steady.

    ``None`` when no request was both sent and ended.
    """
    known = ~np.isnan(starts) & ~np.isnan(ends)
    starts, ends = starts[known], ends[known]
    if starts.size == 0:
        return None
    if isinstance(load, Concurrency):
        return _closed_loop(starts, ends, load.concurrency)
    return _open_loop(starts, ends)


def _closed_loop(starts: Floats, ends: Floats, concurrency: int) -> Window:
    full = _full_span(starts, ends, concurrency)
    if full is not None:
        all_full, first_empty = full
        first_wave_over = float(ends[starts <= all_full].max())
        if _ended_inside(ends, first_wave_over, first_empty) >= concurrency:
            rule = "from the end of the first wave to the first slot left empty"
            settled, left_out = _settled(starts, ends, first_wave_over, first_empty, concurrency)
            if left_out:
                rule += f", and {left_out} answers later: their latency had not settled (MSER-5)"
            return _window(ends, settled, first_empty, True, rule)
        if _ended_inside(ends, all_full, first_empty) >= concurrency:
            rule = "from all slots full to the first slot left empty; too short to leave the first wave out"
            return _window(ends, all_full, first_empty, False, rule)
    rule = f"whole run, ramp and drain included: fewer than 2 x {concurrency} requests"
    return _window(ends, float(starts.min()), float(ends.max()), False, rule)


def _settled(starts: Floats, ends: Floats, begin: float, end: float, concurrency: int) -> tuple[float, int]:
    """Where latencies have settled inside (begin, end], and how many answers that leaves out."""
    inside = (ends > begin) & (ends <= end)
    order = np.argsort(ends[inside], kind="stable")
    ordered = ends[inside][order]
    cut = settled_from((ordered - starts[inside][order]), concurrency)
    if not cut or ordered.size - cut < concurrency:
        return begin, 0
    return float(ordered[cut - 1]), cut


def _open_loop(starts: Floats, ends: Floats) -> Window:
    first, last = float(starts.min()), float(starts.max())
    begin = first + float(np.percentile(ends - starts, 90))
    if np.count_nonzero(starts >= begin) >= max(2, starts.size / 2):
        rule = "from the first arrival plus one 90th percentile of latency to the last arrival"
        return _window(ends, begin, last, True, rule)
    if last > first:
        return _window(
            ends, first, last, False, "from the first to the last arrival; too short to leave the ramp out"
        )
    return _window(ends, first, float(ends.max()), False, "whole run: one arrival instant")


def _full_span(starts: Floats, ends: Floats, concurrency: int) -> tuple[float, float] | None:
    """From the first instant with ``concurrency`` requests in flight to the end of the last such stretch, ns."""
    instants, event = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    steps = np.concatenate([np.ones(starts.size), -np.ones(ends.size)])
    in_flight = np.cumsum(np.bincount(event, weights=steps))
    full = np.flatnonzero(in_flight >= concurrency)
    if full.size == 0:
        return None
    return float(instants[full[0]]), float(instants[full[-1] + 1])


def _ended_inside(ends: Floats, start: float, end: float) -> int:
    return int(np.count_nonzero((ends > start) & (ends <= end)))


def _window(ends: Floats, start: float, end: float, steady: bool, rule: str) -> Window:
    inside = _ended_inside(ends, start, end)
    return Window(int(start), int(end), inside, int(ends.size) - inside, steady, rule)
