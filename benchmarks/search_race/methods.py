"""Who takes part in a race: the adaptive search, and what one would do without it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
from truth import NOISE, Truth

from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.search.candidates import Candidate, Rate, Space
from ratematch.search.fronts import Floats, gain, hypervolume
from ratematch.search.repeats import TARGET_CI, KnownLoad, find_longer_run
from ratematch.search.space import lengthen
from ratematch.search.view import View
from ratematch.search.workloads import decide_among, go_on_among, share_deviations, share_hours

Requests = Mapping[str, Mapping[int, tuple[int, int]]]
"""By candidate and concurrency: requests of a longer run, and of the whole load."""


@dataclass(frozen=True)
class Job:
    """Loads that are measured of a candidate next, and GPU-hours until they are."""

    candidate: str
    loads: tuple[int, ...]
    gpu_hours: float


@dataclass
class Trace:
    """GPU-hours spent and share of the exhaustive front, after each job; with several workloads the mean of their
    shares, and ``lowest`` of the one that is worst off."""

    hours: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)
    known: dict[str, set[int]] = field(default_factory=dict)
    measured: dict[str, dict[int, Rate]] = field(default_factory=dict)

    def reach(self, share: float) -> float | None:
        return next((h for h, s in zip(self.hours, self.shares, strict=True) if s >= share), None)

    def lowest_at(self, hours: float) -> float:
        return max((s for h, s in zip(self.hours, self.lowest, strict=True) if h <= hours), default=0.0)


def requests_of(experiments: Iterable[Experiment]) -> dict[str, dict[int, tuple[int, int]]]:
    return {
        each.id: {
            load.concurrency: (lengthen(load).num_requests, load.num_requests)
            for load in each.loads
            if isinstance(load, Concurrency)
        }
        for each in experiments
    }


# -- without a search -------------------------------------------------------------------------------------------


def hours_of(space: Space, each: Candidate, loads: Collection[int]) -> float:
    """GPU-hours of a job with all requests of its loads, not as the search sends them."""
    return space.hours(replace(each, shares={}), loads)


def grid_jobs(space: Space, order: Sequence[Candidate]) -> Iterable[Job]:
    """Whole ladders, server by server."""
    for each in order:
        yield Job(each.id, tuple(each.forecasts), hours_of(space, each, each.forecasts))


def predicted_order(space: Space) -> list[Candidate]:
    """Greedy by uncorrected forecasts: whichever whole ladder adds most to the predicted front per hour."""
    ctx = sorted((c for c in space.candidates if c.stage == "ctx"), key=lambda c: -_capacity(space, c) / c.gpus)
    order = [ctx[0]]
    left = [c for c in space.candidates if c is not ctx[0]]
    forecasts = Truth(space, {c.id: dict(c.forecasts) for c in space.candidates}, np.random.default_rng(0))
    known = {ctx[0].id: set(ctx[0].forecasts)}
    while left:
        front = forecasts.front(known)

        def worth(each: Candidate, front: Floats = front) -> float:
            more = forecasts.front({**known, each.id: set(each.forecasts)})
            return gain(front, more) / hours_of(space, each, each.forecasts)

        best = max(left, key=lambda each: (worth(each), each.label))
        order.append(best)
        left.remove(best)
        known[best.id] = set(best.forecasts)
    return order


def _capacity(space: Space, each: Candidate) -> float:
    return max(
        (r.req_s for r in each.forecasts.values() if space.ttft_s is None or r.ttft_s <= space.ttft_s), default=0.0
    )


def run(truth: Truth, jobs: Iterable[Job], whole: float, *, ceil_only: bool = False) -> Trace:
    """``whole``: hypervolume of the exhaustive front."""
    trace = Trace()
    spent = 0.0
    for job in jobs:
        spent += job.gpu_hours
        trace.known.setdefault(job.candidate, set()).update(job.loads)
        trace.hours.append(spent)
        trace.shares.append(hypervolume(truth.front(trace.known, ceil_only=ceil_only)) / whole)
        trace.lowest.append(trace.shares[-1])
    return trace


# -- adaptive ---------------------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """As ``ratematch sweep`` searches, with one job at a time, which asks for loads one by one."""

    truths: Mapping[str, Truth]
    requests: Requests
    runs: dict[str, dict[int, list[tuple[Rate, float]]]] = field(default_factory=dict)
    """What was measured, by candidate and load, each time with the share of all requests that were sent."""

    def __post_init__(self) -> None:
        self.spaces = {label: truth.space for label, truth in self.truths.items()}
        self.spent = dict.fromkeys(self.spaces, 0.0)

    @property
    def known(self) -> dict[str, dict[int, Rate]]:
        """The mean over the runs of a load, as the search takes it."""
        return {
            name: {load: _mean([rate for rate, _ in runs]) for load, runs in loads.items()}
            for name, loads in self.runs.items()
        }

    def jobs(self, budgets: Sequence[float]) -> Iterable[tuple[str, Job]]:
        """For all workloads in one budget, and when that is spent, in the next."""
        for budget in budgets:
            while True:
                label, decisions = decide_among(
                    self.spaces, self.known, {}, self._left(budget), self.spent, explain=False
                )
                choice = decisions[label].choice if label else None
                if label is None or choice is None:
                    break
                name, starts = choice.candidate, 1
                while choice is not None:
                    yield label, self._measure(label, name, choice.load, starts)
                    starts = 0
                    left = self._left(budget)
                    choice = go_on_among(self.spaces, label, self.known, {}, name, left, self.spent).choice
                    while choice is None and (job := self._longer(label, name, budget)):
                        yield label, job
                        left = self._left(budget)
                        choice = go_on_among(self.spaces, label, self.known, {}, name, left, self.spent).choice

    def _left(self, budget: float) -> float:
        return budget - sum(self.spent.values())

    def _measure(self, label: str, name: str, load: int, starts: int) -> Job:
        each = self.spaces[label].find(name)
        return self._send(label, name, load, each.shares[load], self.spaces[label].hours(each, (load,), starts))

    def _longer(self, label: str, name: str, budget: float) -> Job | None:
        """What the server that is up measures again, if anything is in doubt that is worth it."""
        view = View(share_deviations(self.spaces, self.known)[label], self.known, {})
        each = view.space.find(name)
        wholes = {load: whole for load, (_, whole) in self.requests[name].items()}
        measured = {
            load: KnownLoad(
                1.96 * NOISE * sum(1 / sent for _, sent in runs) ** 0.5 / len(runs),
                len(runs),
                round(sum(sent * wholes[load] for _, sent in runs)),
            )
            for load, runs in self.runs[name].items()
        }
        hours_left = share_hours(self.spaces, self._left(budget), self.spent)[label]
        targets = dict.fromkeys(measured, TARGET_CI)
        longer = find_longer_run(view, each, measured, self.requests[name], hours_left, targets)
        if longer is None:
            return None
        more, whole = self.requests[name][longer.load]
        return self._send(label, name, longer.load, more / whole, longer.gpu_hours)

    def _send(self, label: str, name: str, load: int, sent: float, gpu_hours: float) -> Job:
        rate = self.truths[label].measure(name, load, sent)
        self.runs.setdefault(name, {}).setdefault(load, []).append((rate, sent))
        self.spent[label] += gpu_hours
        return Job(name, (load,), gpu_hours)


def _mean(rates: Sequence[Rate]) -> Rate:
    return Rate(
        fmean(rate.req_s for rate in rates),
        fmean(rate.ttft_s for rate in rates),
        fmean(rate.tpot_s for rate in rates),
    )


def run_adaptive(
    truths: Mapping[str, Truth], wholes: Mapping[str, float], requests: Requests, budgets: Sequence[float]
) -> Trace:
    """The search of all workloads in one budget. ``wholes``: hypervolumes of the exhaustive fronts."""
    trace = Trace()
    sweep = Sweep(truths, requests)
    spent = 0.0
    reached = dict.fromkeys(truths, 0.0)
    for label, job in sweep.jobs(budgets):
        spent += job.gpu_hours
        trace.known.setdefault(job.candidate, set()).update(job.loads)
        reached[label] = hypervolume(truths[label].front(trace.known)) / wholes[label]
        trace.hours.append(spent)
        trace.shares.append(fmean(reached.values()))
        trace.lowest.append(min(reached.values()))
    trace.measured = sweep.known
    return trace
