"""How sure a figure of one run is (batch means), and whether the run had settled (MSER-5 and a comparison of halves).

Batch means: neighbouring values of a run depend on one another, so their number overstates how sure their mean is;
means of batches that are long against what links them do not. A. M. Law, "Simulation Modeling and Analysis", ch. 9.
MSER-5: K. P. White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69, 1997.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

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
    if not inside.all():
        instants_s, amounts = instants_s[inside], amounts[inside]
    sums, _ = np.histogram(instants_s, bins=edges, weights=amounts)
    mean = float(sums.mean())
    if mean <= 0:
        return None
    off = sums - mean
    variance = float(off @ off) / (num - 1)
    together = float(off[1:] @ off[:-1]) / float(off @ off) if variance > 0 else 0.0
    # A correlation is believed from two standard deviations of chance on; above 0.8 it may as well be a trend.
    r = min(together, 0.8) if together > 2 / math.sqrt(num) else 0.0
    variance *= (1 + r) / (1 - r)
    return Noise(math.sqrt(variance / num) / mean, num - 1, f"{num} batches of one run")


_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T_975_LATER = ((20, 2.086), (30, 2.042), (60, 2.000))


def student_975(dof: float) -> float:
    """97.5 % quantile of Student's t: the factor of a two-sided 95 % interval. From the table, rounded up between."""
    if dof < len(_T_975) + 1:
        return _T_975[max(1, int(dof)) - 1]
    return next((value for upto, value in reversed(_T_975_LATER) if dof >= upto), _T_975[-1])


def half_width(noise: Noise | None) -> float | None:
    """Half of the 95 % confidence interval as a share of the mean; ``None`` without noise."""
    return None if noise is None else student_975(noise.dof) * noise.rel


def batch_series(values: Floats, wave: int = 1) -> Noise | None:
    """Noise of the mean of ``values`` (one a request, in the order of their ends), from batches of equal number.

    ``wave``: requests that run side by side; batches are not smaller, for what happens within a wave is not
    independent. ``None`` when fewer than ``FEWEST_BATCHES`` fit or the mean is not positive.
    """
    known = values[~np.isnan(values)]
    num = min(MOST_BATCHES, known.size // max(2, wave))
    if num < FEWEST_BATCHES or known.mean() <= 0:
        return None
    size = known.size // num
    means = known[known.size - num * size :].reshape(num, size).mean(axis=1)
    return Noise(
        float(means.std(ddof=1)) / math.sqrt(num) / float(known.mean()), num - 1, f"{num} batches of one run"
    )


def settled_from(values: Floats, wave: int = 1) -> int:
    """Index of the first of ``values`` (latencies in the order of their ends) that belongs to the settled part.

    0 when all do. MSER-5: the cut d that makes the variance of the mean of what is left,
    sum((x - mean)^2) / (n - d)^2, smallest, over batches of five (of a wave where that is more), in the first half.
    It counts as a change only if what it cuts off lies further from the rest than chance takes it (three standard
    errors) and by more than 5 % of the mean: a quiet run loses nothing.
    """
    size = max(5, wave)
    batches = values[: values.size // size * size].reshape(-1, size).mean(axis=1)
    num = batches.size
    if num < 2 * FEWEST_BATCHES:
        return 0
    left = [batches[cut:] for cut in range(num // 2 + 1)]
    spread = [float(((part - part.mean()) ** 2).sum()) / part.size**2 for part in left]
    cut = int(np.argmin(spread))
    if cut == 0:
        return 0
    before, after = float(batches[:cut].mean()), batches[cut:]
    error = float(after.std(ddof=1)) * math.sqrt(1 / cut + 1 / after.size)
    off = abs(before - float(after.mean()))
    return cut * size if off > 3 * error and off > 0.05 * abs(float(after.mean())) else 0


def drift(values: Floats, wave: int = 1) -> float | None:
    """Second half against first, minus 1, when chance (three standard errors of batch means) does not explain it.

    ``None`` when it does, or when there are too few values to decide.
    """
    half = values.size // 2
    first, second = values[:half], values[half:]
    noises = batch_series(first, wave), batch_series(second, wave)
    if noises[0] is None or noises[1] is None:
        return None
    means = float(first.mean()), float(second.mean())
    error = math.hypot(noises[0].rel * means[0], noises[1].rel * means[1])
    return means[1] / means[0] - 1 if abs(means[1] - means[0]) > 3 * error else None
