"""The distribution of one metric over requests."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Stats:
    """Distribution of a metric over requests; percentiles are numpy's linear ones. ``p999``: the 99.9th.

    Percentiles with a default are ``None`` in files from before they were kept.
    """

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    p1: float | None = None
    p5: float | None = None
    p10: float | None = None
    p25: float | None = None
    p75: float | None = None
    p999: float | None = None

    def at(self, percentile: float | str) -> float:
        """The mean (``"mean"``) or a stored percentile: 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9.

        Raises:
            KeyError: a percentile that is not stored.
        """
        name = "mean" if percentile == "mean" else f"p{percentile:g}".replace(".", "")
        if name not in STORED:
            raise KeyError(name)
        value: float = getattr(self, name)
        return value


STORED = frozenset(field.name for field in fields(Stats))


def describe(values: NDArray[np.float64], *, scratch: bool = False) -> Stats | None:
    """Stats of ``values`` (1-d, any unit) without NaN; ``None`` when nothing is left. ``std`` is the population's.

    ``scratch``: nobody needs ``values`` afterwards, so that very many of them are not copied.
    """
    unknown = np.isnan(values)
    scratch = scratch or bool(unknown.any())
    known = values[~unknown] if unknown.any() else values
    if known.size == 0:
        return None
    n, mean, std = int(known.size), float(known.mean()), float(known.std())
    least, most = float(known.min()), float(known.max())
    kept = [float(value) for value in _percentiles(known, scratch)]
    p1, p5, p10, p25, p50, p75, p90, p95, p99, p999 = kept
    return Stats(
        n=n,
        mean=mean,
        std=std,
        min=least,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=most,
        p1=p1,
        p5=p5,
        p10=p10,
        p25=p25,
        p75=p75,
        p999=p999,
    )


def _percentiles(known: NDArray[np.float64], scratch: bool) -> NDArray[np.float64]:
    return np.percentile(known, [1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9], overwrite_input=scratch)
