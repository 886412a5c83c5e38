"""Which servers, at which loads, would together make the best front for the hours that are left.

Servers overlap: a wide one that leads everywhere makes two small ones worthless. So the search does not look for the
next best server but for the best set of servers, at a price for GPU-hours: a set is worth the value of its front less
the price of its hours. The price is the lowest one at which the hours left pay for the set, so that an hour brings
the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ratematch.search.candidates import Candidate
from ratematch.search.fronts import Floats, empty_front
from ratematch.search.view import View

PRICES = (3.0, 1.7, 1.0, 0.6, 0.35, 0.2, 0.12, 0.07, 0.04)
"""Share of the front that a share of the whole grid's GPU-hours must bring; tried from the highest down."""
THRIFT = 0.7
"""Share of the hours left that a portfolio may cost; the rest is for what turns out otherwise."""
ROUNDS = 6
"""Most times that every server's loads are chosen, with those of the others as they were chosen last."""


@dataclass(frozen=True)
class Offer:
    """Further ``loads`` of a server beside the rest of a portfolio: ``gain`` in value, ``hours``: GPU-hours."""

    loads: frozenset[int]
    gain: float
    hours: float


NOTHING = Offer(frozenset(), 0.0, 0.0)


@dataclass(frozen=True)
class Portfolio:
    """What to measure beside what is known: an offer by candidate. ``front``: expected once all of it is measured.

    ``price``: share of the front that a share of the grid's GPU-hours must bring.
    """

    price: float
    parts: Mapping[str, Offer]
    front: Floats

    @property
    def hours(self) -> float:
        """GPU-hours of all parts."""
        return sum(offer.hours for offer in self.parts.values())

    def loads_of(self, server: Candidate) -> frozenset[int]:
        """Loads planned of ``server``."""
        return self.parts.get(server.id, NOTHING).loads

    def net(self, view: View) -> float:
        """The value of its front less the price of its hours."""
        return view.value(self.front) - self.price * self.hours / view.space.grid_hours


def compose(view: View, hours_left: float | None, up: str | None = None) -> Portfolio:
    """The portfolio of gen servers at the lowest price at which it costs at most ``THRIFT`` of ``hours_left``
    (``None``: no limit); where that is empty, the best one that fits. ``up``: a server that needs no start."""
    least = view.space.least_price
    best = Portfolio(PRICES[0], {}, view.now())
    for price in [price for price in PRICES if price > least] + [least]:
        plan = at_price(view, price, best.parts, up)
        if hours_left is not None and plan.hours > THRIFT * hours_left:
            break
        best = plan
    best = _drop_redundant(view, best, up)
    if best.parts or hours_left is None:
        return best
    return at_price(view, least, {}, up, hours_left)


def _drop_redundant(view: View, plan: Portfolio, up: str | None) -> Portfolio:
    """Leave out servers that the others make up for, which choosing them one by one does not show."""
    better = True
    while better:
        better = False
        for name in sorted(plan.parts):
            rest = {other: offer for other, offer in plan.parts.items() if other != name}
            smaller = at_price(view, plan.price, rest, up, without=name)
            if smaller.net(view) > plan.net(view) + 1e-6:
                plan, better = smaller, True
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
    """The portfolio at ``price``: from ``begin`` every server's loads are chosen in turn, beside those of the others,
    until nothing changes. ``without``: a server to leave out; for ``up`` and ``hours_left`` see :func:`compose`."""
    rates, grid = view.rates, view.space.grid_hours
    parts = dict(begin)
    # Small servers first: a large one then has to beat them, and takes their place if it does.
    order = sorted(
        (server for server in rates.gens if not rates.running.get(server.id) and server.id != without),
        key=lambda server: (server.gpus, server.label),
    )
    fixed = empty_front()
    for server in rates.gens:
        if rates.running.get(server.id) or server.id == without:
            fixed = np.maximum(fixed, view.front(server, rates.taken(server)))
    fronts = {
        server.id: view.front(server, rates.taken(server) | parts.get(server.id, NOTHING).loads) for server in order
    }
    for _ in range(ROUNDS):
        changed = False
        for server in order:
            others = fixed
            for name, front in fronts.items():
                if name != server.id:
                    others = np.maximum(others, front)
            room = None
            if hours_left is not None:
                room = hours_left - sum(offer.hours for name, offer in parts.items() if name != server.id)
            offer = offer_of(view, server, others, price / grid, 0 if server.id == up else 1, room)
            if offer.loads != parts.get(server.id, NOTHING).loads:
                changed = True
                fronts[server.id] = view.front(server, rates.taken(server) | offer.loads)
            parts.pop(server.id, None)
            if offer.loads:
                parts[server.id] = offer
        if not changed:
            break
    whole = fixed
    for front in fronts.values():
        whole = np.maximum(whole, front)
    return Portfolio(price, parts, whole)


def offer_of(
    view: View, server: Candidate, others: Floats, price: float, starts: int, room: float | None = None
) -> Offer:
    """The loads of ``server`` that are worth most beside the front ``others``; :data:`NOTHING` if none are.

    ``price``: of a GPU-hour, in value. ``starts``: of the server, 0 if it is up. ``room``: GPU-hours that they may
    take.
    """
    taken = view.rates.taken(server)
    before = view.value(np.maximum(others, view.front(server, taken)))

    def worth(loads: frozenset[int]) -> float:
        return view.value(np.maximum(others, view.front(server, taken | loads)))

    left = frozenset(server.forecasts) - taken
    least = min((view.space.hours(server, (load,), starts) for load in left), default=0.0)
    if not left or (room is not None and least > room) or worth(left) - before <= price * least:
        return NOTHING
    chosen: frozenset[int] = frozenset()
    best, most = NOTHING, 0.0
    while left:
        tried = sorted(left)
        fronts = np.array([view.front(server, taken | chosen | {load}) for load in tried])
        values = np.maximum(others, fronts) @ view.weights
        load = tried[int(values.argmax())]
        chosen |= {load}
        hours = view.space.hours(server, chosen, starts)
        if room is not None and hours > room:
            break
        gain = worth(chosen) - before
        left -= {load}
        if gain - price * hours > most:
            best, most = Offer(chosen, gain, hours), gain - price * hours
        elif len(chosen) > len(best.loads) + 1:
            break  # two in a row that do not pay: a third will not make up for them
    return best
