"""How fast servers are likely to be that are not measured, from those that are: a Gaussian process over servers.

The logarithm of measured over predicted speed is taken as a sum of independent parts: of the mapping family, of the
family's slope along the ladder, of the family at one workload, of the server, of the server at one workload, and
noise. Everything seen says something about everything that shares a part with it; standard deviations below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ratematch.search.candidates import Candidate, Seen
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
"""Of one load: measurement, and bends that a slope does not know."""
SCALES = (1.0, 1.5, 2.2, 3.3, 5.0)
"""By how much servers may differ more than said above; what was seen decides."""
SCALE_SD = 0.7
"""Of the logarithm of that, before anything is seen."""


class Outlook:
    """What ``seen`` says of servers for ``workload``."""

    def __init__(self, seen: Sequence[Seen], workload: str):
        self._seen = list(seen)
        self._workload = workload
        self._log = np.array([each.log for each in self._seen])
        self.scale, self._inverse = self._fit()

    def _fit(self) -> tuple[float, Floats]:
        """The likeliest scale, and the inverse covariance of what was seen."""
        best = -np.inf
        found: tuple[float, Floats] = (1.0, np.empty((0, 0)))
        for scale in SCALES if self._seen else ():
            covariance = _covariance(self._seen, self._seen, scale) + NOISE_SD**2 * np.eye(len(self._seen))
            inverse = np.linalg.inv(covariance)
            _, size = np.linalg.slogdet(covariance)
            likely = -0.5 * float(self._log @ inverse @ self._log + size) - 0.5 * (np.log(scale) / SCALE_SD) ** 2
            if likely > best:
                best, found = likely, (scale, np.asarray(inverse))
        return found

    def speeds(self, each: Candidate) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the log of speed over forecast, at each load of the ladder."""
        asked = [
            Seen(self._workload, each.family, each.kind or each.id, each.place(load), 0.0) for load in each.forecasts
        ]
        own = np.diag(_covariance(asked, asked, self.scale))
        if not self._seen:
            return np.zeros(len(asked)), np.sqrt(own)
        shared = _covariance(asked, self._seen, self.scale)
        mean = shared @ self._inverse @ self._log
        left = own - np.einsum("ij,jk,ik->i", shared, self._inverse, shared)
        return mean, np.sqrt(np.maximum(left, 1e-12))


def _covariance(one: Sequence[Seen], other: Sequence[Seen], scale: float) -> Floats:
    def same(name: str) -> Floats:
        left = np.array([getattr(each, name) for each in one], dtype=object)
        right = np.array([getattr(each, name) for each in other], dtype=object)
        return np.asarray(left[:, None] == right[None, :], dtype=float)

    family, workload, kind = same("family"), same("workload"), same("kind")
    slope = np.outer([each.at for each in one], [each.at for each in other])
    shared = FAMILY_SD**2 + SLOPE_SD**2 * slope + (WORKLOAD_SD * scale) ** 2 * workload
    own = (SERVER_SD * scale) ** 2 + (OWN_SD * scale) ** 2 * workload
    return np.asarray(family * (shared + kind * own))
