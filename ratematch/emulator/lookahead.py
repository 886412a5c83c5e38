"""How long iterations take in a row while the same sequences run and only their caches grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.rank import Rank
from ratematch.emulator.steptime import RankLoad, StepBatch, StepTime

STRAIGHT = 1e-4
"""How far, relatively, a step may lie off the line between two others for the line to be taken between them."""


def look_ahead(
    ranks: Sequence[Rank], loads: Sequence[RankLoad], iteration: int, count: int, step_time: StepTime, overlap: bool
) -> NDArray[np.float64]:
    """Seconds of ``count`` iterations from ``iteration`` on; the first computes ``loads``. Shape (count,)."""
    grown = np.stack([rank.outlook.read(iteration, count - 1)[0] for rank in ranks])
    reads = np.cumsum(grown, axis=1) + np.array([[load.kv_read_tokens] for load in loads])

    def seconds(k: int) -> float:
        if k == 0:
            return step_time.seconds(StepBatch(tuple(loads)), overlap)
        cached = reads[:, k - 1].tolist()
        later = (load._replace(kv_read_tokens=read) for load, read in zip(loads, cached, strict=True))
        return step_time.seconds(StepBatch(tuple(later)), overlap)

    return fill_between(seconds, count)


def fill_between(seconds: Callable[[int], float], count: int) -> NDArray[np.float64]:
    """``seconds(0)`` ... ``seconds(count - 1)`` of steps that differ by the tokens their caches hold.

    Step times are piecewise linear in those, so few of them are asked for: where the middle of a stretch lies on the
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
            filled[low : middle + 1] = np.linspace(filled[low], between, middle - low + 1)
            filled[middle : high + 1] = np.linspace(between, filled[high], high - middle + 1)
        else:
            stretches += [(low, middle), (middle, high)]
    return filled
