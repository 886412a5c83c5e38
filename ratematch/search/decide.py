"""Which server to measure next, at which load: the best set for the hours that are left, its best part first.

Everything is a function of what is measured and under way, so the same results lead to the same decision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ratematch.search.candidates import Candidate, Known, Space
from ratematch.search.fronts import Floats, Side, empty_front
from ratematch.search.portfolio import Offer, Portfolio, compose, offer_of
from ratematch.search.view import CHANCES, View

UNKNOWN_SD = 0.12
"""A family whose speed is less sure than this is looked at on a small server before a large one of it is started."""
LUCKY = 1.3
"""A server that would not be worth its hours if it were so many standard deviations faster is out: one in ten is."""
HARDLY = 0.01
TOO_SLOW = "no load within the TTFT limit"
NEAR_BEST = 0.85
"""A ctx server is measured at the loads that promise this share of its best rate within the TTFT limit: with other
drafts, or another day, it is the one beside that holds."""
AT_ONCE = 0.2
"""What a gain over the front of now is worth, beside what is left of it once all that is planned is measured: the
front should be good early too."""
CHANCE = "it may be faster than expected"
LEAST_CHANCE = 0.02
"""Share of the front that a chance must bring on average for a share of the grid's GPU-hours: it is what remains of a
budget that goes to chances, when nothing surer is left."""
WITH_IT = 1.5
"""Whole loads that such a server will run after its first, if it is faster."""
MTP_MARGIN = 0.02
"""How much faster a further draft must promise to be, at one end of the ladder at least."""


@dataclass(frozen=True)
class Choice:
    """Measure ``candidate`` at ``load`` now, and at ``planned`` as far as they stay worth it while it is up.

    ``gain``: expected of all of them, as a share of the front; ``gpu_hours``: what they cost, start included.
    ``price``: see :mod:`ratematch.search.portfolio`. ``urgency``: greater comes first, among several workloads too.
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
    """What to do now: ``choice``, or nothing, for the reason ``why``. ``skips``: everything that was passed over."""

    choice: Choice | None
    why: str
    skips: tuple[Skip, ...]


def decide(
    space: Space,
    known: Known,
    running: Mapping[str, Collection[int]],
    hours_left: float | None = None,
    *,
    explain: bool = True,
) -> Decision:
    """The server to start now, of those that fit into ``hours_left`` GPU-hours (``None``: no limit).

    ``running``: loads under way, by candidate; they are taken to turn out as promised. ``explain``: say of every
    server why it is passed over.
    """
    pointless = {each.id: why for each in space.candidates if (why := _why_no_draft(space, each))}
    view = View(
        replace(space, candidates=tuple(e for e in space.candidates if e.id not in pointless)), known, running
    )
    pointless |= {each.id: TOO_SLOW for each in view.rates.ctxs if _too_slow(view, each)}
    plan = compose(view, hours_left)
    offers = _chances(view, plan) | {name: (offer, "") for name, offer in plan.parts.items()}
    offers |= _scouts(view, plan) | _ctx_offers(view, plan)
    affordable = {
        name: (offer, why)
        for name, (offer, why) in offers.items()
        if name not in pointless and (hours_left is None or offer.hours <= hours_left)
    }
    skips = [Skip(each.id, each.label, pointless[each.id]) for each in space.candidates if each.id in pointless]
    best = max(affordable, key=lambda name: _urgency(view, plan, space.find(name), *affordable[name]), default=None)
    for each in space.candidates if explain else ():
        if each.id == best or each.id in pointless or running.get(each.id):
            continue
        skips.append(Skip(each.id, each.label, _why_not(view, each, plan, offers, affordable, hours_left)))
    if best is None:
        why = "nothing left is worth its GPU-hours" if hours_left is None else "nothing left is worth it or fits"
        return Decision(None, why, tuple(skips))
    choice = _choice(view, plan, space.find(best), *affordable[best])
    choice = replace(choice, urgency=_urgency(view, plan, space.find(best), *affordable[best])[:2])
    return Decision(choice, choice.why, tuple(skips))


def go_on(
    space: Space,
    known: Known,
    running: Mapping[str, Collection[int]],
    up: str,
    hours_left: float | None = None,
) -> Decision:
    """A further load of the server ``up``, which is idle now and needs no start; no choice: it may be stopped."""
    view = View(space, known, {name: loads for name, loads in running.items() if name != up})
    each = space.find(up)
    if each.stage == "ctx":
        offer = _more_ctx(view, each)
        plan = Portfolio(space.least_price, {}, view.now())
    else:
        plan = compose(view, hours_left, up)
        offer = plan.parts.get(up, Offer(frozenset(), 0.0, 0.0))
    if not offer.loads or (
        hours_left is not None and min(space.hours(each, (load,), 0) for load in offer.loads) > hours_left
    ):
        return Decision(None, "no further load of it is worth its GPU-hours", ())
    choice = _choice(view, plan, each, offer, "")
    return Decision(choice, choice.why, ())


def _choice(view: View, plan: Portfolio, each: Candidate, offer: Offer, why: str) -> Choice:
    first = _first_load(view, each, offer)
    at = ", ".join(map(str, sorted(offer.loads)))
    told = f"at C = {at}: {offer.gain:.1%} more front expected for {offer.hours:.3g} GPU-hours"
    return Choice(
        each.id,
        each.label,
        first,
        tuple(sorted(offer.loads)),
        offer.gain,
        offer.hours,
        plan.price,
        f"{why}; {told}" if why else told,
    )


def _first_load(view: View, each: Candidate, offer: Offer) -> int:
    """Of the loads planned the one that brings most by itself."""
    if each.stage == "ctx":
        return max(offer.loads, key=lambda load: (view.rates.worth(each, load), -load))
    now = view.now()
    taken = view.rates.taken(each)
    return max(
        offer.loads,
        key=lambda load: (view.value(np.maximum(now, view.front(each, taken | {load}))), -load),
    )


def _urgency(view: View, plan: Portfolio, each: Candidate, offer: Offer, why: str) -> tuple[int, float, str]:
    """What comes first: a ctx server, for nothing runs without; looks at unknown families; then whatever makes the
    front of now larger per GPU-hour."""
    if each.stage == "ctx":
        nothing = not any(view.rates.started(other) for other in view.rates.ctxs)
        return (2 if nothing else 1 if why else 0, offer.gain / offer.hours, each.label)
    if why == CHANCE:
        return (0, offer.gain / offer.hours, each.label)
    now = view.now()
    gain = view.value(np.maximum(now, view.front(each, view.rates.taken(each) | offer.loads))) - view.value(now)
    return (1 if why else 0, (offer.gain + AT_ONCE * gain) / offer.hours, each.label)


def _scouts(view: View, plan: Portfolio) -> dict[str, tuple[Offer, str]]:
    """For each gen family that may matter and is not known: its cheapest server, with what it brings by itself."""
    found = {}
    for family in sorted({each.family for each in view.rates.gens}):
        mine = [each for each in view.rates.gens if each.family == family]
        if any(view.rates.running.get(each.id) for each in mine):
            continue
        unsure = [each for each in mine if view.rates.spread(each) > UNKNOWN_SD]
        hopeful = [each for each in unsure if each.id in plan.parts or _lucky_gain(view, each, plan.front) > 0.003]
        if not hopeful:
            continue
        least = min(each.gpus for each in mine)
        small = [each for each in mine if each.gpus == least]
        now = view.now()
        offers = {each.id: offer_of(view, each, now, plan.price / view.space.grid_hours, 1) for each in small}
        best = max(offers, key=lambda name: (offers[name].gain, name))
        if not offers[best].loads:
            continue
        if all(each.gpus == least for each in hopeful) and best in plan.parts:
            continue  # it comes anyway, and nothing larger waits for it
        found[best] = (offers[best], f"how fast {family} is must be known before more of it is started")
    return found


def _chances(view: View, plan: Portfolio) -> dict[str, tuple[Offer, str]]:
    """Servers that are expected to be no better than what is planned, by what they add if they are after all."""
    found = {}
    before = view.value(plan.front)
    for each in view.rates.gens:
        if view.rates.started(each) or each.id in plan.parts:
            continue
        every = frozenset(each.forecasts)
        gain = sum(
            weight * (view.value(np.maximum(plan.front, view.front(each, every, lucky))) - before)
            for lucky, weight in CHANCES
        )
        if gain <= 0:
            continue
        lucky = CHANCES[-1][0]
        fronts = {load: view.front(each, frozenset((load,)), lucky) for load in every}
        load = max(every, key=lambda load: (view.value(np.maximum(plan.front, fronts[load])), -load))
        hours = view.space.hours(each, (load,)) + WITH_IT * view.space.load_h * each.gpus
        if gain > LEAST_CHANCE * hours / view.space.grid_hours:
            found[each.id] = (Offer(frozenset((load,)), gain, hours), CHANCE)
    return found


def _lucky_gain(view: View, each: Candidate, front: Floats) -> float:
    """What a server would add to ``front`` if it were faster than expected."""
    lucky = view.front(each, frozenset(each.forecasts), LUCKY)
    return view.value(np.maximum(front, lucky)) - view.value(front)


def _ctx_offers(view: View, plan: Portfolio) -> dict[str, tuple[Offer, str]]:
    """Ctx servers by what they would add to the planned front, on average over how fast they may be."""
    gens = [each for each in view.rates.gens if view.rates.started(each) or each.id in plan.parts]
    found: dict[str, tuple[Offer, str]] = {}
    if not gens:
        return found
    sides = [
        (
            each,
            view.rates.gen_side(
                each,
                sorted(
                    view.rates.taken(each) | (plan.parts[each.id].loads if each.id in plan.parts else frozenset())
                ),
            )[1],
        )
        for each in gens
    ]
    started = [
        (each, view.rates.capacity(each, view.rates.taken(each)))
        for each in view.rates.ctxs
        if view.rates.started(each)
    ]
    groups = {(each.family, each.gpus) for each in view.rates.ctxs} - {
        (each.family, each.gpus) for each, _ in started
    }
    before = view.value(_fed_by(view, sides, started)) if started else 0.0
    for group in sorted(groups):
        drafts = [each.mtp for each, _ in sides]
        mine = [each for each in view.rates.ctxs if (each.family, each.gpus) == group]
        each = min(mine, key=lambda each: (sum(abs(each.mtp - mtp) for mtp in drafts), each.label))
        loads = _near_best(view, each)
        if not loads:
            continue
        hours = view.space.hours(each, loads)
        gain = sum(
            weight
            * (view.value(_fed_by(view, sides, [*started, (each, view.rates.capacity(each, loads, lucky))])) - before)
            for lucky, weight in CHANCES
        )
        if gain > max(plan.price, view.space.least_price) * hours / view.space.grid_hours or not started:
            found[each.id] = (Offer(loads, gain, hours), "")
    return found


def _fed_by(view: View, sides: Iterable[tuple[Candidate, Side]], ctx: Iterable[tuple[Candidate, float]]) -> Floats:
    front = empty_front()
    rates = list(ctx)
    for each, side in sides:
        front = np.maximum(front, view.fed(side, view.rates.sides(rates, each.mtp)))
    return front


def _near_best(view: View, each: Candidate) -> frozenset[int]:
    """Loads at which a ctx server promises nearly its best rate within the TTFT limit, or has given it."""
    best = view.rates.capacity(each, each.forecasts)
    return frozenset(load for load in each.forecasts if view.rates.worth(each, load) >= max(NEAR_BEST * best, 1e-9))


def _too_slow(view: View, each: Candidate) -> bool:
    """Is there next to no chance that a load of a ctx server is within the TTFT limit?"""
    fastest = max((view.rates.at(each, load).req_s for load in each.forecasts), default=0.0)
    return view.rates.capacity(each, each.forecasts) <= HARDLY * fastest


def _more_ctx(view: View, each: Candidate) -> Offer:
    """What is left of the loads near the best of a ctx server that is up, as measurements move it."""
    loads = _near_best(view, each) - view.rates.taken(each)
    return Offer(loads, 0.0, view.space.hours(each, loads, 0))


def _why_no_draft(space: Space, each: Candidate) -> str | None:
    """Why a further draft cannot pay, if it cannot."""
    if each.stage != "gen" or not each.mtp:
        return None
    alike = (each.family, each.gpus, each.mtp - 1)
    for other in space.candidates:
        if other.stage != "gen" or (other.family, other.gpus, other.mtp) != alike:
            continue
        both = sorted(set(each.forecasts) & set(other.forecasts))
        ends = [other.forecasts[c].tpot_s / each.forecasts[c].tpot_s for c in both[:1] + both[-1:]]
        if ends and max(ends) < 1 + MTP_MARGIN:
            return (
                f"MTP {each.mtp} cannot pay over MTP {other.mtp}: tok/s/user x {ends[0]:.2f} at C = {both[0]} "
                f"and x {ends[-1]:.2f} at C = {both[-1]}"
            )
    return None


def _why_not(
    view: View,
    each: Candidate,
    plan: Portfolio,
    offers: Mapping[str, tuple[Offer, str]],
    affordable: Mapping[str, tuple[Offer, str]],
    hours_left: float | None,
) -> str:
    if each.id in affordable:
        return "planned, after what brings more per GPU-hour now"
    hours = offers[each.id][0].hours if each.id in offers else view.space.hours(each, tuple(each.forecasts)[:1])
    if hours_left is not None and hours > hours_left:
        return f"it costs {hours:.3g} GPU-hours at least, and {max(0.0, hours_left):.3g} are left"
    if each.stage == "ctx":
        known = view.rates.started(each)
        return "measured" if known else "not worth its hours beside the ctx servers that are known or come first"
    if view.rates.started(each):
        return "measured where it can change the front"
    lucky = _lucky_gain(view, each, plan.front)
    return (
        f"not worth its hours beside what is planned: it would add at most {lucky:.2%} of the front, "
        f"{LUCKY:g} standard deviations above what is expected of it"
    )
