"""What is known, under way and expected for one workload, made into fronts: the view that a decision is taken on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ratematch.search.candidates import Candidate, Known, Space
from ratematch.search.fronts import GRID, WIDTHS, Floats, Side, empty_front, front_of, hypervolume, stretches_of
from ratematch.search.rates import Rates, correct

EVENLY = 0.5
"""Weight of tok/s/GPU at every tok/s/user alike (its logarithm), beside that of the hypervolume, which knows little
of slow users."""
CHOICES = 0.3
"""Weight of tok/s/GPU where a deployment will be chosen, all of those together."""
BESIDE = 0.06
"""They reach so far to both sides (logarithm): fronts are read in steps, and a step must not decide."""
CHANCES = ((-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6))
"""A normal distribution as three values, in standard deviations, and their weights (Gauss-Hermite)."""


class View:
    """Fronts of one workload, each computed once, and what they are worth.

    ``rates`` never change, so neither does a front: whoever wants to know what other rates would bring makes other
    :class:`ratematch.search.rates.Rates`, and if it needs their fronts, another view.
    """

    def __init__(self, space: Space, known: Known, running: Mapping[str, Collection[int]]):
        self.space = space
        self.rates = Rates(space, known, running, correct(space, known))
        self._stretches: dict[tuple[str, float], tuple[dict[int, int], Floats]] = {}
        self._fronts: dict[tuple[str, frozenset[int], float], Floats] = {}
        best = empty_front()
        for gen in self.rates.gens:
            best = np.maximum(best, self.front(gen, frozenset(gen.forecasts)))
        self.reachable = best
        self.weights = _weigh(best, space.choose_at)

    def front(self, each: Candidate, loads: frozenset[int], lucky: float = 0.0) -> Floats:
        """Of a gen server measured at ``loads``, fed as it can be fed."""
        key = (each.id, loads, lucky)
        if key not in self._fronts:
            place, fronts = self._stretches_of(each, lucky)
            at = sorted(place[load] for load in loads if load in place)
            ends = at[1:] if len(at) > 1 else at
            self._fronts[key] = fronts[at[: len(ends)], ends].max(axis=0) if at else empty_front()
        return self._fronts[key]

    def _stretches_of(self, each: Candidate, lucky: float) -> tuple[dict[int, int], Floats]:
        """Where each load is, of those within the TPOT limit, and :func:`ratematch.search.fronts.stretches_of`."""
        key = (each.id, lucky)
        if key not in self._stretches:
            kept, gen = self.rates.gen_side(each, each.forecasts, lucky)
            fronts = np.zeros((len(kept), len(kept), GRID.size))
            for side in self.rates.feeders(each.mtp):
                fronts = np.maximum(fronts, stretches_of(side, gen, self.space.osl, self.space.max_gpus))
            self._stretches[key] = {load: k for k, load in enumerate(kept)}, fronts
        return self._stretches[key]

    def fed(self, gen: Side, ctx: Iterable[Side]) -> Floats:
        """Of one gen server with each of these ctx servers."""
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
        if any(self.rates.started(each) for each in self.rates.ctxs):
            for each in self.rates.gens:
                front = np.maximum(front, self.front(each, self.rates.taken(each)))
        return front


def _weigh(reachable: Floats, choose_at: Iterable[float]) -> Floats:
    """Of tok/s/GPU at each tok/s/user: hypervolume, every tok/s/user alike as far as the front reaches, and
    more of it around those that a deployment will be chosen at."""
    size = hypervolume(reachable)
    if size <= 0:
        return WIDTHS
    reached = (reachable > 0) & (GRID[0] * 1.5 <= GRID)
    evenly = np.where(reached, 1 / np.where(reachable > 0, reachable, 1.0), 0.0) / max(1, int(reached.sum()))
    chosen = [at for speed in choose_at if (at := (np.abs(np.log(GRID / speed)) < BESIDE) & (reachable > 0)).any()]
    choices = np.zeros_like(GRID)
    for at in chosen:
        choices[at] += 1 / reachable[at] / at.sum() / len(chosen)
    part = CHOICES if chosen else 0.0
    return np.asarray((WIDTHS / size + EVENLY * evenly + part * choices) / (1 + EVENLY + part))
