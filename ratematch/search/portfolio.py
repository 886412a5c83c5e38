"""Which servers, at which loads, would together make the best front for the hours that are left.

Servers overlap: a wide one that leads everywhere makes two small ones worthless. So not the next best server is
asked for, but the best set, at a price for GPU-hours: a set is worth its front less the price of its hours. The price
is the lowest one at which the set can be paid for, so an hour brings the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ratematch.search.candidates import Candidate
from ratematch.search.fronts import Floats, empty_front
from ratematch.search.view import View

PRICES = (3.0, 1.7, 1.0, 0.6, 0.35, 0.2, 0.12, 0.07, 0.04)
"""Share of the front that is asked for a share of the whole grid's GPU-hours, tried from above."""
THRIFT = 0.7
"""Share of the hours left that is planned with."""
ROUNDS = 6
"""Times that every server is looked at anew, with the others as they were last chosen."""


@dataclass(frozen=True)
class Offer:
    """Further ``loads`` of a server beside the rest of a portfolio: ``gain`` in value, ``hours``: GPU-hours."""

    loads: frozenset[int]
    gain: float
    hours: float


@dataclass(frozen=True)
class Portfolio:
    """What to measure beside what is known: by candidate, its part. ``front``: promised of all of it."""

    price: float
    parts: Mapping[str, Offer]
    front: Floats

    @property
    def hours(self) -> float:
        return sum(offer.hours for offer in self.parts.values())

    def net(self, view: View) -> float:
        """Its worth less the price of its hours."""
        return view.value(self.front) - self.price * self.hours / view.space.grid_hours


def compose(view: View, hours_left: float | None, up: str | None = None) -> Portfolio:
    """The best portfolio of gen servers found that leaves some of ``hours_left`` for what turns out otherwise; when
    there is none, the best one that fits. ``up``: a server that needs no start."""
    least = view.space.least_price
    best = Portfolio(PRICES[0], {}, view.now())
    for price in [price for price in PRICES if price > least] + [least]:
        found = at_price(view, price, best.parts, up)
        if hours_left is not None and found.hours > THRIFT * hours_left:
            break
        best = found
    best = _without_each(view, best, up)
    if best.parts or hours_left is None:
        return best
    return at_price(view, least, {}, up, hours_left)


def _without_each(view: View, plan: Portfolio, up: str | None) -> Portfolio:
    """Do the others make up for a server that is left out? Choosing them in turn does not find that out."""
    better = True
    while better:
        better = False
        for name in sorted(plan.parts):
            rest = {other: offer for other, offer in plan.parts.items() if other != name}
            found = at_price(view, plan.price, rest, up, without=name)
            if found.net(view) > plan.net(view) + 1e-6:
                plan, better = found, True
                break
    return plan


def at_price(
    view: View,
    price: float,
    begin: Mapping[str, Offer],
    up: str | None = None,
    hours_left: float | None = None,
    without: str | None = None,
) -> Portfolio:
    """Choose every server's loads in turn, the others being as they are, until nothing changes."""
    grid = view.space.grid_hours
    parts = dict(begin)
    # Small servers first: a large one then has to beat them, and takes their place if it does.
    order = sorted(
        (each for each in view.rates.gens if not view.rates.running.get(each.id) and each.id != without),
        key=lambda each: (each.gpus, each.label),
    )
    fixed = empty_front()
    for each in view.rates.gens:
        if view.rates.running.get(each.id) or each.id == without:
            fixed = np.maximum(fixed, view.front(each, view.rates.taken(each)))
    fronts = {each.id: view.front(each, view.rates.taken(each) | _loads(parts, each)) for each in order}
    for _ in range(ROUNDS):
        changed = False
        for each in order:
            others = fixed
            for name, front in fronts.items():
                if name != each.id:
                    others = np.maximum(others, front)
            room = None
            if hours_left is not None:
                room = hours_left - sum(offer.hours for name, offer in parts.items() if name != each.id)
            offer = offer_of(view, each, others, price / grid, 0 if each.id == up else 1, room)
            if offer.loads != _loads(parts, each):
                changed = True
                fronts[each.id] = view.front(each, view.rates.taken(each) | offer.loads)
            parts.pop(each.id, None)
            if offer.loads:
                parts[each.id] = offer
        if not changed:
            break
    whole = fixed
    for front in fronts.values():
        whole = np.maximum(whole, front)
    return Portfolio(price, parts, whole)


def _loads(parts: Mapping[str, Offer], each: Candidate) -> frozenset[int]:
    return parts[each.id].loads if each.id in parts else frozenset()


def offer_of(
    view: View, each: Candidate, others: Floats, price: float, starts: int, room: float | None = None
) -> Offer:
    """The loads of a server that are worth most beside ``others`` at ``price`` for a GPU-hour; none if none are.

    ``room``: GPU-hours that they may take.
    """
    taken = view.rates.taken(each)
    before = view.value(np.maximum(others, view.front(each, taken)))

    def worth(loads: frozenset[int]) -> float:
        return view.value(np.maximum(others, view.front(each, taken | loads)))

    left = frozenset(each.forecasts) - taken
    nothing = Offer(frozenset(), 0.0, 0.0)
    least = min((view.space.hours(each, (load,), starts) for load in left), default=0.0)
    if not left or (room is not None and least > room) or worth(left) - before <= price * least:
        return nothing
    chosen: frozenset[int] = frozenset()
    best, most = nothing, 0.0
    while left:
        tried = sorted(left)
        fronts = np.array([view.front(each, taken | chosen | {load}) for load in tried])
        values = np.maximum(others, fronts) @ view.weights
        load = tried[int(values.argmax())]
        chosen |= {load}
        hours = view.space.hours(each, chosen, starts)
        if room is not None and hours > room:
            break
        gain = worth(chosen) - before
        left -= {load}
        if gain - price * hours > most:
            best, most = Offer(chosen, gain, hours), gain - price * hours
        elif len(chosen) > len(best.loads) + 1:
            break  # two in a row that do not pay: a third will not make up for them
    return best
