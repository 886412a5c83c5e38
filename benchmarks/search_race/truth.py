"""What every server of a race really gives, hidden from all that take part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ratematch.search.candidates import Candidate, Rate, Space
from ratematch.search.fronts import Floats, Side, empty_front, front_of

FAMILY, TILT, OWN, NOISE = 0.3, 0.05, 0.03, 0.015
"""Step times of a family, up to; its tilt over the ladder, up to; standard deviation of a server about its family;
and that of a load measured with all its requests."""

Rates = Mapping[str, Mapping[int, Rate]]
"""By candidate and concurrency."""


@dataclass
class Truth:
    """Rates of every candidate, and what measuring it gives."""

    space: Space
    rates: Rates
    noise: np.random.Generator
    _cache: dict[tuple[object, ...], Floats] = field(default_factory=dict)

    def measure(self, candidate: str, load: int, share: float) -> Rate:
        """With ``share`` of all requests of the load."""
        noise = NOISE / share**0.5
        return self.rates[candidate][load].times(float(np.exp(noise * self.noise.standard_normal())))

    def front(self, known: Mapping[str, Collection[int]], *, ceil_only: bool = False) -> Floats:
        """The true front of deployments made of the servers measured, run at the loads measured."""
        front = empty_front()
        ctx = [each for each in self.space.candidates if each.stage == "ctx" and known.get(each.id)]
        for gen in self.space.candidates:
            loads = tuple(sorted(known.get(gen.id, ()))) if gen.stage == "gen" else ()
            if not loads:
                continue
            for gpus, rate in self.feeders(ctx, gen.mtp, known).items():
                key = (gen.id, loads, gpus, rate, ceil_only)
                if key not in self._cache:
                    rates = [self.rates[gen.id][load] for load in loads]
                    side = Side(gen.gpus, np.array([r.req_s for r in rates]), np.array([1 / r.tpot_s for r in rates]))
                    feeder = Side(gpus, np.array([rate]), np.empty(0))
                    self._cache[key] = front_of(
                        feeder, side, self.space.osl, self.space.max_gpus, ceil_only=ceil_only
                    )
                front = np.maximum(front, self._cache[key])
        return front

    def everything(self) -> Floats:
        """The front of the whole grid."""
        return self.front(self.ladders())

    def ladders(self) -> dict[str, set[int]]:
        """All loads of all candidates."""
        return {each.id: set(each.forecasts) for each in self.space.candidates}

    def feeders(self, ctx: Sequence[Candidate], mtp: int, known: Mapping[str, Collection[int]]) -> dict[int, float]:
        """Best true requests/s by GPUs of ctx servers measured, with the drafts that gen makes them have."""
        best: dict[int, float] = {}
        for each in ctx:
            twin = next(
                other
                for other in self.space.candidates
                if other.stage == "ctx" and other.family == each.family
                if other.gpus == each.gpus and other.mtp == mtp
            )
            limit = self.space.ttft_s
            rates = [self.rates[twin.id][load] for load in known[each.id] if load in self.rates[twin.id]]
            allowed = [rate.req_s for rate in rates if limit is None or rate.ttft_s <= limit]
            if allowed:
                best[each.gpus] = max(best.get(each.gpus, 0.0), max(allowed))
        return best


def make_truth(space: Space, base: Rates, seed: int, own_sd: float = OWN) -> Truth:
    """Family effects are those of the seed, whatever the workload; of a server's own half the variance is."""
    rng = np.random.default_rng(seed)
    mine = np.random.default_rng([seed, *space.workload.encode()])
    families = sorted({each.family for each in space.candidates})
    slower = {family: float(rng.uniform(1 - FAMILY, 1 + FAMILY)) for family in families}
    tilt = {family: float(rng.uniform(-TILT, TILT)) for family in families}
    rates = {}
    for each in space.candidates:
        own = float(np.exp(own_sd * (rng.standard_normal() + mine.standard_normal()) / 2**0.5))
        ladder = sorted(base[each.id])
        rates[each.id] = {
            load: base[each.id][load].times(
                own / (slower[each.family] * (1 + tilt[each.family] * (2 * k / max(1, len(ladder) - 1) - 1)))
            )
            for k, load in enumerate(ladder)
        }
    return Truth(space, rates, np.random.default_rng([seed + 1000, *space.workload.encode()]))
