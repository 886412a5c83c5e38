"""What it costs on average to choose by a rate that is not sure: front that another choice would have given.

At every tok/s/user one deployment is chosen, a gen server at one of its loads and a ratio of whole instances. If the
rate is another than the one measured, another server or another ratio would have been better: what that one gives
more is lost. This is the expected value of knowing the rate (perfect information), in the currency of the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.search.candidates import Candidate
from ratematch.search.fronts import GRID, Floats
from ratematch.search.rates import Rates
from ratematch.search.view import CHANCES, View

Z95 = 1.96

Planned = Mapping[str, frozenset[int]]


def regret(view: View, each: Candidate, load: int, width: float, planned: Planned) -> float:
    """Share of the front that is lost on average for what is not known of ``each`` at ``load``.

    ``width``: half width of the 95 % interval of its rate, as a share of it. ``planned``: loads to be measured beside
    those known and under way, by candidate.
    """
    rate = view.rates.known[each.id][load]
    fed = [
        (gen, at, feeder.gpus)
        for gen in view.rates.gens
        for at in sorted(view.rates.taken(gen) | planned.get(gen.id, frozenset()))
        if at in gen.forecasts and gen.forecasts[at].tpot_s > 0
        for feeder in view.rates.feeders(gen.mtp)
    ]
    if not fed:
        return 0.0
    now = _read(view.rates, fed)
    # A curve is a curve: where a load turns out otherwise, so does what is served at its tok/s/user.
    fast = (1 / np.array([view.rates.at(gen, at).tpot_s for gen, at, _ in fed]))[None, :] >= GRID[:, None]
    if view.space.tpot_s is not None:
        fast &= (GRID * view.space.tpot_s >= 1)[:, None]
    x, y = now.best_instances(view.space.max_gpus)
    chosen = np.where(fast, now.served(x, y)[None, :], 0.0).argmax(axis=1)
    lost = 0.0
    for lucky, weight in CHANCES:
        then = _read(view.rates.assuming(each, load, rate.times(math.exp(lucky * width / Z95))), fed)
        kept = then.served(x, y)[chosen]
        most = np.where(fast, then.served(*then.best_instances(view.space.max_gpus))[None, :], 0.0).max(axis=1)
        lost += weight * view.value(np.where(fast.any(axis=1), np.maximum(most - kept, 0.0), 0.0) * view.space.osl)
    return lost


@dataclass(frozen=True)
class _Loads:
    """Loads of gen servers, each with what feeds it: requests/s and GPUs of one instance, of shape (loads,)."""

    req_s: Floats
    gen_gpus: Floats
    ctx_req_s: Floats
    ctx_gpus: Floats

    def served(self, x: Floats, y: Floats) -> Floats:
        """Requests/s/GPU of x ctx and y gen instances; 0 of none."""
        gpus = np.maximum(x * self.ctx_gpus + y * self.gen_gpus, 1)
        return np.asarray(np.minimum(x * self.ctx_req_s, y * self.req_s) / gpus)

    def best_instances(self, max_gpus: int) -> tuple[Floats, Floats]:
        """Ctx and gen instances of the best ratio; zeros where none fits."""
        y = np.arange(1.0, max_gpus + 1)[:, None]
        room = np.maximum((max_gpus - y * self.gen_gpus) // self.ctx_gpus, 0)
        x = np.minimum(np.maximum(np.ceil(y * self.req_s / self.ctx_req_s - 1e-9), 1), room)
        best = self.served(x, np.where(x >= 1, y, 0.0)).argmax(axis=0)
        number = np.arange(self.req_s.size)
        return x[best, number], np.where(x[best, number] >= 1, y[best, 0], 0.0)


def _read(rates: Rates, fed: Sequence[tuple[Candidate, int, int]]) -> _Loads:
    feeders = {(gen.mtp, side.gpus): float(side.req_s[0]) for gen, _, _ in fed for side in rates.feeders(gen.mtp)}
    return _Loads(
        np.array([rates.at(gen, at).req_s for gen, at, _ in fed]),
        np.array([float(gen.gpus) for gen, _, _ in fed]),
        np.array([feeders.get((gen.mtp, gpus), 1e-9) for gen, _, gpus in fed]),
        np.array([float(gpus) for _, _, gpus in fed]),
    )
