"""How sure a measured rate is: from repeats, else from batches within one run.

A relative standard error and its degrees of freedom go together: few repeats make wide intervals (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TENFOLD = math.log(10)

FEWEST_BATCHES, MOST_BATCHES = 4, 20
"""Fewer batches say nothing about the spread; more make batches shorter than a request lives."""


@dataclass(frozen=True)
class Noise:
    """``rel``: relative standard error of a mean rate. ``dof``: its degrees of freedom. ``source``: in words."""

    rel: float
    dof: float
    source: str = ""


def batch_means(instants_s: Floats, amounts: Floats, start_s: float, end_s: float, latency_s: float) -> Noise | None:
    """Noise of the rate sum(amounts) / seconds inside (start, end], from batches of equal time (batch means).

    ``instants_s``: when each of ``amounts`` (tokens, or 1 a request) came, any order. ``latency_s``: mean life of a
    request; batches are not shorter, for what happens within a life is not independent. ``None`` when fewer than
    ``FEWEST_BATCHES`` fit or nothing came. Neighbouring batches that still agree with one another widen the error:
    lag-1 correlation r > 0 multiplies the variance by (1 + r) / (1 - r).
    """
    inside = (instants_s > start_s) & (instants_s <= end_s)
    seconds = end_s - start_s
    if seconds <= 0 or not inside.any():
        return None
    num = min(MOST_BATCHES, int(seconds / latency_s) if latency_s > 0 else MOST_BATCHES, int(inside.sum()) // 2)
    if num < FEWEST_BATCHES:
        return None
    edges = np.linspace(start_s, end_s, num + 1)
    sums, _ = np.histogram(instants_s[inside], bins=edges, weights=amounts[inside])
    mean = float(sums.mean())
    if mean <= 0:
        return None
    off = sums - mean
    variance = float(off @ off) / (num - 1)
    together = float(off[1:] @ off[:-1]) / float(off @ off) if variance > 0 else 0.0
    # A correlation is believed from two standard deviations of chance on; more than 0.8 cannot be told from a trend.
    r = min(together, 0.8) if together > 2 / math.sqrt(num) else 0.0
    variance *= (1 + r) / (1 - r)
    return Noise(math.sqrt(variance / num) / mean, num - 1, f"{num} batches of one run")


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
