"""What it costs on average to choose by a rate that is not sure: front that another choice would have given.

At every tok/s/user one deployment is chosen, a gen server at one of its loads and a ratio of whole instances. If the
rate is another than the one measured, another server or another ratio would have been better: what that one gives
more is lost. This is the expected value of knowing the rate (perfect information), in the currency of the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ratematch.search.candidates import Candidate
from ratematch.search.fronts import GRID, Floats, ctx_instances
from ratematch.search.rates import Rates
from ratematch.search.view import CHANCES, View

Z95 = 1.96


class Choices:
    """The deployment that is chosen at every tok/s/user by the rates of ``view``, with all that is planned.

    ``planned``: loads to be measured beside those known and under way, by candidate.
    """

    def __init__(self, view: View, planned: Mapping[str, frozenset[int]]):
        self._view = view
        rates = view.rates
        self._loads = [
            _FedLoad(gen, load, feeder.gpus)
            for gen in rates.gens
            for load in sorted(rates.taken(gen) | planned.get(gen.id, frozenset()))
            if load in gen.forecasts and gen.forecasts[load].tpot_s > 0
            for feeder in rates.feeders(gen.mtp)
        ]

    @cached_property
    def _fast(self) -> NDArray[np.bool_]:
        """Which fed loads are at least as fast as each tok/s/user, of shape (grid, loads).

        A curve is a curve: where a load turns out otherwise, so does what is served at its tok/s/user.
        """
        rates, limit = self._view.rates, self._view.space.tpot_s
        tok_s_user = 1 / np.array([rates.at(fed.gen, fed.load).tpot_s for fed in self._loads])
        fast = tok_s_user[None, :] >= GRID[:, None]
        return fast if limit is None else fast & (GRID * limit >= 1)[:, None]

    @cached_property
    def _chosen(self) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Ctx and gen instances of the best ratio at each fed load, and the load chosen at each tok/s/user."""
        figures = _figures(self._view.rates, self._loads)
        x, y = figures.best_instances(self._view.space.max_gpus)
        return x, y, np.where(self._fast, figures.req_s_per_gpu(x, y)[None, :], 0.0).argmax(axis=1)

    def regret(self, server: Candidate, load: int, width: float) -> float:
        """Share of the front that is lost on average for what is not known of ``server`` at a measured ``load``.

        ``width``: half width of the 95 % interval of its rate, as a share of it.
        """
        if not self._loads:
            return 0.0
        view, fast = self._view, self._fast
        x, y, chosen = self._chosen
        rate = view.rates.known[server.id][load]
        lost = 0.0
        for z, weight in CHANCES:
            then = _figures(view.rates.assuming(server, load, rate.times(math.exp(z * width / Z95))), self._loads)
            kept = then.req_s_per_gpu(x, y)[chosen]
            best = then.req_s_per_gpu(*then.best_instances(view.space.max_gpus))
            most = np.where(fast, best[None, :], 0.0).max(axis=1)
            missed = np.where(fast.any(axis=1), np.maximum(most - kept, 0.0), 0.0)
            lost += weight * view.value(missed * view.space.osl)
        return lost


@dataclass(frozen=True)
class _FedLoad:
    """A load of a gen server, fed by ctx servers of ``ctx_gpus`` GPUs."""

    gen: Candidate
    load: int
    ctx_gpus: int


@dataclass(frozen=True)
class _Figures:
    """Of every fed load: requests/s and GPUs of one instance, of shape (loads,)."""

    req_s: Floats
    gen_gpus: Floats
    ctx_req_s: Floats
    ctx_gpus: Floats

    def req_s_per_gpu(self, x: Floats, y: Floats) -> Floats:
        """Of x ctx and y gen instances; 0 of none."""
        gpus = np.maximum(x * self.ctx_gpus + y * self.gen_gpus, 1)
        return np.asarray(np.minimum(x * self.ctx_req_s, y * self.req_s) / gpus)

    def best_instances(self, max_gpus: int) -> tuple[Floats, Floats]:
        """Ctx and gen instances of the best ratio; zeros where none fits."""
        y = np.arange(1.0, max_gpus + 1)[:, None]
        x = ctx_instances(y, self.gen_gpus, self.req_s, self.ctx_gpus, self.ctx_req_s, max_gpus)
        best = self.req_s_per_gpu(x, np.where(x >= 1, y, 0.0)).argmax(axis=0)
        number = np.arange(self.req_s.size)
        return x[best, number], np.where(x[best, number] >= 1, y[best, 0], 0.0)


def _figures(rates: Rates, loads: Sequence[_FedLoad]) -> _Figures:
    ctx_req_s = {
        (fed.gen.mtp, side.gpus): float(side.req_s[0]) for fed in loads for side in rates.feeders(fed.gen.mtp)
    }
    return _Figures(
        np.array([rates.at(fed.gen, fed.load).req_s for fed in loads]),
        np.array([float(fed.gen.gpus) for fed in loads]),
        np.array([ctx_req_s.get((fed.gen.mtp, fed.ctx_gpus), 1e-9) for fed in loads]),
        np.array([float(fed.ctx_gpus) for fed in loads]),
    )
