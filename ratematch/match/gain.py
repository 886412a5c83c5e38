"""What end-to-end runs of a deployment are expected to add to the fronts that are known, before they are run.

A run is predicted at its own concurrency (:mod:`ratematch.match.closedloop`). How far off that may be is drawn: the
noise of the ctx and gen rates it rests on (common to all deployments of the same servers), and what a deployment
loses or gains for reasons that measuring apart does not show, each deployment its own. Rate and tok/s/user move
together, for at a given concurrency both are inverse to the life of a request.

The value of a set of runs is the mean over draws of the area that the front of its points dominates; where a
deployment will be chosen at some tok/s/user, also of the rectangles under the front there. Its gain never
grows as others are added to the set (it is submodular), so taking the best first is within 1 - 1/e of the best set,
and a bound from an earlier round holds for a later one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.match.closedloop import Operating, operate
from ratematch.match.noise import Floats, Noise
from ratematch.match.pairs import Pair
from ratematch.match.pareto import Front, extract_front, hypervolume, step_at
from ratematch.match.points import Point
from ratematch.plan.load import Constraints

DIFFERS = 0.07
"""Standard deviation of measured over predicted when no end-to-end run has calibrated it: published end-to-end
results lie 0 to 25 % below the rate-matched ones, and a uniform spread of 25 % has 7 %."""

SEED = 0

DRAWS = 64
"""Common to all candidates, so differences between them are far less noisy than the gains themselves."""


@dataclass(frozen=True)
class RunCandidate:
    """A deployment that may be run. ``concurrencies``: of the whole deployment. ``gpu_hours``: what the run costs.

    ``chance``: that the deployment will still be on the front when everything is measured; its gain counts so much.
    """

    point: Point
    pair: Pair
    concurrencies: tuple[int, ...]
    gpu_hours: float
    chance: float = 1.0


@dataclass(frozen=True)
class Picked:
    """A candidate with what it adds, over the ones picked before it, to the area: a share of the area without any
    run (or of the area of all that was picked, when there was none). ``area``: the same in tok/s/user x tok/s/GPU."""

    candidate: RunCandidate
    gain: float
    area: float = 0.0


Outcomes = list[list[tuple[float, float]]]
"""For each draw the points (tok/s/user, tok/s/GPU) that a candidate's runs might give."""


@dataclass(frozen=True)
class Allowance:
    """``most``: candidates that may be taken. ``gpu_hours``: what all of them may cost (``None``: anything).
    ``price``: value that each must add per GPU-hour."""

    most: int
    gpu_hours: float | None = None
    price: float = 0.0


def pick(
    candidates: Sequence[RunCandidate],
    known: Front,
    value: Value,
    allowance: Allowance,
    constraints: Constraints,
    *,
    under_way: Sequence[RunCandidate] = (),
    differs: float = DIFFERS,
) -> list[Picked]:
    """The allowed candidates that together are expected to add most to the value of the front ``known``.

    ``under_way``: runs decided on and not measured yet: what candidates add, they add to those too. ``differs``: how
    far a deployment may be off its prediction, standard deviation of the logarithm. Taking the largest gain first and
    taking the largest gain per GPU-hour first are both tried; the better set is returned, in the order in which it
    was taken.
    """
    hours, price = allowance.gpu_hours, allowance.price
    affordable = [candidate for candidate in candidates if hours is None or candidate.gpu_hours <= hours]
    drawn = draw_outcomes([*under_way, *affordable], constraints, differs=differs)
    expected, outcomes = drawn[: len(under_way)], drawn[len(under_way) :]
    start = value(known)
    tries = [
        take(affordable, outcomes, known, value, allowance, per_cost=per_cost, expected=expected)
        for per_cost in ((False, True) if hours is not None or price else (False,))
    ]
    best = max(tries, key=lambda taken: sum(gain - price * affordable[k].gpu_hours for k, gain in taken))
    whole = start or sum(gain for _, gain in best) or 1.0
    return [Picked(affordable[k], gain / whole, gain) for k, gain in best]


@dataclass(frozen=True)
class Value:
    """Of a front (tok/s/user, tok/s/GPU): the area that it dominates above ``floor``, and u x p at each u of
    ``choose_at``, times ``scale``: with :func:`like_area` a gain is comparable with an area all the same."""

    floor: tuple[float, float]
    choose_at: tuple[float, ...] = ()
    scale: float = 1.0

    def __call__(self, front: Front) -> float:
        there = sum(u * (step_at(front, u) or 0.0) for u in self.choose_at)
        return self.scale * (hypervolume(front, self.floor) + there)


def floor_of(constraints: Constraints) -> tuple[float, float]:
    """Where the area of a front begins: at the tok/s/user of the TPOT limit, (0, 0) without one."""
    return (1000 / constraints.tpot_ms if constraints.tpot_ms else 0.0, 0.0)


def like_area(front: Front, choose_at: Sequence[float]) -> float:
    """The scale at which ``front`` is worth its area."""
    return hypervolume(front) / (Value((0.0, 0.0), tuple(choose_at))(front) or 1.0) if front else 1.0


def draw_outcomes(candidates: Sequence[RunCandidate], constraints: Constraints, *, differs: float) -> list[Outcomes]:
    """What each candidate might be measured at. A point beyond the TTFT limit is none: it would be on no front."""
    rng = np.random.default_rng(SEED)
    common: dict[str, Floats] = {}

    def of(source: str) -> Floats:
        if source not in common:
            common[source] = rng.standard_normal(DRAWS)
        return common[source]

    outcomes = []
    for candidate in candidates:
        pair, point = candidate.pair, candidate.point
        ctx, gen = of("ctx " + pair.ctx.source), of("gen " + pair.gen.source)
        own = differs * rng.standard_normal(DRAWS)
        drawn: Outcomes = [[] for _ in range(DRAWS)]
        for number in candidate.concurrencies:
            at = operate(pair, point.ctx, point.gen, number)
            if constraints.ttft_ms is not None and _ttft_s(pair, point, at) * 1000 > constraints.ttft_ms:
                continue
            decode = at.tpot_s * pair.gen.rates.tokens_per_request
            share = {"ctx": 1.0, "gen": 0.0}.get(at.limit or "", at.ttft_s / (at.ttft_s + decode))
            factors = np.exp(share * _rel(pair.ctx.noise) * ctx + (1 - share) * _rel(pair.gen.noise) * gen + own)
            u, p = 1 / at.tpot_s, at.req_s * pair.gen.osl / point.gpus
            for k, factor in enumerate(factors):
                drawn[k].append((u * float(factor), p * float(factor)))
        outcomes.append(drawn)
    return outcomes


def _ttft_s(pair: Pair, point: Point, at: Operating) -> float:
    """What the TTFT limit is held against: of the requests in service, where it is theirs; and what waits beyond what
    the deployment sustains."""
    if pair.in_service is None:
        return at.ttft_s
    req_s, x, y = np.array([at.req_s]), np.array([point.ctx]), np.array([point.gen])
    served_s = float(pair.in_service.ttft_s(req_s, x, y, pair.in_service.percentile)[0])
    return served_s if at.limit is None else max(served_s, at.ttft_s)


def _rel(noises: Sequence[Noise | None]) -> float:
    known = [noise.rel for noise in noises if noise is not None]
    return math.sqrt(sum(rel * rel for rel in known) / len(known)) if known else 0.0


def take(
    candidates: Sequence[RunCandidate],
    outcomes: Sequence[Outcomes],
    known: Front,
    value: Value,
    allowance: Allowance,
    *,
    per_cost: bool,
    expected: Sequence[Outcomes] = (),
) -> list[tuple[int, float]]:
    """(candidate, gain), best first by gain or by gain per GPU-hour. ``expected``: outcomes that come in any case."""
    price = allowance.price
    fronts: list[Front] = [known] * DRAWS
    for drawn in expected:
        fronts = [_join(front, points) for front, points in zip(fronts, drawn, strict=True)]
    areas = [value(front) for front in fronts]
    bounds = dict.fromkeys(range(len(candidates)), math.inf)
    left = allowance.gpu_hours
    taken: list[tuple[int, float]] = []

    def worth(k: int, gain: float) -> float:
        return gain / candidates[k].gpu_hours if per_cost and candidates[k].gpu_hours > 0 else gain

    while len(taken) < allowance.most:
        bounds = {
            k: gain
            for k, gain in bounds.items()
            if (left is None or candidates[k].gpu_hours <= left) and gain > price * candidates[k].gpu_hours
        }
        best, best_gain = None, 0.0
        for k in sorted(bounds, key=lambda k: (-worth(k, bounds[k]), k)):
            if best is not None and worth(k, bounds[k]) <= worth(best, best_gain):
                break  # what is left cannot add more than it could have before
            gain = sum(
                value(_join(front, points)) - area
                for front, points, area in zip(fronts, outcomes[k], areas, strict=True)
            )
            gain = bounds[k] = candidates[k].chance * gain / DRAWS
            dear = gain <= price * candidates[k].gpu_hours
            if not dear and (best is None or worth(k, gain) > worth(best, best_gain)):
                best, best_gain = k, gain
        if best is None:
            break
        taken.append((best, best_gain))
        fronts = [_join(front, points) for front, points in zip(fronts, outcomes[best], strict=True)]
        areas = [value(front) for front in fronts]
        del bounds[best]
        if left is not None:
            left -= candidates[best].gpu_hours
    return taken


def _join(front: Front, points: Sequence[tuple[float, float]]) -> Front:
    return extract_front([*front, *points], lambda point: point)
