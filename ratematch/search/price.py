"""The price of GPU-hours, which servers and end-to-end runs compete at.

Ctx and gen servers and end-to-end runs spend the same GPU-hours, so both are held against the same price: the share
of the front that a GPU-hour must bring. It is the price of the portfolio that fits beside the runs worth that price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ratematch.search.candidates import Candidate, Rate
from ratematch.search.fronts import GRID, WIDTHS, Floats, empty_front
from ratematch.search.portfolio import PRICES, THRIFT, Offer, Portfolio, at_price, compose
from ratematch.search.rates import NORMAL
from ratematch.search.view import View

Z_STEPS = tuple(np.linspace(-2.5, 2.5, 11).tolist())
"""Standard deviations above expectation at which the front of everything planned is computed."""
ON_FRONT = 0.95
"""A deployment with this share of the best tok/s/GPU at its tok/s/user still counts as on the front: fronts of the
search are read on a grid, and a run at a ratio beside the best one shows nearly as much."""
MAX_ROUNDS = 6
"""Most times that the hours kept for runs and the price are computed from each other."""


@dataclass(frozen=True)
class Pricing:
    """A plan and the price of GPU-hours that goes with it.

    ``plan``: what is to be measured beside what is known and under way in ``view``. ``price``: the share of the front
    that a share of the grid's GPU-hours must bring.
    """

    view: View
    plan: Portfolio
    price: float

    @property
    def price_per_hour(self) -> float:
        """Share of the front that a GPU-hour must bring."""
        return self.price / (self.view.space.grid_hours or 1.0)

    @cached_property
    def reachable_area(self) -> float:
        """Area under the front of everything that could be measured within the TPOT limit, tok/s/user x tok/s/GPU.
        Shares of the front are shares of it."""
        best = self.view.reachable
        limit = self.view.space.tpot_s
        within = (1 / limit if limit else 0.0) < GRID
        return float(best[within] @ WIDTHS[within])

    def expected_rates(self) -> Iterator[tuple[Candidate, int, Rate]]:
        """Candidate, concurrency and expected rates of every load that is planned or under way. Before a ctx server
        has a rate, the likeliest one stands for it at its whole ladder."""
        rates = self.view.rates
        servers = [(gen, rates.taken(gen) | self.plan.loads_of(gen)) for gen in rates.gens]
        ctxs = [(ctx, rates.taken(ctx)) for ctx in rates.ctxs if rates.capacity(ctx, rates.taken(ctx)) > 0]
        if not ctxs and rates.ctxs:
            likeliest = rates.likeliest_ctx()
            ctxs = [(likeliest, frozenset(likeliest.forecasts))]
        for server, loads in (*servers, *ctxs):
            known = rates.known.get(server.id, {})
            yield from ((server, load, rates.at(server, load)) for load in sorted(loads) if load not in known)

    def chance_on_front(self, tok_s_user: float, tok_s_gpu: float) -> float:
        """The chance that a deployment with these figures is still on the front once all that is planned is measured.

        All planned servers are taken to be faster or slower than expected together: most of what is uncertain about
        them they have in common.
        """
        at = max(0, int(np.searchsorted(GRID, tok_s_user * (1 + 1e-9), side="right")) - 1)
        beaten = [z for z, front in self._fronts if front[at] * ON_FRONT > tok_s_gpu]
        if not beaten:
            return 1.0
        step = Z_STEPS[1] - Z_STEPS[0]
        return 0.0 if beaten[0] == Z_STEPS[0] else NORMAL.cdf(beaten[0] - step / 2)

    @cached_property
    def _fronts(self) -> list[tuple[float, Floats]]:
        """The front of everything planned or under way, by how many standard deviations faster it may be."""
        rates, plan = self.view.rates, self.plan
        loads = [
            (gen, rates.taken(gen) | plan.loads_of(gen))
            for gen in rates.gens
            if rates.running.get(gen.id) or gen.id in plan.parts
        ]
        return [(z, self._front_of(loads, z)) for z in Z_STEPS]

    def _front_of(self, loads: Iterable[tuple[Candidate, frozenset[int]]], z: float) -> Floats:
        front = empty_front()
        for gen, at in loads:
            front = np.maximum(front, self.view.front(gen, at, z))
        return front


def price_hours(view: View, hours_left: float | None) -> Pricing:
    """The portfolio for ``hours_left`` GPU-hours (``None``: no limit), and their price.

    Where no portfolio at a higher price fits, the one at the lowest price holds what does fit, and the price of hours
    is the last one at which no more was wanted than there is. Hours that no server fits into have the lowest price.
    """
    plan, least = compose(view, hours_left), view.space.least_price
    if hours_left is None or plan.price > least or not plan.parts:
        return Pricing(view, plan, plan.price)
    last = PRICES[0]
    parts: Mapping[str, Offer] = {}
    for price in [*(price for price in PRICES if price > least), least]:
        wanted = at_price(view, price, parts)
        if wanted.hours > THRIFT * hours_left:
            return Pricing(view, plan, last)
        last, parts = price, wanted.parts
    return Pricing(view, plan, least)


def settle_price(
    view: View, hours_left: float, cost: Callable[[Pricing], float], begin: float = 0.0
) -> tuple[Pricing, float]:
    """The plan and price of servers, and the GPU-hours to keep for end-to-end runs: those of the runs that are worth
    the price at which servers spend the rest of ``hours_left``.

    ``cost``: GPU-hours of the runs that are worth a pricing. ``begin``: what was kept before; most often it still
    holds. The more is kept, the higher is the price of hours and the fewer runs are worth it; bisection finds where
    both agree. Nothing is kept for a run that would leave no hours for the servers it needs: servers come first.
    """
    low, high = 0.0, hours_left
    kept = min(begin, hours_left)
    for _ in range(MAX_ROUNDS):
        pricing = price_hours(view, hours_left - kept)
        hours = cost(pricing)
        if abs(hours - kept) < 1e-9:
            return pricing, kept
        if hours > kept:
            low = kept
        else:
            high = kept
        kept = hours if low < hours < high else (low + high) / 2
    return price_hours(view, hours_left - low), low
