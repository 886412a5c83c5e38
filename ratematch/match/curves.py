"""A measured rate over the requests in flight: read between the points, never beyond them.

The same shape serves both sides. Generation: C requests decoding in one instance give T(C) tokens/s, and TPOT = C/T.
Context: C prompts in one instance give R(C) requests/s, and TTFT = C/R. Both latencies are Little's law, so a curve
needs no latency of its own, and a row read from it cannot contradict itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SAME = 1e-9
"""Rates that differ by less are one demand: the last digits of a float."""

Number = TypeVar("Number", float, Fraction)
"""Floats in production; Fractions keep hand-computed cases exact."""


@dataclass(frozen=True)
class Curve(Generic[Number]):
    """``rates[k]`` per second at ``loads[k]`` in flight: loads strictly ascending, rates never falling, all > 0.

    ``smoothed``: the measured rates fell somewhere and were pooled to the nearest non-falling ones.
    """

    loads: tuple[Number, ...]
    rates: tuple[Number, ...]
    smoothed: bool = False

    @property
    def max_rate(self) -> Number:
        return self.rates[-1]


@dataclass(frozen=True)
class Reading(Generic[Number]):
    """An operating point: ``load`` in flight, ``rate`` per second, ``latency_s`` = load / rate.

    ``clamped``: the demand lies below the smallest measured load, so the latency is the one measured there (an upper
    limit: fewer requests in flight would not be slower).
    """

    load: Number
    rate: Number
    latency_s: Number
    clamped: bool


def make_curve(points: Iterable[tuple[Number, Number]]) -> Curve[Number]:
    """The curve through (load, rate) points, in any order; equal loads are averaged first.

    A rate that falls as the load grows is noise or overload: neighbours are pooled to their mean until nothing falls
    (isotonic least squares, pool adjacent violators), and the curve is marked ``smoothed``.

    Raises:
        ValueError: no point, or a load or rate that is not positive.
    """
    by_load: dict[Number, list[Number]] = {}
    for load, rate in points:
        if not (load > 0 and rate > 0):
            raise ValueError(f"a curve needs positive loads and rates, not {load} in flight at {rate}/s")
        by_load.setdefault(load, []).append(rate)
    if not by_load:
        raise ValueError("a curve needs at least one measured point")
    loads = sorted(by_load)
    rates = [_mean(by_load[load]) for load in loads]
    pooled = _pool_falling(rates)
    return Curve(tuple(loads), tuple(pooled), smoothed=pooled != rates)


def _mean(values: list[Number]) -> Number:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)


def _pool_falling(rates: list[Number]) -> list[Number]:
    blocks: list[list[Number]] = []
    for rate in rates:
        blocks.append([rate])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    return [_mean(block) for block in blocks for _ in block]


def read_rate_at(curve: Curve[Number], load: Number) -> Number:
    """The rate at ``load`` in flight, linear between measured points.

    Raises:
        ValueError: ``load`` lies outside the measured loads.
    """
    if not curve.loads[0] <= load <= curve.loads[-1]:
        raise ValueError(f"{load} in flight was not measured: {curve.loads[0]} to {curve.loads[-1]} were")
    for k in range(1, len(curve.loads)):
        if load <= curve.loads[k]:
            low, high = curve.loads[k - 1], curve.loads[k]
            return curve.rates[k - 1] + (curve.rates[k] - curve.rates[k - 1]) * (load - low) / (high - low)
    return curve.rates[0]


def throttle(curve: Curve[Number], rate: Number) -> Reading[Number]:
    """Where an instance settles that is given only ``rate``: the smallest load C* with curve(C*) = rate.

    The latency is C*/rate, not an interpolation of measured latencies: interpolating both separately gives rows that
    break Little's law. Below the smallest measured rate the reading is clamped, never extrapolated.

    Raises:
        ValueError: ``rate`` is not positive, or above the highest one measured.
    """
    if not 0 < rate <= curve.max_rate:
        raise ValueError(f"a rate of {rate}/s was not measured: up to {curve.max_rate}/s was")
    if rate < curve.rates[0]:
        latency_s = curve.loads[0] / curve.rates[0]
        return Reading(rate * latency_s, rate, latency_s, clamped=True)
    for k in range(1, len(curve.rates)):
        low, high = curve.rates[k - 1], curve.rates[k]
        if low < rate <= high:
            load = curve.loads[k - 1] + (curve.loads[k] - curve.loads[k - 1]) * (rate - low) / (high - low)
            return Reading(load, rate, load / rate, clamped=False)
    return Reading(curve.loads[0], rate, curve.loads[0] / rate, clamped=False)


def throttle_all(loads: Floats, rates: Floats, rate: Floats) -> tuple[Floats, Bools]:
    """:func:`throttle` for many rates at once: (loads, clamped). ``rate`` <= the highest."""
    # A rate a last digit above a measured one is that one: on a flat stretch the smallest load counts.
    index = np.searchsorted(rates, rate * (1 - SAME), side="left")
    below, above = np.maximum(index - 1, 0), np.minimum(index, rates.size - 1)
    span = rates[above] - rates[below]
    part = np.divide(rate - rates[below], span, out=np.zeros_like(rate), where=span > 0)
    load = np.where(index == 0, loads[0], loads[below] + (loads[above] - loads[below]) * part)
    clamped = rate < rates[0] * (1 - SAME)
    return np.where(clamped, rate * (loads[0] / rates[0]), load), clamped


def latency_at(curve: Curve[float], load: float) -> float:
    """Seconds that ``load`` requests at once take: load / rate. Below the smallest load measured its latency, beyond
    the largest the highest rate measured, where more only wait."""
    if load <= curve.loads[0]:
        return curve.loads[0] / curve.rates[0]
    return load / read_rate_at(curve, min(load, curve.loads[-1]))
