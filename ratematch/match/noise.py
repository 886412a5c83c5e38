"""How sure a measured rate is: from repeats, else from batches within one run.

A relative standard error and its degrees of freedom go together: few repeats make wide intervals (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.batches import FEWEST_BATCHES, Noise, batch_means

__all__ = ["FEWEST_BATCHES", "Noise", "batch_means", "draw", "interval", "noise_of_mean", "pool_noise"]

Floats = NDArray[np.float64]

TENFOLD = math.log(10)


def pool_noise(groups: Iterable[Sequence[float]]) -> Noise | None:
    """Relative deviation of ONE run, pooled over groups of repeats (each: the rates of one operating point).

    sqrt(sum of squared relative deviations / degrees of freedom). ``None`` without any repeat.
    """
    total, dof, repeated = 0.0, 0, 0
    for rates in groups:
        if len(rates) > 1:
            mean = sum(rates) / len(rates)
            total += sum((rate / mean - 1) ** 2 for rate in rates)
            dof += len(rates) - 1
            repeated += 1
    return Noise(math.sqrt(total / dof), dof, f"repeats of {repeated} operating points") if dof else None


def noise_of_mean(repeats: int, pooled: Noise | None, within: Sequence[Noise | None]) -> Noise | None:
    """Noise of the mean over ``repeats`` runs: the larger of what repeats show (pooled) and what batches show.

    Repeats see what batches cannot (another start, another placement); batches alone are a lower limit.
    """
    known = [noise for noise in within if noise is not None]
    choices = []
    if pooled is not None:
        choices.append(Noise(pooled.rel / math.sqrt(repeats), pooled.dof, pooled.source))
    if known and len(known) == len(within):
        rel = math.sqrt(sum(noise.rel**2 for noise in known)) / len(known)
        choices.append(Noise(rel, sum(noise.dof for noise in known), known[0].source))
    return max(choices, key=lambda noise: noise.rel) if choices else None


def draw(noise: Noise | None, draws: int, rng: np.random.Generator) -> Floats:
    """Factors that a rate may be off by: exp(rel x t), Student's t with its degrees of freedom; ones when unknown."""
    if noise is None or noise.rel == 0:
        return np.ones(draws)
    # Two runs make a tail without end; no rate is believed to be off more than tenfold.
    return np.asarray(np.exp(np.clip(noise.rel * rng.standard_t(noise.dof, draws), -TENFOLD, TENFOLD)))


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central ``level`` share of draws, as (low, high). NaN among them are left out."""
    low, high = np.nanpercentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def interval_about(estimate: float, values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Interval for what is a best or a smallest of noisy rates: a front, lambda = min(x R_c, y R_g). All > 0.

    The least of two noisy rates is measured too low as a rule and the best of many too high, and drawing them again
    around the measured figures moves the draws off once more, to the same side: the central share of the draws alone
    covers the truth in 88 % of the cases at a balanced ratio, where it claims 95 %. Draws show how far off, not on
    which side of ``estimate`` the truth lies. So both are taken: the draws and, in logarithm, their mirror image
    about the estimate (the percentile and the basic bootstrap interval, Davison and Hinkley 1997, chapter 5). Where
    the draws lie evenly about the estimate that is the percentile interval itself.
    """
    low, high = interval(values, level)
    return min(low, estimate * estimate / high), max(high, estimate * estimate / low)
