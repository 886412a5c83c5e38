"""A correction of the step-time model from a few measured loads of one GPU type and model, with its uncertainty.

The logarithm of measured over predicted speed of a load is taken as what the corrected factors leave, plus its
server's own deviation, plus what one load repeats to. Factors have priors around 1, as wide as what was learnt from
public deployments differs between halves of them (``ratematch/data/efficiency.yaml``): three loads move what they
say something of and leave the rest. The estimate is the most likely one, its covariance that of the linearised model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.efficiency import PART_FIELDS, LearntSet
from ratematch.engines.steptimes import LEAST, MOST, PARTS, Correction

Vector = NDArray[np.float64]

OWN_SD = 0.08
"""Of a server's log speed about calibrated predictions: with it 95 % intervals of the public disaggregated rows hold
(docs/accuracy.md, by benchmarks.real_deployments.calibrated)."""
AGGREGATED_SD = 0.16
"""The same of aggregated servers, whose steps mix prompts and generation: of the public aggregated rows."""
OWN_WEIGHT = 8.0
"""Loads that ``OWN_SD`` counts as when the own deviation is estimated."""
LOAD_SD = 0.02
"""Of one load's log speed about its server: how far the model's shape over load is off."""
LEAST_PRIOR_SD = 0.05
"""Of the log of a factor, however well the halves agree."""
UNLEARNT_SD = 0.3
"""Of the log of a factor of what nothing was learnt of."""
OWN_ROUNDS = 3
"""Times that factors are fitted with the own deviation which the last fit left."""
STEP = 1e-3
"""Of a log, for slopes."""
MOST_ROUNDS = 30


@dataclass(frozen=True)
class CalibrationPoint:
    """One measured load. ``server``: loads of one share its own deviation. ``log_speed(correction)``: log of measured
    over predicted speed, with the step times that ``correction`` gives."""

    name: str
    server: str
    log_speed: Callable[[Correction], float]


@dataclass(frozen=True)
class PointFit:
    """Measured over predicted speed of one load, with the model as it is and with the correction."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Calibration:
    """A correction and how well it is known.

    ``covariance``, ``prior_sd``: of the logs of its factors, in the order of ``PARTS``. ``own_sd``: standard
    deviation of the log speed of a server that was not measured about its prediction. ``source``: where ``points``
    are from.
    """

    correction: Correction
    covariance: tuple[tuple[float, ...], ...]
    prior_sd: tuple[float, ...]
    own_sd: float
    points: tuple[PointFit, ...]
    source: str

    def factor_interval(self, part: str) -> tuple[float, float]:
        """95 % of what the factor may be."""
        place = PARTS.index(part)
        middle = float(getattr(self.correction, part))
        spread = math.exp(1.96 * math.sqrt(self.covariance[place][place]))
        return middle / spread, middle * spread

    def factors_sd(self, slopes: Vector) -> float:
        """Standard deviation of a predicted log speed for want of better known factors; ``slopes``: of that log over
        the logs of the factors. A server's own deviation comes on top."""
        return math.sqrt(max(0.0, float(slopes @ np.array(self.covariance) @ slopes)))

    def server_sd(self, aggregated: bool) -> float:
        """Standard deviation of the log speed of a server that was not measured, were the factors known exactly."""
        return max(self.own_sd, AGGREGATED_SD) if aggregated else self.own_sd

    def in_words(self) -> str:
        """What it corrects, in one line."""
        said = []
        for part in PARTS:
            low, high = self.factor_interval(part)
            said.append(f"{part} x {getattr(self.correction, part):.2f} ({low:.2f} to {high:.2f})")
        one = self.correction
        return (
            f"calibrated for {one.model} in {one.precision} on {one.gpu} by {len(self.points)} loads of "
            f"{self.source}: {', '.join(said)}"
        )


def prior_sds(sets: Iterable[LearntSet]) -> Vector:
    """Standard deviation of the log of each factor before anything is measured.

    A part with learnt values: the root mean square of what ``between`` spans; ``UNLEARNT_SD`` where none has any.
    """
    spans: dict[str, dict[str, float]] = {part: {} for part in PARTS}
    for each in sets:
        for part, names in PART_FIELDS.items():
            for name in names:
                if (value := each.values.get(name)) is not None:
                    spans[part][f"{each.label} {name}"] = math.log(value.high / value.low)
    sds = []
    for part in PARTS:
        squares = [span**2 for span in spans[part].values()]
        sds.append(max(LEAST_PRIOR_SD, math.sqrt(sum(squares) / len(squares))) if squares else UNLEARNT_SD)
    return np.array(sds)


def calibrate(
    points: Sequence[CalibrationPoint], start: Correction, prior_sd: Vector, source: str = "", own_sd: float = OWN_SD
) -> Calibration:
    """The correction that ``points`` and the priors agree on best. ``start``: for what; its factors are ignored."""
    start = start.with_factors([1.0] * len(PARTS))
    before = _residuals(points, start, np.zeros(len(PARTS)))
    believed = own_sd
    for _ in range(OWN_ROUNDS):
        logs, residuals, slopes = _most_likely(points, start, prior_sd, _precision(points, own_sd))
        misfit = float(residuals @ _precision(points, own_sd) @ residuals) * (own_sd / believed) ** 2
        own_sd = believed * math.sqrt((OWN_WEIGHT + misfit) / (OWN_WEIGHT + len(points)))
    inverse = slopes.T @ _precision(points, own_sd) @ slopes + np.diag(prior_sd**-2.0)
    covariance = np.linalg.inv(inverse)
    return Calibration(
        _with(start, logs),
        tuple(tuple(float(value) for value in row) for row in covariance),
        tuple(map(float, prior_sd)),
        own_sd,
        tuple(
            PointFit(point.name, math.exp(old), math.exp(new))
            for point, old, new in zip(points, before, residuals, strict=True)
        ),
        source,
    )


def speed_slopes(log_speed: Callable[[Correction], float], correction: Correction) -> Vector:
    """Slopes of a prediction's log speed over the logs of the factors, at ``correction``."""
    logs = _logs(correction)
    slopes: Vector = _slopes(lambda at: np.array([log_speed(_with(correction, at))]), logs)[0]
    return slopes


def _precision(points: Sequence[CalibrationPoint], own_sd: float) -> Vector:
    """Inverse covariance of what factors do not explain."""
    same = np.array([[float(one.server == other.server) for other in points] for one in points])
    return np.asarray(np.linalg.inv(own_sd**2 * same + LOAD_SD**2 * np.eye(len(points))))


def _most_likely(
    points: Sequence[CalibrationPoint], start: Correction, prior_sd: Vector, precision: Vector
) -> tuple[Vector, Vector, Vector]:
    """Logs of the factors, what they leave, and its slopes over them: damped Gauss-Newton from 1."""

    def cost(at: Vector, left: Vector) -> float:
        return float(left @ precision @ left + ((at / prior_sd) ** 2).sum())

    def leave(at: Vector) -> Vector:
        return _residuals(points, start, at)

    logs = np.zeros(len(PARTS))
    left = leave(logs)
    for _ in range(MOST_ROUNDS):
        slopes = _slopes(leave, logs)
        inverse = slopes.T @ precision @ slopes + np.diag(prior_sd**-2.0)
        way = -np.linalg.solve(inverse, slopes.T @ precision @ left + logs / prior_sd**2)
        size = 1.0
        while size > 1e-3:
            tried = np.clip(logs + size * way, math.log(LEAST), math.log(MOST))
            new = leave(tried)
            if cost(tried, new) < cost(logs, left):
                break
            size /= 2
        else:
            break
        gained = cost(logs, left) - cost(tried, new)
        logs, left = tried, new
        if gained < 1e-8:
            break
    return logs, left, _slopes(leave, logs)


def _residuals(points: Sequence[CalibrationPoint], start: Correction, logs: Vector) -> Vector:
    correction = _with(start, logs)
    return np.array([point.log_speed(correction) for point in points])


def _slopes(function: Callable[[Vector], Vector], at: Vector) -> Vector:
    steps = np.eye(len(at)) * STEP
    return np.array([(function(at + step) - function(at - step)) / (2 * STEP) for step in steps]).T


def _with(correction: Correction, logs: Vector) -> Correction:
    return correction.with_factors(map(math.exp, logs))


def _logs(correction: Correction) -> Vector:
    return np.array([math.log(factor) for factor in correction.factors])
