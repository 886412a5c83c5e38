"""The fronts that a decision rests on, from what is measured, under way and expected for one workload."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ratematch.search.candidates import Candidate, Known, Space
from ratematch.search.fronts import GRID, WIDTHS, Floats, Side, empty_front, front_of, hypervolume, stretches_of
from ratematch.search.rates import Rates, correct

EVENLY = 0.5
"""Weight of the relative tok/s/GPU at every tok/s/user alike, beside 1 for the hypervolume, in which slow users
hardly count."""
CHOICES = 0.3
"""Weight of the relative tok/s/GPU at all of ``Space.choose_at`` together."""
BESIDE = 0.06
"""Half width (of the logarithm) of the range around each of them that counts: fronts are read in steps, and one step
must not decide."""
CHANCES = ((-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6))
"""A normal distribution as three values, in standard deviations, and their weights (Gauss-Hermite)."""


class View:
    """Fronts of one workload, each computed once, and their values.

    ``rates`` never change, so neither does a front. What other rates would bring is computed from other
    :class:`ratematch.search.rates.Rates`, and their fronts in another view. ``reachable``: the front of every gen
    server at its whole ladder. ``weights``: of tok/s/GPU at each tok/s/user of the grid.
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

    def front(self, server: Candidate, loads: frozenset[int], z: float = 0.0) -> Floats:
        """Of a gen server at ``loads``, with the ctx servers there are; of what is not measured, ``z`` standard
        deviations faster than expected."""
        key = (server.id, loads, z)
        if key not in self._fronts:
            index, fronts = self._stretches_of(server, z)
            at = sorted(index[load] for load in loads if load in index)
            ends = at[1:] if len(at) > 1 else at
            self._fronts[key] = fronts[at[: len(ends)], ends].max(axis=0) if at else empty_front()
        return self._fronts[key]

    def _stretches_of(self, server: Candidate, z: float) -> tuple[dict[int, int], Floats]:
        """The index of each load within the TPOT limit, and fronts by two such indices, see
        :func:`ratematch.search.fronts.stretches_of`."""
        key = (server.id, z)
        if key not in self._stretches:
            kept, gen = self.rates.gen_side(server, server.forecasts, z)
            fronts = np.zeros((len(kept), len(kept), GRID.size))
            for side in self.rates.feeders(server.mtp):
                fronts = np.maximum(fronts, stretches_of(side, gen, self.space.osl, self.space.max_gpus))
            self._stretches[key] = {load: k for k, load in enumerate(kept)}, fronts
        return self._stretches[key]

    def fed(self, gen: Side, ctx: Iterable[Side]) -> Floats:
        """Of one gen server with the best of these ctx servers at each tok/s/user."""
        front = empty_front()
        for side in ctx:
            front = np.maximum(front, front_of(side, gen, self.space.osl, self.space.max_gpus))
        return front

    def value(self, front: Floats) -> float:
        """Of a front; about 1 for ``reachable``."""
        return float(front @ self.weights)

    def gain(self, front: Floats, other: Floats) -> float:
        """What ``other`` adds to ``front``, in value."""
        return self.value(np.maximum(front, other)) - self.value(front)

    def now(self) -> Floats:
        """The front of everything measured and under way."""
        front = empty_front()
        if any(self.rates.started(server) for server in self.rates.ctxs):
            for server in self.rates.gens:
                front = np.maximum(front, self.front(server, self.rates.taken(server)))
        return front


def _weigh(reachable: Floats, choose_at: Iterable[float]) -> Floats:
    """Weights of tok/s/GPU at each tok/s/user: of the hypervolume, of every tok/s/user alike as far as the front
    reaches, and of the ranges around those that a deployment will be chosen at."""
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
