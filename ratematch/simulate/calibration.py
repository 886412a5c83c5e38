"""A correction of the step-time model from a few measured loads of one GPU type and model, with its uncertainty.

The logarithm of measured over predicted speed of a load is a sum: what factors on fixed times, memory, compute and
links explain, which all servers share; an effect of the server's mapping family; the server's own deviation; the
load's. All are normal, with the standard deviations that public deployments have
(:mod:`ratematch.simulate.deviations`): so a few loads move what servers share as far as servers were seen to share
it, loads of one server count as one server, and a family that was measured moves more than the others. The estimate
is the most likely one, its covariance that of the linearised model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ratematch.engines.steptimes import LEAST, MOST, PARTS, Correction
from ratematch.simulate.deviations import Deviations

Vector = NDArray[np.float64]

OWN_WEIGHT = 20.0
"""Loads that the deviations of public servers and loads count as when those of the measured ones are estimated."""
WIDEN_WEIGHT = 8.0
"""Loads that what was believed counts as when measured ones are too far off for it."""
OWN_ROUNDS = 3
"""Times that the correction is fitted with the deviations which the last fit left."""
SURPRISING = 1.3
"""From so much wider intervals on it is said."""
STEP = 1e-3
"""Of a log, for slopes."""
MOST_ROUNDS = 30


@dataclass(frozen=True)
class CalibrationPoint:
    """One measured load. ``server``: loads of one share its own deviation. ``family``: its kind of mapping, ``gen
    DEP``. ``log_speed(correction)``: log of measured over predicted speed, with the step times that the factors of
    ``correction`` give; it has no families."""

    name: str
    server: str
    family: str
    log_speed: Callable[[Correction], float]


@dataclass(frozen=True)
class PointFit:
    """Measured over predicted speed of one load, with the model as it is and with the correction."""

    name: str
    family: str
    before: float
    after: float


@dataclass(frozen=True)
class FamilyFit:
    """What a family of ``loads`` measured ones has to do with the prediction. ``measured``: over predicted speed,
    geometric mean, nothing corrected. ``factor``: what is left to the family beside the common factors, with 95 % of
    what it may be."""

    family: str
    loads: int
    measured: float
    factor: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """``gen DEP is 6 % slower than predicted``."""
        percent = 100 * abs(self.measured - 1)
        if percent < 0.5:
            return f"{self.family} is as fast as predicted"
        return f"{self.family} is {percent:.0f} % {'faster' if self.measured > 1 else 'slower'} than predicted"


@dataclass(frozen=True)
class Calibration:
    """A correction and how well it is known.

    ``covariance``: of the logs of its factors, in the order of ``PARTS``, then of its families in their order.
    ``deviations``: what was believed before. ``scale``: how much more the measured servers and loads deviate than
    those believed. ``widened``: how much wider all is believed to be, factors and families too, because the loads are
    further from their predictions than was believed. ``source``: where ``points`` are from. ``carried_from``: the
    model that was measured, where that is another than the correction is for; else empty. ``engine``: whose kernels
    ran (:attr:`ratematch.plan.experiment.EngineRef.computing`); empty where nobody said.
    """

    correction: Correction
    covariance: tuple[tuple[float, ...], ...]
    deviations: Deviations
    scale: float
    widened: float
    points: tuple[PointFit, ...]
    source: str
    carried_from: str = ""
    engine: str = ""

    def factor_interval(self, part: str) -> tuple[float, float]:
        """95 % of what the factor may be."""
        return self._interval(PARTS.index(part), float(getattr(self.correction, part)))

    @property
    def families(self) -> tuple[FamilyFit, ...]:
        """Every family measured."""
        fits = []
        for place, (family, factor) in enumerate(self.correction.families):
            logs = [math.log(point.before) for point in self.points if point.family == family]
            measured = math.exp(sum(logs) / len(logs)) if logs else 1.0
            fits.append(FamilyFit(family, len(logs), measured, factor, *self._interval(len(PARTS) + place, factor)))
        return tuple(fits)

    def _interval(self, place: int, middle: float) -> tuple[float, float]:
        spread = math.exp(1.96 * math.sqrt(self.covariance[place][place]))
        return middle / spread, middle * spread

    def common_sd(self, slopes: Vector, family: str) -> float:
        """Standard deviation of a predicted log speed for want of a better known correction; ``slopes``: of that log
        over the logs of the factors. What a server and a load deviate by comes on top."""
        names = [name for name, _ in self.correction.families]
        own = [float(name == family) for name in names]
        way = np.array([*slopes, *own])
        variance = float(way @ np.array(self.covariance) @ way)
        return math.sqrt(max(0.0, variance) + (0.0 if any(own) else (self.widened * self.deviations.family) ** 2))

    def server_sd(self, aggregated: bool) -> float:
        """Standard deviation of the log speed of a load of a server that was not measured, were the correction known
        exactly."""
        known = self.deviations
        if aggregated:
            return max(self.widened, self.scale) * math.hypot(known.aggregated_server, known.aggregated_load)
        return self.scale * math.hypot(known.server, known.load)

    def in_words(self) -> str:
        """What it corrects, in one line."""
        said = []
        for part in PARTS:
            low, high = self.factor_interval(part)
            said.append(f"{part} x {getattr(self.correction, part):.2f} ({low:.2f} to {high:.2f})")
        said += [f"{each.family} x {each.factor:.2f} ({each.low:.2f} to {each.high:.2f})" for each in self.families]
        one = self.correction
        wide = f"; {self.surprise}" if self.surprise else ""
        of = f"{self.source}, of {self.carried_from}" if self.carried_from else self.source
        return (
            f"calibrated for {one.model} in {one.precision} on {one.gpu} by {len(self.points)} loads of "
            f"{of}: {', '.join(said)}{wide}"
        )

    @property
    def surprise(self) -> str:
        """That the loads are far off, in words; empty where they are not."""
        if self.widened < SURPRISING:
            return ""
        return (
            f"these loads are further from their predictions than public deployments are: all intervals are "
            f"{self.widened:.1f} times as wide, measure more of them"
        )


def calibrate(
    points: Sequence[CalibrationPoint], start: Correction, deviations: Deviations, source: str = ""
) -> Calibration:
    """The correction that ``points`` and ``deviations`` agree on best. ``start``: for what."""
    start = replace(start.with_factors([1.0] * len(PARTS)), families=())
    fit = _Fit(points, start, deviations)
    before = fit.residuals(np.zeros(fit.size))
    widened = scale = fit.widen(before)
    at = np.zeros(fit.size)
    for _ in range(OWN_ROUNDS):
        at, left, slopes = fit.most_likely(scale, at)
        misfit = float(left @ fit.precision(1.0) @ left)
        scale = math.sqrt((OWN_WEIGHT * widened**2 + misfit) / (OWN_WEIGHT + len(points)))
    covariance = np.linalg.inv(slopes.T @ fit.precision(scale) @ slopes + fit.prior)
    return Calibration(
        fit.correction(at, with_families=True),
        tuple(tuple(float(value) for value in row) for row in covariance),
        deviations,
        scale,
        widened,
        tuple(
            PointFit(point.name, point.family, math.exp(old), math.exp(new))
            for point, old, new in zip(points, before, left, strict=True)
        ),
        source,
    )


def nothing_measured(start: Correction, deviations: Deviations) -> Calibration:
    """What is believed of ``start``'s servers before any is measured: a calibration that corrects nothing."""
    variances = np.array([getattr(deviations, part) ** 2 for part in PARTS])
    covariance = tuple(tuple(map(float, row)) for row in np.diag(variances))
    return Calibration(start, covariance, deviations, 1.0, 1.0, (), "")


def speed_slopes(log_speed: Callable[[Correction], float], correction: Correction) -> Vector:
    """Slopes of a prediction's log speed over the logs of the factors, at ``correction``."""
    logs = np.array([math.log(factor) for factor in correction.factors])
    slopes: Vector = _slopes(lambda at: np.array([log_speed(_with(correction, at))]), logs)[0]
    return slopes


class _Fit:
    """Points, and what is believed of them before. Unknown: logs of the factors, then effects of the families."""

    def __init__(self, points: Sequence[CalibrationPoint], start: Correction, deviations: Deviations):
        self._points, self._start, self._deviations = points, start, deviations
        self.families = sorted({point.family for point in points})
        self.size = len(PARTS) + len(self.families)
        self._of_family = np.array([[float(point.family == name) for name in self.families] for point in points])
        sds = [getattr(deviations, part) for part in PARTS] + [deviations.family] * len(self.families)
        self.prior = np.diag(np.array(sds) ** -2.0)
        self._same = np.array([[float(one.server == other.server) for other in points] for one in points])

    def correction(self, at: Vector, with_families: bool = False) -> Correction:
        correction = _with(self._start, at[: len(PARTS)])
        if not with_families:
            return correction
        effects = map(math.exp, at[len(PARTS) :])
        return replace(correction, families=tuple(zip(self.families, effects, strict=True)))

    def widen(self, before: Vector) -> float:
        """How much wider everything is to be believed, 1 at least: by the misfit of the uncorrected loads. Where all
        of them are far off, that is as likely to be what they share as it was before."""
        slopes = self.slopes(np.zeros(self.size))
        believed = slopes @ np.linalg.inv(self.prior) @ slopes.T + np.linalg.inv(self.precision(1.0))
        misfit = float(before @ np.linalg.solve(believed, before))
        widened = math.sqrt(max(1.0, (WIDEN_WEIGHT + misfit) / (WIDEN_WEIGHT + len(before))))
        self.prior = self.prior / widened**2
        return widened

    def residuals(self, at: Vector) -> Vector:
        correction = self.correction(at)
        logs = np.array([point.log_speed(correction) for point in self._points])
        return logs - self._of_family @ at[len(PARTS) :]

    def precision(self, scale: float) -> Vector:
        """Inverse covariance of what the correction does not explain."""
        own = self._deviations
        covariance = own.server**2 * self._same + own.load**2 * np.eye(len(self._points))
        return np.asarray(np.linalg.inv(scale**2 * covariance))

    def slopes(self, at: Vector) -> Vector:
        common = len(PARTS)
        of_factors = _slopes(lambda logs: self.residuals(np.concatenate([logs, at[common:]])), at[:common])
        return np.hstack([of_factors, -self._of_family])

    def most_likely(self, scale: float, at: Vector) -> tuple[Vector, Vector, Vector]:
        """The unknowns, what they leave, and its slopes over them: damped Gauss-Newton from ``at``."""
        precision = self.precision(scale)

        def cost(at: Vector, left: Vector) -> float:
            return float(left @ precision @ left + at @ self.prior @ at)

        left = self.residuals(at)
        for _ in range(MOST_ROUNDS):
            slopes = self.slopes(at)
            inverse = slopes.T @ precision @ slopes + self.prior
            way = -np.linalg.solve(inverse, slopes.T @ precision @ left + self.prior @ at)
            size = 1.0
            while size > 1e-3:
                tried = np.clip(at + size * way, math.log(LEAST), math.log(MOST))
                new = self.residuals(tried)
                if cost(tried, new) < cost(at, left):
                    break
                size /= 2
            else:
                break
            gained = cost(at, left) - cost(tried, new)
            at, left = tried, new
            if gained < 1e-6:
                break
        return at, left, slopes


def _slopes(function: Callable[[Vector], Vector], at: Vector) -> Vector:
    steps = np.eye(len(at)) * STEP
    return np.array([(function(at + step) - function(at - step)) / (2 * STEP) for step in steps]).T


def _with(correction: Correction, logs: Vector) -> Correction:
    return correction.with_factors(map(math.exp, logs))
