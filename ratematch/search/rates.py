"""Rates of every server of one workload: measured where they are, else forecast and corrected."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np

from ratematch.search.candidates import Candidate, Known, Rate, Seen, Space
from ratematch.search.fronts import Side
from ratematch.search.speeds import Outlook

NORMAL = NormalDist()

Corrections = Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]]
"""By candidate: mean and standard deviation, by load, of the log of its speed over its forecast."""


def see(space: Space, known: Known) -> tuple[Seen, ...]:
    """How far off forecasts were, load by load."""
    return tuple(
        Seen(
            space.workload, each.family, each.kind or each.id, each.place(load), log_speed(rate, each.forecasts[load])
        )
        for each in space.candidates
        for load, rate in sorted(known.get(each.id, {}).items())
        if load in each.forecasts
    )


def log_speed(measured: Rate, predicted: Rate) -> float:
    """Log of measured over predicted speed: tokens/s/user of generation, requests/s of ctx."""
    if measured.tpot_s and predicted.tpot_s:
        return math.log(predicted.tpot_s / measured.tpot_s)
    return math.log(measured.req_s / predicted.req_s)


def correct(space: Space, known: Known) -> Corrections:
    """What the servers measured, here and elsewhere, say of the speed of every candidate."""
    model = Outlook((*see(space, known), *space.elsewhere), space.workload)
    corrections = {}
    for each in space.candidates:
        mean, sd = model.speeds(each)
        corrections[each.id] = (
            dict(zip(each.forecasts, mean.tolist(), strict=True)),
            dict(zip(each.forecasts, sd.tolist(), strict=True)),
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
        return [each for each in self.space.candidates if each.stage == "gen"]

    @cached_property
    def ctxs(self) -> list[Candidate]:
        return [each for each in self.space.candidates if each.stage == "ctx"]

    def assuming(self, each: Candidate, load: int, rate: Rate) -> Rates:
        """The same with another rate at one load, as if it were measured; other corrections stay."""
        return replace(self, known={**self.known, each.id: {**self.known.get(each.id, {}), load: rate}})

    def spread(self, each: Candidate) -> float:
        """Standard deviation of the log of a server's speed, the mean over its ladder."""
        return float(np.mean(list(self.corrections[each.id][1].values())))

    def started(self, each: Candidate) -> bool:
        return bool(self.known.get(each.id)) or bool(self.running.get(each.id))

    def taken(self, each: Candidate) -> frozenset[int]:
        """Loads measured or under way."""
        return frozenset((*self.known.get(each.id, ()), *self.running.get(each.id, ())))

    def at(self, each: Candidate, load: int, lucky: float = 0.0) -> Rate:
        """The rate at ``load``, measured or expected; what is expected, ``lucky`` standard deviations faster."""
        if measured := self.known.get(each.id, {}).get(load):
            return measured
        mean, sd = self.corrections[each.id]
        return each.forecasts[load].times(math.exp(mean[load] + lucky * sd[load]))

    def gen_side(self, each: Candidate, loads: Iterable[int], lucky: float = 0.0) -> tuple[list[int], Side]:
        """Those of ``loads`` that are within the TPOT limit, and the rates of a gen server at them."""
        limit = self.space.tpot_s
        rates = {load: self.at(each, load, lucky) for load in loads}
        kept = {load: r for load, r in rates.items() if r.tpot_s > 0 and (limit is None or r.tpot_s <= limit)}
        req_s, speed = [r.req_s for r in kept.values()], [1 / r.tpot_s for r in kept.values()]
        return list(kept), Side(each.gpus, np.array(req_s), np.array(speed))

    # -- ctx --------------------------------------------------------------------------------------------------

    def capacity(self, each: Candidate, loads: Iterable[int], lucky: float = 0.0) -> float:
        """Best requests/s of a ctx server within the TTFT limit; of what is only expected, by how likely that is."""
        return max((self.worth(each, load, lucky) for load in loads), default=0.0)

    def worth(self, each: Candidate, load: int, lucky: float = 0.0) -> float:
        """Requests/s at ``load`` times the chance that TTFT is within the limit."""
        rate, limit = self.at(each, load, lucky), self.space.ttft_s
        if limit is None:
            return rate.req_s
        if load in self.known.get(each.id, ()):
            return rate.req_s if rate.ttft_s <= limit else 0.0
        sd = self.corrections[each.id][1][load]
        return rate.req_s * NORMAL.cdf(math.log(limit / max(rate.ttft_s, 1e-9)) / max(sd, 1e-6))

    def twin(self, each: Candidate, mtp: int) -> float:
        """How much faster than ``each`` the same ctx server with ``mtp`` drafts is forecast to be."""
        if each.mtp == mtp:
            return 1.0
        for other in self.ctxs:
            if (other.family, other.gpus, other.mtp) == (each.family, each.gpus, mtp):
                own, its = _best(self.space, each), _best(self.space, other)
                return its / own if own > 0 else 1.0
        return 1.0

    def feeders(self, mtp: int) -> list[Side]:
        """Ctx servers measured or under way, by GPUs, as they feed gen servers with ``mtp`` drafts; before there is
        one, the one that is expected to give most per GPU."""
        if mtp not in self._feeders:
            started = [each for each in self.ctxs if self.started(each)]
            rates = [(each, self.capacity(each, self.taken(each))) for each in started]
            if not any(rate > 0 for _, rate in rates) and self.ctxs:
                promising = self.likeliest_ctx()
                rates = [(promising, self.capacity(promising, promising.forecasts))]
            self._feeders[mtp] = self.sides(rates, mtp)
        return self._feeders[mtp]

    def likeliest_ctx(self) -> Candidate:
        """The ctx server that is expected to give most requests/s per GPU within the TTFT limit."""
        return max(self.ctxs, key=lambda each: self.capacity(each, each.forecasts) / each.gpus)

    def sides(self, rates: Iterable[tuple[Candidate, float]], mtp: int) -> list[Side]:
        """Ctx servers with these requests/s as they feed gen servers with ``mtp`` drafts: the best of each size."""
        best: dict[int, float] = {}
        for each, rate in rates:
            if rate > 0:
                best[each.gpus] = max(best.get(each.gpus, 0.0), rate * self.twin(each, mtp))
        return [Side(gpus, np.array([rate]), np.empty(0)) for gpus, rate in sorted(best.items())]


def _best(space: Space, each: Candidate) -> float:
    """Forecast requests/s within the TTFT limit."""
    return max(
        (r.req_s for r in each.forecasts.values() if space.ttft_s is None or r.ttft_s <= space.ttft_s), default=0.0
    )
