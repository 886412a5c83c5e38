"""Which server to measure next, at which loads: the expected gain of the front per GPU-hour.

The front is that of the rate-matched deployments of servers that are measured; its size is the hypervolume over
tok/s/user and tok/s/GPU. What a server would add is averaged over a few draws of how fast it might be: its forecast,
corrected by its family, as far as that is known (:mod:`ratematch.search.belief`). Everything is a function of what is
measured and under way, so the same results lead to the same decision.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

import numpy as np

from ratematch.search.belief import Belief, learn
from ratematch.search.fronts import Floats, Side, empty_front, front_of, gain, hypervolume

DRAWS = 16
"""Draws that an expected gain is the mean of."""
AT_ONCE = 0.2
"""What a gain is worth where the server would be beaten by others later, as a share of one that lasts: the front
should be good early, and cheap servers that end up beaten are no way to make it so."""
CLOSE = 0.2
"""How far behind the best a server may be and still count in part: a server half as large that is nearly as good is
the better buy."""
OTHER_MTP = 0.97
"""What a ctx rate measured with another number of drafts is taken to be worth, a draft."""
MTP_MARGIN = 0.02
"""How much faster a further draft must promise to be, at one end of the ladder at least."""
MORE = 0.25
"""Share of a job's gain per hour that a further load of it must bring."""
TOP = 0.9
"""A ctx server is measured at the loads that promise this share of its best rate within the TTFT limit."""


@dataclass(frozen=True)
class Rate:
    """At one load, of one instance: requests/s, s to the first token, s a token (0: ctx)."""

    req_s: float
    ttft_s: float
    tpot_s: float

    def times(self, factor: float) -> Rate:
        return Rate(self.req_s * factor, self.ttft_s / factor, self.tpot_s / factor)


@dataclass(frozen=True)
class Candidate:
    """A server that may be measured. ``forecasts``: by concurrency, ascending, uncorrected."""

    id: str
    label: str
    stage: str
    family: str
    gpus: int
    mtp: int
    forecasts: Mapping[int, Rate]


@dataclass(frozen=True)
class Space:
    """What can be measured for one workload, within which limits, and what it costs, in hours a start and a load.

    ``least_gain``: share of the front below which nothing is worth its hours.
    """

    candidates: tuple[Candidate, ...]
    osl: float
    max_gpus: int
    start_h: float
    load_h: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    least_gain: float = 0.0002

    def find(self, candidate_id: str) -> Candidate:
        return next(each for each in self.candidates if each.id == candidate_id)


Known = Mapping[str, Mapping[int, Rate]]
"""Measured rates, by candidate and concurrency."""


@dataclass(frozen=True)
class Choice:
    """Measure ``candidate`` at ``loads``. ``gain``: expected, as a share of the front; ``gpu_hours``: its cost."""

    candidate: str
    label: str
    loads: tuple[int, ...]
    gain: float
    gpu_hours: float
    why: str


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


@dataclass
class _View:
    """What is known and under way, made into curves once for a decision."""

    space: Space
    known: Known
    running: Mapping[str, Collection[int]]
    beliefs: dict[str, Belief] = field(init=False)

    def __post_init__(self) -> None:
        families = {each.family: [] for each in self.space.candidates}  # type: dict[str, list[float]]
        self.own: dict[str, float] = {}
        for each in self.space.candidates:
            measured = self.known.get(each.id, {})
            logs = [_log_speed(measured[load], each.forecasts[load]) for load in measured if load in each.forecasts]
            if logs:
                self.own[each.id] = fmean(logs)
                families[each.family].append(self.own[each.id])
        self.beliefs = learn(families)
        rng = np.random.default_rng(0)
        # Every draw is another part of the normal distribution: few of them reach far to both sides.
        parts = np.array([NormalDist().inv_cdf((k + 0.5) / DRAWS) for k in range(DRAWS)])
        self._family_draws = {family: rng.permutation(parts) for family in sorted(families)}
        self._own_draws = {each.id: rng.permutation(parts) for each in self.space.candidates}

    def factor(self, each: Candidate, draw: int | None = None) -> float:
        """How much faster than its forecast a server is taken to be; ``None``: what is most likely."""
        if each.id in self.own:
            return math.exp(self.own[each.id])
        belief = self.beliefs[each.family]
        if draw is None:
            return belief.factor
        shift = belief.sd * self._family_draws[each.family][draw] + belief.own_sd * self._own_draws[each.id][draw]
        return math.exp(belief.mean + float(shift))

    def rates(self, each: Candidate, loads: Collection[int], draw: int | None = None) -> dict[int, Rate]:
        """At ``loads`` and at those measured or under way: measured where it is, else promised."""
        measured = self.known.get(each.id, {})
        wanted = sorted({*loads, *measured, *self.running.get(each.id, ())})
        factor = self.factor(each, draw)
        return {load: measured.get(load) or each.forecasts[load].times(factor) for load in wanted}

    def gen_side(self, each: Candidate, loads: Collection[int], draw: int | None = None) -> Side:
        rates = self.rates(each, loads, draw)
        kept = [
            rate
            for rate in rates.values()
            if rate.tpot_s > 0 and (self.space.tpot_s is None or rate.tpot_s <= self.space.tpot_s)
        ]
        return Side(each.gpus, np.array([r.req_s for r in kept]), np.array([1 / r.tpot_s for r in kept]))

    def ctx_rate(self, each: Candidate, loads: Collection[int], draw: int | None = None) -> float:
        """Best requests/s within the TTFT limit; 0 when there is none."""
        limit = self.space.ttft_s
        return max(
            (r.req_s for r in self.rates(each, loads, draw).values() if limit is None or r.ttft_s <= limit),
            default=0.0,
        )

    def started(self, each: Candidate) -> bool:
        return bool(self.known.get(each.id)) or bool(self.running.get(each.id))

    def ctx_sides(self, mtp: int, extra: tuple[Candidate, float] | None = None) -> list[Side]:
        """Ctx servers that may feed a gen server with ``mtp`` drafts; ``extra``: one more, at that rate."""
        options = [
            (each, self.ctx_rate(each, ()))
            for each in self.space.candidates
            if each.stage == "ctx" and self.started(each)
        ]
        options += [extra] if extra else []
        own = [(each, rate) for each, rate in options if each.mtp == mtp and rate > 0]
        sides: dict[int, float] = {}
        for each, rate in own or options:
            worth = rate * OTHER_MTP ** abs(each.mtp - mtp)
            if worth > 0:
                sides[each.gpus] = max(sides.get(each.gpus, 0.0), worth)
        return [Side(gpus, np.array([rate]), np.empty(0)) for gpus, rate in sorted(sides.items())]

    def best_front(self, gen: Side, ctx: Sequence[Side]) -> Floats:
        front = empty_front()
        for side in ctx:
            front = np.maximum(front, front_of(side, gen, self.space.osl, self.space.max_gpus))
        return front

    def front(self, extra: tuple[Candidate, float] | None = None) -> Floats:
        """Of everything measured and under way, with one more ctx server, if given."""
        front = empty_front()
        for each in self.space.candidates:
            if each.stage == "gen" and self.started(each):
                front = np.maximum(front, self.best_front(self.gen_side(each, ()), self.ctx_sides(each.mtp, extra)))
        return front


def decide(
    space: Space, known: Known, running: Mapping[str, Collection[int]], hours_left: float | None = None
) -> Decision:
    """The measurement that promises most per GPU-hour, of those that fit into ``hours_left`` (``None``: no limit).

    ``running``: loads under way, by candidate; they are taken to turn out as promised.
    """
    view = _View(space, known, running)
    front = view.front()
    weights, promised = _chances(view)
    size = max(hypervolume(front), promised)
    found: list[Choice] = []
    skips: list[Skip] = []
    for each in space.candidates:
        if running.get(each.id):
            continue
        if why := _why_pointless(view, each):
            skips.append(Skip(each.id, each.label, why))
            continue
        choice = _look_at(view, each, front, size, weights.get(each.id))
        if isinstance(choice, Skip):
            skips.append(choice)
        elif hours_left is not None and choice.gpu_hours > hours_left:
            left = f"it costs {choice.gpu_hours:.3g} GPU-hours and {max(0.0, hours_left):.3g} are left"
            skips.append(Skip(each.id, each.label, left))
        else:
            found.append(choice)
    if not found:
        why = "nothing left is worth its GPU-hours" if hours_left is None else "nothing left is worth it or fits"
        return Decision(None, why, tuple(skips))
    best = max(found, key=lambda choice: (choice.gain / choice.gpu_hours, choice.label))
    skips += [
        Skip(each.candidate, each.label, f"less per GPU-hour than {best.label}: {each.why}")
        for each in found
        if each is not best
    ]
    return Decision(best, best.why, tuple(skips))


def _chances(view: _View) -> tuple[dict[str, Floats], float]:
    """Of each gen server, at each tok/s/user, the share of draws in which it is best or close to it, mixed with
    ``AT_ONCE``; and the hypervolume of what is promised, the mean over draws."""
    gens = [each for each in view.space.candidates if each.stage == "gen"]
    wins = {each.id: empty_front() for each in gens}
    size = 0.0
    for draw in range(DRAWS):
        fronts = np.array(
            [view.best_front(view.gen_side(each, each.forecasts, draw), _feeders(view, each.mtp)) for each in gens]
        ).reshape(len(gens), -1)
        if not gens:
            break
        best = fronts.max(axis=0)
        size += hypervolume(best) / DRAWS
        for each, front in zip(gens, fronts, strict=True):
            behind = 1 - front / np.where(best > 0, best, 1.0)
            wins[each.id] += np.clip(1 - behind / CLOSE, 0.0, 1.0)
    weights = {name: AT_ONCE + (1 - AT_ONCE) * count / DRAWS for name, count in wins.items()}
    return weights, size or 1.0


def _feeders(view: _View, mtp: int) -> list[Side]:
    """Ctx servers measured or under way; before there is one, the one that promises most."""
    if sides := view.ctx_sides(mtp):
        return sides
    promised = _promised_ctx(view, mtp)
    return [promised] if promised else []


def _promised_ctx(view: _View, mtp: int) -> Side | None:
    """The ctx server that promises most per GPU, of those with ``mtp`` drafts, or the nearest number."""
    options = [each for each in view.space.candidates if each.stage == "ctx"]
    if not options:
        return None
    nearest = min(abs(each.mtp - mtp) for each in options)
    near = [each for each in options if abs(each.mtp - mtp) == nearest]
    best = max(near, key=lambda each: view.ctx_rate(each, each.forecasts) / each.gpus)
    return Side(best.gpus, np.array([view.ctx_rate(best, best.forecasts)]), np.empty(0))


def _why_pointless(view: _View, each: Candidate) -> str | None:
    """Reasons that need no front."""
    if each.stage == "gen" and each.mtp:
        fewer = [
            other
            for other in view.space.candidates
            if other.stage == "gen" and other.family == each.family and other.gpus == each.gpus
            if other.mtp == each.mtp - 1
        ]
        for other in fewer:
            both = sorted(set(each.forecasts) & set(other.forecasts))
            ends = [other.forecasts[c].tpot_s / each.forecasts[c].tpot_s for c in both[:1] + both[-1:]]
            if ends and max(ends) < 1 + MTP_MARGIN:
                return (
                    f"MTP {each.mtp} cannot pay over MTP {other.mtp}: tok/s/user x {ends[0]:.2f} at C = {both[0]} "
                    f"and x {ends[-1]:.2f} at C = {both[-1]}"
                )
    if each.stage == "ctx" and view.ctx_rate(each, each.forecasts) <= 0:
        return "no load within the TTFT limit"
    return None


def _look_at(view: _View, each: Candidate, front: Floats, size: float, weights: Floats | None) -> Choice | Skip:
    loads = _ctx_loads(view, each) if each.stage == "ctx" else _gen_loads(view, each, front, size, weights)
    if not loads:
        why = "measured where it can change the front" if view.started(each) else "beaten everywhere, in every draw"
        return Skip(each.id, each.label, why)
    hours = (view.space.start_h + len(loads) * view.space.load_h) * each.gpus
    gains = [_gain(view, each, loads, front, draw, weights) for draw in range(DRAWS)]
    expected = fmean(gains) / size
    if expected < view.space.least_gain:
        told = f"adds {expected:.2%} to the front on average, {max(gains) / size:.2%} at best"
        return Skip(each.id, each.label, f"not worth its hours: {told}")
    at = ", ".join(map(str, loads))
    why = f"at C = {at}: {expected:.1%} more front expected for {hours:.3g} GPU-hours"
    return Choice(each.id, each.label, loads, expected, hours, why)


def _gain(
    view: _View, each: Candidate, loads: Collection[int], front: Floats, draw: int | None, weights: Floats | None
) -> float:
    if each.stage == "gen":
        added = view.best_front(view.gen_side(each, loads, draw), _feeders(view, each.mtp))
        return gain(front, added, weights)
    rate = view.ctx_rate(each, loads, draw)
    if hypervolume(front) > 0:
        return gain(front, view.front((each, rate)))
    if any(other.stage == "ctx" and view.started(other) for other in view.space.candidates):
        return 0.0
    # Nothing to feed yet: all that the best gen server promises with it, so that a ctx server comes first.
    gens = [other for other in view.space.candidates if other.stage == "gen" and other.mtp == each.mtp]
    side = [Side(each.gpus, np.array([rate]), np.empty(0))]
    return max(
        (hypervolume(view.best_front(view.gen_side(other, other.forecasts), side)) for other in gens), default=0.0
    )


def _ctx_loads(view: _View, each: Candidate) -> tuple[int, ...]:
    """The loads that promise nearly the best rate within the TTFT limit. None once any is measured."""
    if view.started(each):
        return ()
    limit = view.space.ttft_s
    rates = {
        load: rate.req_s
        for load, rate in view.rates(each, each.forecasts).items()
        if limit is None or rate.ttft_s <= limit
    }
    if not rates:
        return ()
    most = max(rates.values())
    return tuple(sorted(load for load, rate in rates.items() if rate >= TOP * most))


def _gen_loads(view: _View, each: Candidate, front: Floats, size: float, weights: Floats | None) -> tuple[int, ...]:
    """Loads worth their time once the server is up: the one that adds most, then others as long as they add enough.

    Enough is a quarter of what an hour of the whole job brings so far (coming back later costs another start), and
    a tenth of what is worth anything at all.
    """
    chosen: list[int] = []
    total, hours = 0.0, view.space.start_h
    measured = set(view.known.get(each.id, ()))
    left = [load for load in each.forecasts if load not in measured]
    while left:
        gains = {load: _gain(view, each, [*chosen, load], front, None, weights) for load in left}
        best = max(gains, key=lambda load: (gains[load], -load))
        more = gains[best] - total
        if more <= 0 or (
            chosen and more < max(MORE * total / hours * view.space.load_h, 0.1 * view.space.least_gain * size)
        ):
            break
        chosen.append(best)
        left.remove(best)
        total = gains[best]
        hours += view.space.load_h
    return tuple(sorted(chosen))


def _log_speed(measured: Rate, predicted: Rate) -> float:
    if measured.tpot_s and predicted.tpot_s:
        return math.log(predicted.tpot_s / measured.tpot_s)
    return math.log(measured.req_s / predicted.req_s)
