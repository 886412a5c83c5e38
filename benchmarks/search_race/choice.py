"""What one would deploy at a given tok/s/user in the end, and how far that is from the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from truth import Truth

from ratematch.search.candidates import Candidate, Known, Rate, Space
from ratematch.search.fronts import Floats, Side, best_ratio
from ratematch.search.view import View

SPEEDS = (20.0, 50.0, 100.0)
"""tok/s/user."""
FINALISTS = 4
"""Deployments that are run end to end for each tok/s/user."""
AROUND = (0.5, 0.8, 1.0, 1.25)
"""Multiples of the expected concurrency that they are run at, as in ``sweeps/deepseek-r1.yaml``."""
SURE = 0.01 / 1.96
"""Standard deviation of what is measured: a contender is run until its interval is +-1 %."""


@dataclass(frozen=True)
class Curve:
    """Rates of one gen server, ascending tok/s/user; between them both are taken to go geometrically."""

    tok_s_user: Floats
    req_s: Floats

    def at(self, speed: float) -> float:
        """Requests/s at so many tok/s/user; 0 where it is never as fast."""
        if not self.tok_s_user.size or self.tok_s_user[-1] < speed:
            return 0.0
        return float(np.exp(np.interp(np.log(speed), np.log(self.tok_s_user), np.log(self.req_s))))


def curve_of(rates: Iterable[Rate]) -> Curve:
    points = np.array(sorted((1 / rate.tpot_s, rate.req_s) for rate in rates if rate.tpot_s > 0)).reshape(-1, 2)
    return Curve(points[:, 0], points[:, 1])


def tok_s_gpu(space: Space, gen: Candidate, req_s: float, ctx_gpus: int, ctx_req_s: float) -> float:
    """Of the best ratio of whole instances."""
    if req_s <= 0 or ctx_req_s <= 0:
        return 0.0
    ctx = Side(ctx_gpus, np.array([ctx_req_s]), np.empty(0))
    return float(best_ratio(ctx, gen.gpus, np.array([req_s]), space.osl, space.max_gpus)[0])


def best_of(truth: Truth, known: Mapping[str, set[int]], speed: float) -> float:
    """True tok/s/GPU at ``speed`` of the best deployment made of servers that are known."""
    space = truth.space
    ctx = [each for each in space.candidates if each.stage == "ctx" and known.get(each.id)]
    return max(
        (
            tok_s_gpu(space, gen, curve_of(truth.rates[gen.id].values()).at(speed), gpus, rate)
            for gen in space.candidates
            if gen.stage == "gen" and known.get(gen.id)
            for gpus, rate in truth.feeders(ctx, gen.mtp, known).items()
        ),
        default=0.0,
    )


def choice_shares(truth: Truth, measured: Known) -> tuple[list[float], list[float]]:
    """At each of ``SPEEDS`` over the best of all: the best deployment of what was measured, and what is chosen.

    Chosen is what gives most end to end, of the deployments that are best by what was measured of their servers.
    """
    space, view = truth.space, View(truth.space, measured, {})
    known = {name: set(rates) for name, rates in measured.items()}
    ctx = [each for each in view.rates.ctxs if known.get(each.id)]
    rng = np.random.default_rng(truth.noise.integers(2**32))
    possible, chosen = [], []
    for speed in SPEEDS:
        best = best_of(truth, truth.ladders(), speed)
        if best <= 0:
            continue
        possible.append(best_of(truth, known, speed) / best)
        expected = [
            (
                tok_s_gpu(space, gen, curve_of(measured[gen.id].values()).at(speed), side.gpus, side.req_s[0]),
                side.gpus,
                gen,
            )
            for gen in view.rates.gens
            if measured.get(gen.id)
            for side in view.rates.feeders(gen.mtp)
        ]
        expected.sort(key=lambda each: (-each[0], each[2].label, each[1]))
        results = []
        for _, gpus, gen in expected[:FINALISTS]:
            rate = truth.feeders(ctx, gen.mtp, known).get(gpus, 0.0)
            curve = curve_of(truth.rates[gen.id].values())
            run = _run(truth.rates[gen.id], speed, rng)
            results.append(
                (
                    tok_s_gpu(space, gen, run.at(speed), gpus, rate),
                    tok_s_gpu(space, gen, curve.at(speed), gpus, rate) / best,
                )
            )
        chosen.append(max(results, default=(0.0, 0.0))[1])
    return possible, chosen


def _run(rates: Mapping[int, Rate], speed: float, rng: np.random.Generator) -> Curve:
    """What is measured of a deployment around the concurrency at which ``speed`` is expected."""
    loads = np.log(sorted(rates))
    curve = [rates[load] for load in sorted(rates)]
    speeds = np.log([1 / rate.tpot_s for rate in curve])
    req_s = np.log([rate.req_s for rate in curve])
    expected = float(np.interp(-np.log(speed), -speeds, loads))
    at = np.unique(np.clip(expected + np.log(AROUND), loads[0], loads[-1]))
    noise = SURE * rng.standard_normal(at.size)
    points = sorted(zip(np.interp(at, loads, speeds) + noise, np.interp(at, loads, req_s) + noise, strict=True))
    return Curve(np.exp([point[0] for point in points]), np.exp([point[1] for point in points]))
