"""How long iterations take in a row while the same sequences run and only their caches grow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.kvgrowth import Ints
from ratematch.emulator.steptime import RankLoad, StepBatch, StepTime

STRAIGHT = 1e-4
"""How far, relatively, a step may lie off the line between two others for the line to be taken between them."""


def step_times_ahead(
    loads: tuple[RankLoad, ...], grown: Ints, first_s: float, step_time: StepTime, overlap: bool
) -> NDArray[np.float64]:
    """Seconds of iterations in a row without prompts. The first computes ``loads`` in ``first_s``, the k-th after it
    finds ``grown[:, :k]`` more tokens in the caches (shape (ranks, iterations - 1)). Shape (iterations,)."""

    def seconds(k: int) -> float:
        if k == 0:
            return first_s
        more = grown[:, :k].sum(axis=1).tolist()
        later = [
            RankLoad(0, 0, 0.0, load.gen_requests, load.query_tokens, load.kv_read_tokens + tokens, 0)
            for load, tokens in zip(loads, more, strict=True)
        ]
        return step_time.seconds(StepBatch(tuple(later)), overlap)

    return fill_between(seconds, grown.shape[1] + 1)


def fill_between(seconds: Callable[[int], float], count: int) -> NDArray[np.float64]:
    """``seconds(0)`` ... ``seconds(count - 1)`` of steps that differ by the tokens their caches hold.

    Step times are piecewise linear in those, so few of them are computed: where the middle of a stretch lies on the
    line between its ends, to ``STRAIGHT``, so does all of it. Shape (count,).
    """
    filled = np.empty(count)
    filled[0] = seconds(0)
    filled[-1] = seconds(count - 1)
    stretches = [(0, count - 1)]
    while stretches:
        low, high = stretches.pop()
        if high - low < 2:
            continue
        middle = (low + high) // 2
        filled[middle] = between = seconds(middle)
        line = filled[low] + (filled[high] - filled[low]) * (middle - low) / (high - low)
        if abs(between - line) <= STRAIGHT * between:
            _draw_line(filled, low, middle)
            _draw_line(filled, middle, high)
        else:
            stretches += [(low, middle), (middle, high)]
    return filled


def _draw_line(filled: NDArray[np.float64], low: int, high: int) -> None:
    """Fill what lies between two points; ``np.linspace`` to the bit, at a third of its price for short stretches."""
    first, last = filled[low], filled[high]
    filled[low:high] = np.arange(high - low) * ((last - first) / (high - low)) + first
