"""The distribution of one metric over requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stats:
    """Distribution of a metric over requests; percentiles are numpy's linear ones."""

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def at(self, percentile: float | str) -> float:
        """The mean (``"mean"``) or a stored percentile: 50, 90, 95, 99.

        Raises:
            KeyError: a percentile that is not stored.
        """
        name = "mean" if percentile == "mean" else f"p{percentile:g}"
        stored: dict[str, float] = asdict(self)
        return stored[name]


def describe(values: NDArray[np.float64]) -> Stats | None:
    """Stats of ``values`` (1-d, any unit) without NaN; ``None`` when nothing is left. ``std`` is the population's."""
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None
    p50, p90, p95, p99 = (float(value) for value in np.percentile(known, [50, 90, 95, 99]))
    return Stats(
        n=int(known.size),
        mean=float(known.mean()),
        std=float(known.std()),
        min=float(known.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(known.max()),
    )
