"""What the search plans for, as figures that end-to-end runs can be judged by before they are known.

Ctx and gen servers and end-to-end runs spend the same GPU-hours, so both are held against the same price: the share
of the front that a GPU-hour must bring. It is the one of the portfolio that fits beside the runs that are worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ratematch.search.candidates import Candidate, Rate
from ratematch.search.fronts import GRID, WIDTHS, Floats, empty_front
from ratematch.search.portfolio import PRICES, THRIFT, Offer, Portfolio, at_price, compose
from ratematch.search.rates import NORMAL
from ratematch.search.view import View

LUCK = tuple(np.linspace(-2.5, 2.5, 11).tolist())
"""How fast what is planned may turn out, in standard deviations: at these the front that it makes is looked at."""
STILL = 0.95
"""A deployment that has this share of the best tok/s/GPU at its tok/s/user is still on the front: fronts of the
search are read on a grid, and a run beside the best ratio tells nearly as much."""
TURNS = 6
"""Times that the hours of runs and the price are settled anew, each by the other."""


@dataclass(frozen=True)
class Promised:
    """``plan``: what is to be measured beside what is known and under way in ``view``. ``price``: of GPU-hours, the
    share of the front that a share of the grid's must bring."""

    view: View
    plan: Portfolio
    price: float

    @property
    def price_per_hour(self) -> float:
        """Share of the front that a GPU-hour must bring."""
        return self.price / (self.view.space.grid_hours or 1.0)

    @cached_property
    def whole(self) -> float:
        """Area under everything that could be measured, tok/s/user x tok/s/GPU: what shares of the front are of."""
        best = self.view.reachable
        limit = self.view.space.tpot_s
        within = (1 / limit if limit else 0.0) < GRID
        return float(best[within] @ WIDTHS[within])

    def rates(self) -> Iterator[tuple[Candidate, int, Rate]]:
        """Of every load planned or under way what is promised: candidate, concurrency, rates."""
        for each in self.view.rates.gens:
            planned = self.plan.parts[each.id].loads if each.id in self.plan.parts else frozenset()
            yield from self._promise(each, self.view.rates.taken(each) | planned)
        ctxs = [
            each for each in self.view.rates.ctxs if self.view.rates.capacity(each, self.view.rates.taken(each)) > 0
        ]
        for each in ctxs:
            yield from self._promise(each, self.view.rates.taken(each))
        if not ctxs and self.view.rates.ctxs:
            likely = self.view.rates.likeliest_ctx()
            yield from self._promise(likely, frozenset(likely.forecasts))

    def _promise(self, each: Candidate, loads: frozenset[int]) -> Iterator[tuple[Candidate, int, Rate]]:
        known = self.view.rates.known.get(each.id, {})
        yield from ((each, load, self.view.rates.at(each, load)) for load in sorted(loads) if load not in known)

    def stays(self, tok_s_user: float, tok_s_gpu: float) -> float:
        """The chance that a deployment with these figures is still on the front when all that is planned is measured.

        What is planned is taken to be lucky or not all together: most of what is not known of it, it has in common.
        """
        at = max(0, int(np.searchsorted(GRID, tok_s_user * (1 + 1e-9), side="right")) - 1)
        beaten = [lucky for lucky, front in self._fronts if front[at] * STILL > tok_s_gpu]
        if not beaten:
            return 1.0
        step = LUCK[1] - LUCK[0]
        return 0.0 if beaten[0] == LUCK[0] else NORMAL.cdf(beaten[0] - step / 2)

    @cached_property
    def _fronts(self) -> list[tuple[float, Floats]]:
        """By luck, the front of everything that is planned or under way."""
        open_loads: Mapping[str, frozenset[int]] = {
            each.id: self.view.rates.taken(each)
            | (self.plan.parts[each.id].loads if each.id in self.plan.parts else frozenset())
            for each in self.view.rates.gens
            if self.view.rates.running.get(each.id) or each.id in self.plan.parts
        }
        found = []
        for lucky in LUCK:
            front = empty_front()
            for name, loads in open_loads.items():
                front = np.maximum(front, self.view.front(self.view.space.find(name), loads, lucky))
            found.append((lucky, front))
        return found


def promise(view: View, hours_left: float | None) -> Promised:
    """What is planned for these GPU-hours, at the price that they have.

    Where no server fits that would be worth a higher price, the portfolio is of what does fit, at the lowest: the
    price that hours have is then the last one at which nothing more was wanted than there is. Hours that no server
    fits into are worth the lowest price.
    """
    plan, least = compose(view, hours_left), view.space.least_price
    if hours_left is None or plan.price > least or not plan.parts:
        return Promised(view, plan, plan.price)
    last = PRICES[0]
    parts: Mapping[str, Offer] = {}
    for price in [*(price for price in PRICES if price > least), least]:
        found = at_price(view, price, parts)
        if found.hours > THRIFT * hours_left:
            return Promised(view, plan, last)
        last, parts = price, found.parts
    return Promised(view, plan, least)


def settle(
    view: View, hours_left: float, cost: Callable[[Promised], float], begin: float = 0.0
) -> tuple[Promised, float]:
    """What is planned, and the GPU-hours to keep for end-to-end runs: those of the runs that are worth the price at
    which the rest of ``hours_left`` is spent. ``cost``: GPU-hours of the runs worth their price on what is promised.

    The more is kept, the dearer are hours and the less is promised, so the fewer runs are worth it: where both meet
    is found by halving. A run that would leave no hours for the servers it needs is not kept for: servers come first.
    ``begin``: what was kept before; most often it still holds.
    """
    low, high = 0.0, hours_left
    kept = min(begin, hours_left)
    for _ in range(TURNS):
        promised = promise(view, hours_left - kept)
        hours = cost(promised)
        if abs(hours - kept) < 1e-9:
            return promised, kept
        if hours > kept:
            low = kept
        else:
            high = kept
        kept = hours if low < hours < high else (low + high) / 2
    return promise(view, hours_left - low), low
