"""How fast servers are likely to be that are not measured, from those that are: a Gaussian process over servers.

The logarithm of measured over predicted speed is taken as a sum of independent normal parts: of the mapping family,
of the family's slope along the ladder, of the family at one workload, of the server, of the server at one workload,
and noise. A deviation that was measured informs every server that shares a part with it. The standard deviations of
the parts are the constants below; ``docs/search.md`` has the formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ratematch.search.candidates import Candidate, Deviation
from ratematch.search.families import FAMILY_SD
from ratematch.search.fronts import Floats

SLOPE_SD = 0.03
"""Of a family, from the middle of the ladder to either end."""
WORKLOAD_SD = 0.03
"""Of a family at one workload, about the family."""
SERVER_SD = 0.025
"""Of a server, about its family, whatever the workload."""
OWN_SD = 0.025
"""Of a server at one workload."""
NOISE_SD = 0.02
"""Of one load: measurement noise, and what a straight slope along the ladder leaves."""
SCALES = (1.0, 1.5, 2.2, 3.3, 5.0)
"""Factors tried on ``WORKLOAD_SD``, ``SERVER_SD`` and ``OWN_SD``: the likeliest one for the deviations measured."""
SCALE_SD = 0.7
"""Prior standard deviation of the logarithm of that factor."""


class SpeedModel:
    """What ``deviations`` say of the speed of servers for ``workload``. ``family_sds``: standard deviations of the
    effects of families about which more is known beforehand than ``FAMILY_SD``.

    ``scale``: the likeliest of ``SCALES``; 1 before anything is measured.
    """

    def __init__(self, deviations: Sequence[Deviation], workload: str, family_sds: Mapping[str, float] | None = None):
        self._family_sds = family_sds or {}
        self._deviations = list(deviations)
        self._workload = workload
        self._log = np.array([deviation.log_ratio for deviation in self._deviations])
        self.scale, self._inverse = self._fit()

    def _fit(self) -> tuple[float, Floats]:
        """The likeliest scale, and the inverse covariance of the deviations under it."""
        most_likely = -np.inf
        fit: tuple[float, Floats] = (1.0, np.empty((0, 0)))
        for scale in SCALES if self._deviations else ():
            noise = NOISE_SD**2 * np.eye(len(self._deviations))
            covariance = self._covariance(self._deviations, self._deviations, scale) + noise
            inverse = np.linalg.inv(covariance)
            _, log_det = np.linalg.slogdet(covariance)
            prior = -0.5 * (np.log(scale) / SCALE_SD) ** 2
            log_likelihood = -0.5 * float(self._log @ inverse @ self._log + log_det) + prior
            if log_likelihood > most_likely:
                most_likely, fit = log_likelihood, (scale, np.asarray(inverse))
        return fit

    def predict(self, server: Candidate) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the log of speed over forecast, at each load of the ladder."""
        kind = server.kind or server.id
        points = [
            Deviation(self._workload, server.family, kind, server.position(load), 0.0) for load in server.forecasts
        ]
        prior = np.diag(self._covariance(points, points, self.scale))
        if not self._deviations:
            return np.zeros(len(points)), np.sqrt(prior)
        shared = self._covariance(points, self._deviations, self.scale)
        mean = shared @ self._inverse @ self._log
        posterior = prior - np.einsum("ij,jk,ik->i", shared, self._inverse, shared)
        return mean, np.sqrt(np.maximum(posterior, 1e-12))

    def _covariance(self, one: Sequence[Deviation], other: Sequence[Deviation], scale: float) -> Floats:
        """Of every deviation of ``one`` with every one of ``other``, without noise. Shape (one, other)."""

        def same(name: str) -> Floats:
            rows = np.array([getattr(deviation, name) for deviation in one], dtype=object)
            columns = np.array([getattr(deviation, name) for deviation in other], dtype=object)
            return np.asarray(rows[:, None] == columns[None, :], dtype=float)

        family, workload, kind = same("family"), same("workload"), same("kind")
        slope = np.outer([deviation.position for deviation in one], [deviation.position for deviation in other])
        effect = np.array([[self._family_sds.get(each.family, FAMILY_SD) ** 2] for each in one])
        shared = effect + SLOPE_SD**2 * slope + (WORKLOAD_SD * scale) ** 2 * workload
        own = (SERVER_SD * scale) ** 2 + (OWN_SD * scale) ** 2 * workload
        return np.asarray(family * (shared + kind * own))
