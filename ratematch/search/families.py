"""How far predictions are off, estimated from measurements, mapping family by mapping family.

A family is a stage with one kind of mapping (``gen DEP``): its servers run the same kernels, so a step-time model is
wrong about all of them in much the same way. The logarithm of measured over predicted speed of a server is taken as
``family effect + own deviation``. Both are normal; the family effect has the prior standard deviation ``FAMILY_SD``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ratematch.plan.experiment import Experiment
from ratematch.plan.parallelism import family_name

FAMILY_SD = 0.2
"""Of the family effect before anything of the family is measured: half of all models within +-14 %."""
OWN_SD = 0.04
"""Of a server about its family, before enough of them are measured to estimate it."""
OWN_WEIGHT = 4.0
"""Servers that ``OWN_SD`` counts as when the own deviation is estimated."""


def family_of(experiment: Experiment) -> str:
    """``gen DEP``: stage, and the mapping of its measured servers without its sizes."""
    return family_name(experiment.stage, experiment.deployment.groups[-1].mapping.label)


@dataclass(frozen=True)
class FamilyEffect:
    """The log of measured over predicted speed of one family's servers, as estimated.

    ``mean``: of the family. ``sd``: standard deviation of that mean. ``own_sd``: standard deviation of one server
    about it. ``servers``: how many of the family are measured.
    """

    family: str
    mean: float = 0.0
    sd: float = FAMILY_SD
    own_sd: float = OWN_SD
    servers: int = 0

    @property
    def factor(self) -> float:
        """What predictions of the family are multiplied by."""
        return math.exp(self.mean)

    @property
    def total_sd(self) -> float:
        """Of a server that is not measured."""
        return math.hypot(self.sd, self.own_sd)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of servers not measured lie between these factors of the raw prediction."""
        return math.exp(self.mean - 1.96 * self.total_sd), math.exp(self.mean + 1.96 * self.total_sd)


def estimate_effects(deviations: Mapping[str, Iterable[float]]) -> dict[str, FamilyEffect]:
    """The effect of every family named, from the log of measured over predicted speed of each of its servers.

    The own deviation is pooled over families, with ``OWN_SD`` as ``OWN_WEIGHT`` servers' worth.
    """
    known = {family: list(values) for family, values in deviations.items()}
    squares, count = OWN_WEIGHT * OWN_SD**2, OWN_WEIGHT
    for values in known.values():
        if len(values) > 1:
            mean = sum(values) / len(values)
            squares += sum((value - mean) ** 2 for value in values)
            count += len(values) - 1
    own = squares / count
    effects = {}
    for family, values in known.items():
        precision = 1 / FAMILY_SD**2 + len(values) / own
        effects[family] = FamilyEffect(
            family, sum(values) / own / precision, math.sqrt(1 / precision), math.sqrt(own), len(values)
        )
    return effects
