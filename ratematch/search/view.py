"""What is known, under way and promised for one workload, made into fronts: the view that a decision is taken on."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from ratematch.search.candidates import Candidate, Known, Rate, Seen, Space
from ratematch.search.fronts import GRID, WIDTHS, Floats, Side, empty_front, front_of, hypervolume, stretches_of
from ratematch.search.speeds import Outlook

EVENLY = 0.5
"""Weight of tok/s/GPU at every tok/s/user alike (its logarithm), beside that of the hypervolume, which knows little
of slow users."""
CHOICES = 0.3
"""Weight of tok/s/GPU where a deployment will be chosen, all of those together."""
BESIDE = 0.06
"""They reach so far to both sides (logarithm): fronts are read in steps, and a step must not decide."""
CHANCES = ((-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6))
"""A normal distribution as three values, in standard deviations, and their weights (Gauss-Hermite)."""
NORMAL = NormalDist()


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
    if measured.tpot_s and predicted.tpot_s:
        return math.log(predicted.tpot_s / measured.tpot_s)
    return math.log(measured.req_s / predicted.req_s)


@dataclass
class View:
    """Everything that one decision asks of rates and fronts, each computed once."""

    space: Space
    known: Known
    running: Mapping[str, Collection[int]]
    outlook: Outlook = field(init=False)

    def __post_init__(self) -> None:
        self.outlook = Outlook((*see(self.space, self.known), *self.space.elsewhere), self.space.workload)
        self._speeds: dict[str, tuple[dict[int, float], dict[int, float]]] = {}
        for each in self.space.candidates:
            mean, sd = self.outlook.speeds(each)
            self._speeds[each.id] = (
                dict(zip(each.forecasts, mean.tolist(), strict=True)),
                dict(zip(each.forecasts, sd.tolist(), strict=True)),
            )
        self._fronts: dict[tuple[str, frozenset[int], float], Floats] = {}
        self._stretches: dict[tuple[str, float], tuple[dict[int, int], Floats]] = {}
        self._feeders: dict[int, list[Side]] = {}
        self.gens = [each for each in self.space.candidates if each.stage == "gen"]
        self.ctxs = [each for each in self.space.candidates if each.stage == "ctx"]
        best = empty_front()
        for gen in self.gens:
            best = np.maximum(best, self.front(gen, frozenset(gen.forecasts)))
        self.weights = _weigh(best, self.space.choose_at)

    def spread(self, each: Candidate) -> float:
        """Standard deviation of the log of a server's speed, the mean over its ladder."""
        return float(np.mean(list(self._speeds[each.id][1].values())))

    def started(self, each: Candidate) -> bool:
        return bool(self.known.get(each.id)) or bool(self.running.get(each.id))

    def taken(self, each: Candidate) -> frozenset[int]:
        """Loads measured or under way."""
        return frozenset((*self.known.get(each.id, ()), *self.running.get(each.id, ())))

    def rate(self, each: Candidate, load: int, lucky: float = 0.0) -> Rate:
        """Measured where it is, else promised; ``lucky``: so many standard deviations faster."""
        if measured := self.known.get(each.id, {}).get(load):
            return measured
        mean, sd = self._speeds[each.id]
        return each.forecasts[load].times(math.exp(mean[load] + lucky * sd[load]))

    def assuming(self, each: Candidate, load: int, rate: Rate) -> View:
        """The same, with another rate at a load that is measured; what is promised of others stays."""
        other = copy(self)
        other.known = {**self.known, each.id: {**self.known.get(each.id, {}), load: rate}}
        others = each.stage == "gen"  # a ctx server feeds all of them
        other._fronts = {key: front for key, front in self._fronts.items() if others and key[0] != each.id}
        other._stretches = {key: found for key, found in self._stretches.items() if others and key[0] != each.id}
        other._feeders = dict(self._feeders) if others else {}
        return other

    # -- ctx --------------------------------------------------------------------------------------------------

    def capacity(self, each: Candidate, loads: Iterable[int], lucky: float = 0.0) -> float:
        """Best requests/s of a ctx server within the TTFT limit; of what is only promised, by how likely that is."""
        return max((self.worth(each, load, lucky) for load in loads), default=0.0)

    def worth(self, each: Candidate, load: int, lucky: float = 0.0) -> float:
        """Requests/s at ``load`` times the chance that TTFT is within the limit."""
        rate, limit = self.rate(each, load, lucky), self.space.ttft_s
        if limit is None:
            return rate.req_s
        if load in self.known.get(each.id, ()):
            return rate.req_s if rate.ttft_s <= limit else 0.0
        sd = self._speeds[each.id][1][load]
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
        one, the one that promises most."""
        if mtp not in self._feeders:
            started = [each for each in self.ctxs if self.started(each)]
            rates = [(each, self.capacity(each, self.taken(each))) for each in started]
            if not any(rate > 0 for _, rate in rates) and self.ctxs:
                promising = max(self.ctxs, key=lambda each: self.capacity(each, each.forecasts) / each.gpus)
                rates = [(promising, self.capacity(promising, promising.forecasts))]
            self._feeders[mtp] = self.sides(rates, mtp)
        return self._feeders[mtp]

    def sides(self, rates: Iterable[tuple[Candidate, float]], mtp: int) -> list[Side]:
        best: dict[int, float] = {}
        for each, rate in rates:
            if rate > 0:
                best[each.gpus] = max(best.get(each.gpus, 0.0), rate * self.twin(each, mtp))
        return [Side(gpus, np.array([rate]), np.empty(0)) for gpus, rate in sorted(best.items())]

    # -- fronts -----------------------------------------------------------------------------------------------

    def gen_side(self, each: Candidate, loads: Iterable[int], lucky: float = 0.0) -> Side:
        limit = self.space.tpot_s
        rates = [self.rate(each, load, lucky) for load in sorted(loads)]
        kept = [rate for rate in rates if rate.tpot_s > 0 and (limit is None or rate.tpot_s <= limit)]
        return Side(each.gpus, np.array([r.req_s for r in kept]), np.array([1 / r.tpot_s for r in kept]))

    def stretches(self, each: Candidate, lucky: float) -> tuple[dict[int, int], Floats]:
        """Where each load is, of those within the TPOT limit, and :func:`ratematch.search.fronts.stretches_of`."""
        key = (each.id, lucky)
        if key not in self._stretches:
            limit = self.space.tpot_s
            rates = {load: self.rate(each, load, lucky) for load in each.forecasts}
            kept = {load: r for load, r in rates.items() if r.tpot_s > 0 and (limit is None or r.tpot_s <= limit)}
            req_s, speed = [r.req_s for r in kept.values()], [1 / r.tpot_s for r in kept.values()]
            gen = Side(each.gpus, np.array(req_s), np.array(speed))
            fronts = np.zeros((len(kept), len(kept), GRID.size))
            for side in self.feeders(each.mtp):
                fronts = np.maximum(fronts, stretches_of(side, gen, self.space.osl, self.space.max_gpus))
            self._stretches[key] = {load: k for k, load in enumerate(kept)}, fronts
        return self._stretches[key]

    def front(self, each: Candidate, loads: frozenset[int], lucky: float = 0.0) -> Floats:
        """Of a gen server measured at ``loads``, fed as it can be fed."""
        key = (each.id, loads, lucky)
        if key not in self._fronts:
            place, fronts = self.stretches(each, lucky)
            at = sorted(place[load] for load in loads if load in place)
            ends = at[1:] if len(at) > 1 else at
            self._fronts[key] = fronts[at[: len(ends)], ends].max(axis=0) if at else empty_front()
        return self._fronts[key]

    def fed(self, gen: Side, ctx: Iterable[Side]) -> Floats:
        front = empty_front()
        for side in ctx:
            front = np.maximum(front, front_of(side, gen, self.space.osl, self.space.max_gpus))
        return front

    def value(self, front: Floats) -> float:
        """1 is about what everything measured would be worth."""
        return float(front @ self.weights)

    def now(self) -> Floats:
        """The front of everything measured and under way."""
        front = empty_front()
        if any(self.started(each) for each in self.ctxs):
            for each in self.gens:
                front = np.maximum(front, self.front(each, self.taken(each)))
        return front


def _weigh(promised: Floats, choose_at: Iterable[float]) -> Floats:
    """Of tok/s/GPU at each tok/s/user: hypervolume, every tok/s/user alike as far as the front reaches, and
    more of it around those that a deployment will be chosen at."""
    size = hypervolume(promised)
    if size <= 0:
        return WIDTHS
    reached = (promised > 0) & (GRID[0] * 1.5 <= GRID)
    evenly = np.where(reached, 1 / np.where(promised > 0, promised, 1.0), 0.0) / max(1, int(reached.sum()))
    asked = [at for speed in choose_at if (at := (np.abs(np.log(GRID / speed)) < BESIDE) & (promised > 0)).any()]
    choices = np.zeros_like(GRID)
    for at in asked:
        choices[at] += 1 / promised[at] / at.sum() / len(asked)
    part = CHOICES if asked else 0.0
    return np.asarray((WIDTHS / size + EVENLY * evenly + part * choices) / (1 + EVENLY + part))


def _best(space: Space, each: Candidate) -> float:
    """Forecast requests/s within the TTFT limit."""
    return max(
        (r.req_s for r in each.forecasts.values() if space.ttft_s is None or r.ttft_s <= space.ttft_s), default=0.0
    )
