"""Which server to measure next, at which load: the best set for the hours that are left, its best part first.

Everything is a function of what is measured and under way, so the same results lead to the same decision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.search.candidates import Candidate, Known, Space
from ratematch.search.fronts import Floats, Side, empty_front
from ratematch.search.portfolio import NOTHING, Offer, Portfolio, compose, offer_of
from ratematch.search.rates import Rates
from ratematch.search.view import CHANCES, View

UNKNOWN_SD = 0.12
"""Where the log of speed of a family is less certain than this (standard deviation), a small server of it is measured
before a large one is started."""
OPTIMISM_SD = 1.3
"""Drop a server that would not pay even this many standard deviations faster than expected (a 10 % chance)."""
FAMILY_MATTERS = 0.003
"""An uncertain family is tried if an optimistic server of it would add this share of the front."""
MIN_TTFT_CHANCE = 0.01
"""Drop a ctx server whose chances to keep the TTFT limit leave less than this share of its highest rate."""
TOO_SLOW = "no load within the TTFT limit"
NEAR_BEST_RATE = 0.85
"""A ctx server is measured at the loads expected to give this share of its best rate within the TTFT limit: with
other drafts, or on another day, a neighbour of the best load may be the one that keeps the limit."""
EARLY_WEIGHT = 0.2
"""Weight of what a server adds to the front as it is now, beside what it adds once everything planned is measured:
the front should be good early too."""
CHANCE_REASON = "it may be faster than expected"
MIN_CHANCE_GAIN = 0.02
"""Share of the front that a server of ``_chances`` must add on average for a share of the grid's GPU-hours. Such
servers take what remains of a budget when nothing more certain is left."""
FOLLOW_UP_LOADS = 1.5
"""Whole loads that such a server will run after its first, if it is faster."""
MTP_MARGIN = 0.02
"""A further draft must be forecast to be this much faster at one end of the ladder at least."""


@dataclass(frozen=True)
class Choice:
    """Measure ``candidate`` at ``load`` now, and at ``planned`` as long as they stay worth it while it is up.

    ``gain``: expected of all planned loads, as a share of the front; ``gpu_hours``: what they cost, start included.
    ``price``: see :mod:`ratematch.search.portfolio`. ``urgency``: the greatest comes first, among workloads too.
    """

    candidate: str
    label: str
    load: int
    planned: tuple[int, ...]
    gain: float
    gpu_hours: float
    price: float
    why: str
    urgency: tuple[int, float] = (0, 0.0)


@dataclass(frozen=True)
class Skip:
    """A candidate that is not measured (now), and why."""

    candidate: str
    label: str
    why: str


@dataclass(frozen=True)
class Decision:
    """What to do now: ``choice``, or nothing, for the reason ``why``. ``skips``: every candidate passed over."""

    choice: Choice | None
    why: str
    skips: tuple[Skip, ...]


@dataclass(frozen=True)
class _Option:
    """A server that may be measured next at the loads of ``offer``. ``why``: empty for what the portfolio plans."""

    server: Candidate
    offer: Offer
    why: str = ""


_Options = Mapping[str, _Option]
"""By candidate."""


def decide(
    space: Space,
    known: Known,
    running: Mapping[str, Collection[int]],
    hours_left: float | None = None,
    *,
    explain: bool = True,
) -> Decision:
    """The server to start now, of those that fit into ``hours_left`` GPU-hours (``None``: no limit).

    ``running``: loads under way, by candidate; they are expected to give what is predicted. ``explain``: give the
    reason for every server that is passed over.
    """
    pointless = {server.id: why for server in space.candidates if (why := _why_no_draft(space, server))}
    useful = tuple(server for server in space.candidates if server.id not in pointless)
    view = View(replace(space, candidates=useful), known, running)
    pointless |= {server.id: TOO_SLOW for server in view.rates.ctxs if _too_slow(view.rates, server)}
    plan = compose(view, hours_left)
    options = _chances(view, plan) | _planned(view, plan) | _family_trials(view, plan) | _ctx_options(view, plan)
    affordable = {
        name: option
        for name, option in options.items()
        if name not in pointless and (hours_left is None or option.offer.hours <= hours_left)
    }
    urgencies = {name: _urgency(view, option) for name, option in affordable.items()}
    best = max(urgencies, key=lambda name: urgencies[name], default=None)
    skips = [
        Skip(server.id, server.label, pointless[server.id]) for server in space.candidates if server.id in pointless
    ]
    for server in space.candidates if explain else ():
        if server.id == best or server.id in pointless or running.get(server.id):
            continue
        if server.id in affordable:
            why = "planned, after what brings more per GPU-hour now"
        else:
            why = _why_not(view, server, plan, options.get(server.id), hours_left)
        skips.append(Skip(server.id, server.label, why))
    if best is None:
        why = "nothing left is worth its GPU-hours" if hours_left is None else "nothing left is worth it or fits"
        return Decision(None, why, tuple(skips))
    choice = replace(_choice(view, plan.price, affordable[best]), urgency=urgencies[best][:2])
    return Decision(choice, choice.why, tuple(skips))


def go_on(
    space: Space,
    known: Known,
    running: Mapping[str, Collection[int]],
    up: str,
    hours_left: float | None = None,
) -> Decision:
    """A further load of the server ``up``, which is idle and needs no start; without a choice it may be stopped."""
    view = View(space, known, {name: loads for name, loads in running.items() if name != up})
    server = space.find(up)
    if server.stage == "ctx":
        offer, price = _more_ctx(view, server), space.least_price
    else:
        plan = compose(view, hours_left, up)
        offer, price = plan.parts.get(up, NOTHING), plan.price
    if not offer.loads or (
        hours_left is not None and min(space.hours(server, (load,), 0) for load in offer.loads) > hours_left
    ):
        return Decision(None, "no further load of it is worth its GPU-hours", ())
    choice = _choice(view, price, _Option(server, offer))
    return Decision(choice, choice.why, ())


def _choice(view: View, price: float, option: _Option) -> Choice:
    server, offer = option.server, option.offer
    loads = sorted(offer.loads)
    expected = (
        f"at C = {', '.join(map(str, loads))}: {offer.gain:.1%} more front expected for {offer.hours:.3g} GPU-hours"
    )
    return Choice(
        server.id,
        server.label,
        _first_load(view, server, offer.loads),
        tuple(loads),
        offer.gain,
        offer.hours,
        price,
        f"{option.why}; {expected}" if option.why else expected,
    )


def _first_load(view: View, server: Candidate, loads: Collection[int]) -> int:
    """The one of ``loads`` that brings most by itself."""
    if server.stage == "ctx":
        return max(loads, key=lambda load: (view.rates.worth(server, load), -load))
    now = view.now()
    taken = view.rates.taken(server)
    return max(loads, key=lambda load: (view.value(np.maximum(now, view.front(server, taken | {load}))), -load))


def _urgency(view: View, option: _Option) -> tuple[int, float, str]:
    """The order of options, the greatest first: the first ctx server, for nothing runs without one; first servers of
    uncertain families; then by what is added to the front per GPU-hour."""
    server, offer = option.server, option.offer
    if server.stage == "ctx":
        first = not any(view.rates.started(other) for other in view.rates.ctxs)
        return (2 if first else 1 if option.why else 0, offer.gain / offer.hours, server.label)
    if option.why == CHANCE_REASON:
        return (0, offer.gain / offer.hours, server.label)
    gain = view.gain(view.now(), view.front(server, view.rates.taken(server) | offer.loads))
    return (1 if option.why else 0, (offer.gain + EARLY_WEIGHT * gain) / offer.hours, server.label)


# -- options ----------------------------------------------------------------------------------------------------


def _planned(view: View, plan: Portfolio) -> dict[str, _Option]:
    return {name: _Option(view.space.find(name), offer) for name, offer in plan.parts.items()}


def _family_trials(view: View, plan: Portfolio) -> dict[str, _Option]:
    """For each gen family that may matter and whose speed is uncertain: its best server of the smallest size."""
    trials = {}
    rates = view.rates
    for family in sorted({server.family for server in rates.gens}):
        members = [server for server in rates.gens if server.family == family]
        if any(rates.running.get(server.id) for server in members):
            continue
        uncertain = [server for server in members if rates.spread(server) > UNKNOWN_SD]
        hopeful = [
            server
            for server in uncertain
            if server.id in plan.parts or _optimistic_gain(view, server, plan.front) > FAMILY_MATTERS
        ]
        if not hopeful:
            continue
        least = min(server.gpus for server in members)
        now, price = view.now(), plan.price / view.space.grid_hours
        offers = {server.id: offer_of(view, server, now, price, 1) for server in members if server.gpus == least}
        best = max(offers, key=lambda name: (offers[name].gain, name))
        if not offers[best].loads:
            continue
        if all(server.gpus == least for server in hopeful) and best in plan.parts:
            continue  # it is planned anyway, and nothing larger waits for it
        why = f"how fast {family} is must be known before more of it is started"
        trials[best] = _Option(view.space.find(best), offers[best], why)
    return trials


def _chances(view: View, plan: Portfolio) -> dict[str, _Option]:
    """Servers that are expected to be no better than the plan, by what they add if they are faster than expected."""
    chances = {}
    for server in view.rates.gens:
        if view.rates.started(server) or server.id in plan.parts:
            continue
        ladder = frozenset(server.forecasts)
        gain = sum(weight * view.gain(plan.front, view.front(server, ladder, z)) for z, weight in CHANCES)
        if gain <= 0:
            continue
        z = CHANCES[-1][0]
        fronts = {load: view.front(server, frozenset((load,)), z) for load in ladder}
        load = max(ladder, key=lambda load: (view.value(np.maximum(plan.front, fronts[load])), -load))
        hours = view.space.hours(server, (load,)) + FOLLOW_UP_LOADS * view.space.load_h * server.gpus
        if gain > MIN_CHANCE_GAIN * hours / view.space.grid_hours:
            chances[server.id] = _Option(server, Offer(frozenset((load,)), gain, hours), CHANCE_REASON)
    return chances


def _optimistic_gain(view: View, server: Candidate, front: Floats) -> float:
    """What a server would add to ``front`` if it were ``OPTIMISM_SD`` faster than expected."""
    return view.gain(front, view.front(server, frozenset(server.forecasts), OPTIMISM_SD))


def _ctx_options(view: View, plan: Portfolio) -> dict[str, _Option]:
    """Ctx servers of sizes and families not started yet, by what they would add to the planned front on average."""
    rates = view.rates
    gens = [server for server in rates.gens if rates.started(server) or server.id in plan.parts]
    options: dict[str, _Option] = {}
    if not gens:
        return options
    sides = [(gen.mtp, rates.gen_side(gen, sorted(rates.taken(gen) | plan.loads_of(gen)))[1]) for gen in gens]
    started = [(ctx, rates.capacity(ctx, rates.taken(ctx))) for ctx in rates.ctxs if rates.started(ctx)]
    groups = {(ctx.family, ctx.gpus) for ctx in rates.ctxs} - {(ctx.family, ctx.gpus) for ctx, _ in started}
    before = view.value(_front_fed_by(view, sides, started)) if started else 0.0
    for group in sorted(groups):
        members = [ctx for ctx in rates.ctxs if (ctx.family, ctx.gpus) == group]
        ctx = min(members, key=lambda ctx: (sum(abs(ctx.mtp - mtp) for mtp, _ in sides), ctx.label))
        loads = _near_best(rates, ctx)
        if not loads:
            continue
        hours = view.space.hours(ctx, loads)
        afters = (
            (weight, _front_fed_by(view, sides, [*started, (ctx, rates.capacity(ctx, loads, z))]))
            for z, weight in CHANCES
        )
        gain = sum(weight * (view.value(after) - before) for weight, after in afters)
        if gain > max(plan.price, view.space.least_price) * hours / view.space.grid_hours or not started:
            options[ctx.id] = _Option(ctx, Offer(loads, gain, hours))
    return options


def _front_fed_by(
    view: View, gens: Iterable[tuple[int, Side]], ctx_rates: Sequence[tuple[Candidate, float]]
) -> Floats:
    """The front of ``gens`` (drafts, and rates of one instance) with ctx servers of these requests/s."""
    front = empty_front()
    for mtp, gen in gens:
        front = np.maximum(front, view.fed(gen, view.rates.sides(ctx_rates, mtp)))
    return front


def _near_best(rates: Rates, ctx: Candidate) -> frozenset[int]:
    """Loads at which a ctx server gives, or is expected to give, nearly its best rate within the TTFT limit."""
    enough = max(NEAR_BEST_RATE * rates.capacity(ctx, ctx.forecasts), 1e-9)
    return frozenset(load for load in ctx.forecasts if rates.worth(ctx, load) >= enough)


def _too_slow(rates: Rates, ctx: Candidate) -> bool:
    """Is there next to no chance that a load of a ctx server is within the TTFT limit?"""
    fastest = max((rates.at(ctx, load).req_s for load in ctx.forecasts), default=0.0)
    return rates.capacity(ctx, ctx.forecasts) <= MIN_TTFT_CHANCE * fastest


def _more_ctx(view: View, ctx: Candidate) -> Offer:
    """The loads near the best one, as known by now, that a ctx server that is up has not been measured at."""
    loads = _near_best(view.rates, ctx) - view.rates.taken(ctx)
    return Offer(loads, 0.0, view.space.hours(ctx, loads, 0))


# -- reasons ----------------------------------------------------------------------------------------------------


def _why_no_draft(space: Space, server: Candidate) -> str | None:
    """Why a further draft cannot pay, if it cannot."""
    if server.stage != "gen" or not server.mtp:
        return None
    alike = (server.family, server.gpus, server.mtp - 1)
    for other in space.candidates:
        if other.stage != "gen" or (other.family, other.gpus, other.mtp) != alike:
            continue
        both = sorted(set(server.forecasts) & set(other.forecasts))
        ends = [other.forecasts[c].tpot_s / server.forecasts[c].tpot_s for c in both[:1] + both[-1:]]
        if ends and max(ends) < 1 + MTP_MARGIN:
            return (
                f"MTP {server.mtp} cannot pay over MTP {other.mtp}: tok/s/user x {ends[0]:.2f} at C = {both[0]} "
                f"and x {ends[-1]:.2f} at C = {both[-1]}"
            )
    return None


def _why_not(view: View, server: Candidate, plan: Portfolio, option: _Option | None, hours_left: float | None) -> str:
    """Why a server is passed over that is not among the affordable options. ``option``: its, if it is one."""
    hours = option.offer.hours if option else view.space.hours(server, tuple(server.forecasts)[:1])
    if hours_left is not None and hours > hours_left:
        return f"it costs {hours:.3g} GPU-hours at least, and {max(0.0, hours_left):.3g} are left"
    if server.stage == "ctx":
        started = view.rates.started(server)
        return "measured" if started else "not worth its hours beside the ctx servers that are known or come first"
    if view.rates.started(server):
        return "measured where it can change the front"
    return (
        f"not worth its hours beside what is planned: it would add at most "
        f"{_optimistic_gain(view, server, plan.front):.2%} of the front, "
        f"{OPTIMISM_SD:g} standard deviations above what is expected of it"
    )
