"""Rates of every server of one workload: measured where they are, else forecast and corrected."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np

from ratematch.search.candidates import Candidate, Deviation, Known, Rate, Space
from ratematch.search.fronts import Side
from ratematch.search.speeds import SpeedModel

NORMAL = NormalDist()

Corrections = Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]]
"""By candidate: mean and standard deviation, by load, of the log of its speed over its forecast."""


def observe_deviations(space: Space, known: Known) -> tuple[Deviation, ...]:
    """The deviation of every measured load of ``space`` that has a forecast."""
    return tuple(
        Deviation(
            space.workload,
            server.family,
            server.kind or server.id,
            server.position(load),
            log_speed_ratio(rate, server.forecasts[load]),
        )
        for server in space.candidates
        for load, rate in sorted(known.get(server.id, {}).items())
        if load in server.forecasts
    )


def log_speed_ratio(measured: Rate, predicted: Rate) -> float:
    """Log of measured over predicted speed: tokens/s/user of generation, requests/s of ctx."""
    if measured.tpot_s and predicted.tpot_s:
        return math.log(predicted.tpot_s / measured.tpot_s)
    return math.log(measured.req_s / predicted.req_s)


def correct(space: Space, known: Known) -> Corrections:
    """Corrections of every candidate, from what is measured of the servers of ``space`` and elsewhere."""
    model = SpeedModel((*observe_deviations(space, known), *space.elsewhere), space.workload, space.family_sds)
    corrections = {}
    for server in space.candidates:
        mean, sd = model.predict(server)
        corrections[server.id] = (
            dict(zip(server.forecasts, mean.tolist(), strict=True)),
            dict(zip(server.forecasts, sd.tolist(), strict=True)),
        )
    return corrections


@dataclass(frozen=True)
class Rates:
    """Rates of the candidates of ``space``, of which ``known`` are measured and ``running`` (loads, by candidate) are
    under way.

    Immutable. What is derived from it is kept in this object alone: another one, made by :meth:`assuming` or
    ``dataclasses.replace``, starts with nothing derived.
    """

    space: Space
    known: Known
    running: Mapping[str, Collection[int]]
    corrections: Corrections
    _feeders: dict[int, list[Side]] = field(init=False, repr=False, compare=False, default_factory=dict)

    @cached_property
    def gens(self) -> list[Candidate]:
        return [server for server in self.space.candidates if server.stage == "gen"]

    @cached_property
    def ctxs(self) -> list[Candidate]:
        return [server for server in self.space.candidates if server.stage == "ctx"]

    def assuming(self, server: Candidate, load: int, rate: Rate) -> Rates:
        """The same with another rate at one load, as if it were measured; other corrections stay."""
        return replace(self, known={**self.known, server.id: {**self.known.get(server.id, {}), load: rate}})

    def spread(self, server: Candidate) -> float:
        """Standard deviation of the log of a server's speed, the mean over its ladder."""
        return float(np.mean(list(self.corrections[server.id][1].values())))

    def started(self, server: Candidate) -> bool:
        return bool(self.known.get(server.id)) or bool(self.running.get(server.id))

    def taken(self, server: Candidate) -> frozenset[int]:
        """Loads measured or under way."""
        return frozenset((*self.known.get(server.id, ()), *self.running.get(server.id, ())))

    def at(self, server: Candidate, load: int, z: float = 0.0) -> Rate:
        """The rate measured at ``load``, or ``z`` standard deviations faster than expected where none is."""
        if measured := self.known.get(server.id, {}).get(load):
            return measured
        mean, sd = self.corrections[server.id]
        return server.forecasts[load].times(math.exp(mean[load] + z * sd[load]))

    def gen_side(self, server: Candidate, loads: Iterable[int], z: float = 0.0) -> tuple[list[int], Side]:
        """Those of ``loads`` that are within the TPOT limit, and the rates of a gen server at them."""
        limit = self.space.tpot_s
        rates = {load: self.at(server, load, z) for load in loads}
        kept = {load: r for load, r in rates.items() if r.tpot_s > 0 and (limit is None or r.tpot_s <= limit)}
        req_s, speed = [r.req_s for r in kept.values()], [1 / r.tpot_s for r in kept.values()]
        return list(kept), Side(server.gpus, np.array(req_s), np.array(speed))

    # -- ctx --------------------------------------------------------------------------------------------------

    def capacity(self, server: Candidate, loads: Iterable[int], z: float = 0.0) -> float:
        """The best :meth:`worth` of a ctx server at ``loads``, in requests/s; 0 of none."""
        return max((self.worth(server, load, z) for load in loads), default=0.0)

    def worth(self, server: Candidate, load: int, z: float = 0.0) -> float:
        """Requests/s at ``load`` times the chance that TTFT is within the limit."""
        rate, limit = self.at(server, load, z), self.space.ttft_s
        if limit is None:
            return rate.req_s
        if load in self.known.get(server.id, ()):
            return rate.req_s if rate.ttft_s <= limit else 0.0
        sd = self.corrections[server.id][1][load]
        return rate.req_s * NORMAL.cdf(math.log(limit / max(rate.ttft_s, 1e-9)) / max(sd, 1e-6))

    def twin_speedup(self, server: Candidate, mtp: int) -> float:
        """How much faster than ``server`` the same ctx server with ``mtp`` drafts is forecast to be."""
        if server.mtp == mtp:
            return 1.0
        for other in self.ctxs:
            if (other.family, other.gpus, other.mtp) == (server.family, server.gpus, mtp):
                own, twin = _best(self.space, server), _best(self.space, other)
                return twin / own if own > 0 else 1.0
        return 1.0

    def feeders(self, mtp: int) -> list[Side]:
        """Ctx servers measured or under way, by GPUs, as they feed gen servers with ``mtp`` drafts; before there is
        one, the one that is expected to give most per GPU."""
        if mtp not in self._feeders:
            started = [server for server in self.ctxs if self.started(server)]
            rates = [(server, self.capacity(server, self.taken(server))) for server in started]
            if not any(rate > 0 for _, rate in rates) and self.ctxs:
                likeliest = self.likeliest_ctx()
                rates = [(likeliest, self.capacity(likeliest, likeliest.forecasts))]
            self._feeders[mtp] = self.sides(rates, mtp)
        return self._feeders[mtp]

    def likeliest_ctx(self) -> Candidate:
        """The ctx server that is expected to give most requests/s per GPU within the TTFT limit."""
        return max(self.ctxs, key=lambda server: self.capacity(server, server.forecasts) / server.gpus)

    def sides(self, rates: Iterable[tuple[Candidate, float]], mtp: int) -> list[Side]:
        """Ctx servers with these requests/s as they feed gen servers with ``mtp`` drafts: the best of each size."""
        best: dict[int, float] = {}
        for server, rate in rates:
            if rate > 0:
                best[server.gpus] = max(best.get(server.gpus, 0.0), rate * self.twin_speedup(server, mtp))
        return [Side(gpus, np.array([rate]), np.empty(0)) for gpus, rate in sorted(best.items())]


def _best(space: Space, server: Candidate) -> float:
    """Forecast requests/s within the TTFT limit."""
    return max(
        (r.req_s for r in server.forecasts.values() if space.ttft_s is None or r.ttft_s <= space.ttft_s), default=0.0
    )
