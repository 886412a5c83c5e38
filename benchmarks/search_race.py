"""How many GPU-hours it takes to find the front: adaptive search against what one would do without it.

Every method spends hours on the servers of ``sweeps/deepseek-r1.yaml`` (three workloads) and knows only what it has
measured. The truth is hidden from all of them: for each seed the speed of every mapping family is another than the
forecasts say (step times up to +-30 %, with a tilt over the ladder of up to +-5 %), every server deviates from its
family by 3 %, and every measurement is off by 1.5 %. Forecasts are within 1 % of the simulation (docs/simulation.md),
so that a truth made from them is one in simulation; ``--results`` makes it from a simulated sweep's own figures.

    grid         the whole ladder of every server, in the order of the file
    random       the same in random order
    prediction   in the order that uncorrected forecasts suggest, whole ladders, nothing learnt
    ceil ratio   the grid's figures, matched as one generation server and the ratio rounded up
    adaptive     ratematch.search, one job at a time

What counts is the hypervolume of the true front of the servers measured, as a share of that of the whole grid. Hours
are those of ctx and gen: starts and loads as the cluster profile says, times GPUs.

    python benchmarks/search_race.py [--seeds 20] [--results results/deepseek-r1-simulated]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ratematch.inputs import read_sweep
from ratematch.prediction import forecast_experiment
from ratematch.run.precheck import expand_sweep
from ratematch.search.fronts import GRID, Floats, Side, empty_front, front_of, gain, hypervolume
from ratematch.search.servers import Candidate, Rate, Space
from ratematch.search.space import SHORT, make_space, read_known
from ratematch.search.workloads import decide_among, go_on_among
from ratematch.store import Results

SHARES = (0.95, 0.99, 0.995)
SPEEDS = (20.0, 50.0, 100.0)
FAMILY, TILT, OWN, NOISE = 0.3, 0.05, 0.03, 0.015
BUDGETS = (0.1, 0.2, 0.4)
"""Of the grid's GPU-hours: what the search is given first, and when that is spent, as ``--max-gpu-hours``."""
Job = tuple[str, tuple[int, ...], int]
Jobs = Iterable[Job]
"""Servers, the loads they are measured at next, and how often they are started for it."""


@dataclass
class Truth:
    """What every server really gives, and what is found when it is measured."""

    space: Space
    rates: dict[str, dict[int, Rate]]
    noise: np.random.Generator
    cache: dict[tuple[object, ...], Floats] = field(default_factory=dict)

    def measure(self, candidate: str, loads: Sequence[int]) -> dict[int, Rate]:
        noise = NOISE / SHORT**0.5
        return {
            load: self.rates[candidate][load].times(float(np.exp(noise * self.noise.standard_normal())))
            for load in loads
        }

    def front(self, known: dict[str, set[int]], *, ceil_only: bool = False) -> Floats:
        """The true front of deployments made of the servers measured, run at the loads measured."""
        front = empty_front()
        ctx = [each for each in self.space.candidates if each.stage == "ctx" and known.get(each.id)]
        for gen in self.space.candidates:
            loads = tuple(sorted(known.get(gen.id, ()))) if gen.stage == "gen" else ()
            if not loads:
                continue
            for gpus, rate in self.feeders(ctx, gen.mtp, known).items():
                key = (gen.id, loads, gpus, rate, ceil_only)
                if key not in self.cache:
                    rates = [self.rates[gen.id][load] for load in loads]
                    side = Side(gen.gpus, np.array([r.req_s for r in rates]), np.array([1 / r.tpot_s for r in rates]))
                    feeder = Side(gpus, np.array([rate]), np.empty(0))
                    self.cache[key] = front_of(feeder, side, self.space.osl, self.space.max_gpus, ceil_only=ceil_only)
                front = np.maximum(front, self.cache[key])
        return front

    def everything(self) -> Floats:
        """The front of the whole grid."""
        return self.front({each.id: set(each.forecasts) for each in self.space.candidates})

    def feeders(self, ctx: Sequence[Candidate], mtp: int, known: dict[str, set[int]]) -> dict[int, float]:
        """Best true requests/s by GPUs of ctx servers measured, with the drafts that gen makes them have."""
        best: dict[int, float] = {}
        for each in ctx:
            twin = next(
                other
                for other in self.space.candidates
                if other.stage == "ctx" and other.family == each.family
                if other.gpus == each.gpus and other.mtp == mtp
            )
            limit = self.space.ttft_s
            rates = [self.rates[twin.id][load] for load in known[each.id] if load in self.rates[twin.id]]
            allowed = [rate.req_s for rate in rates if limit is None or rate.ttft_s <= limit]
            if allowed:
                best[each.gpus] = max(best.get(each.gpus, 0.0), max(allowed))
        return best


def make_truth(space: Space, base: dict[str, dict[int, Rate]], seed: int, own_sd: float = OWN) -> Truth:
    """Family effects are those of the seed, whatever the workload; of a server's own half the variance is."""
    rng = np.random.default_rng(seed)
    mine = np.random.default_rng([seed, *space.workload.encode()])
    families = sorted({each.family for each in space.candidates})
    slower = {family: float(rng.uniform(1 - FAMILY, 1 + FAMILY)) for family in families}
    tilt = {family: float(rng.uniform(-TILT, TILT)) for family in families}
    rates = {}
    for each in space.candidates:
        own = float(np.exp(own_sd * (rng.standard_normal() + mine.standard_normal()) / 2**0.5))
        ladder = sorted(base[each.id])
        rates[each.id] = {
            load: base[each.id][load].times(
                own / (slower[each.family] * (1 + tilt[each.family] * (2 * k / max(1, len(ladder) - 1) - 1)))
            )
            for k, load in enumerate(ladder)
        }
    return Truth(space, rates, np.random.default_rng([seed + 1000, *space.workload.encode()]))


def hours_of(space: Space, each: Candidate, loads: Collection[int], starts: int = 1) -> float:
    """GPU-hours of a job with all requests of its loads, not as the search sends them."""
    return space.hours(replace(each, shares={}), loads, starts)


def grid_jobs(space: Space, order: Sequence[Candidate]) -> Jobs:
    for each in order:
        yield each.id, tuple(each.forecasts), 1


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


@dataclass
class Trace:
    """GPU-hours spent and share of the exhaustive front, after each job."""

    hours: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)
    known: dict[str, set[int]] = field(default_factory=dict)

    def reach(self, share: float) -> float | None:
        return next((h for h, s in zip(self.hours, self.shares, strict=True) if s >= share), None)

    def lowest_at(self, hours: float) -> float:
        """Share of the front for so many GPU-hours, of the workload that is worst off."""
        return max((s for h, s in zip(self.hours, self.lowest, strict=True) if h <= hours), default=0.0)


def run(truth: Truth, jobs: Jobs, whole: float, *, ceil_only: bool = False) -> Trace:
    trace = Trace()
    spent = 0.0
    for candidate, loads, starts in jobs:
        spent += hours_of(truth.space, truth.space.find(candidate), loads, starts)
        trace.known.setdefault(candidate, set()).update(loads)
        trace.hours.append(spent)
        trace.shares.append(hypervolume(truth.front(trace.known, ceil_only=ceil_only)) / whole)
    return trace


def adaptive_jobs(truths: Mapping[str, Truth], budgets: Sequence[float]) -> Iterable[tuple[str, Job]]:
    """As ``ratematch sweep`` searches, with one job at a time, which asks for loads one by one; for the workloads of
    ``truths`` in one budget, and when that is spent, in the next."""
    spaces = {label: truth.space for label, truth in truths.items()}
    known: dict[str, dict[int, Rate]] = {}
    spent = dict.fromkeys(spaces, 0.0)
    for budget in budgets:
        while True:
            left = budget - sum(spent.values())
            label, found = decide_among(spaces, known, {}, left, spent, explain=False)
            choice = found[label].choice if label else None
            if label is None or choice is None:
                break
            starts = 1
            while choice is not None:
                name, loads = choice.candidate, (choice.load,)
                known.setdefault(name, {}).update(truths[label].measure(name, loads))
                spent[label] += spaces[label].hours(spaces[label].find(name), loads, starts)
                yield label, (name, loads, starts)
                starts = 0
                left = budget - sum(spent.values())
                choice = go_on_among(spaces, label, known, {}, name, left, spent).choice


def run_together(truths: Mapping[str, Truth], wholes: Mapping[str, float], budgets: Sequence[float]) -> Trace:
    """The adaptive search of all workloads in one budget; shares are means over them, ``lowest`` of the worst off."""
    trace = Trace()
    spent = 0.0
    share = dict.fromkeys(truths, 0.0)
    for label, (name, loads, starts) in adaptive_jobs(truths, budgets):
        space = truths[label].space
        spent += space.hours(space.find(name), loads, starts)
        trace.known.setdefault(name, set()).update(loads)
        share[label] = hypervolume(truths[label].front(trace.known)) / wholes[label]
        trace.hours.append(spent)
        trace.shares.append(float(np.mean(list(share.values()))))
        trace.lowest.append(min(share.values()))
    return trace


def choice_shares(truth: Truth, known: dict[str, set[int]], everything: Floats) -> list[float]:
    """tok/s/GPU of the best deployment of what is known over that of the best of all, at ``SPEEDS``."""
    front = truth.front(known)
    shares = []
    for speed in SPEEDS:
        place = int(np.searchsorted(GRID, speed))
        if everything[place] > 0:
            shares.append(float(front[place] / everything[place]))
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description="GPU-hours to find the front")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=20, help="0 to 7 were looked at when constants were chosen")
    parser.add_argument("--results", type=Path, help="a simulated sweep, for truths made from its figures")
    parser.add_argument("--own", type=float, default=OWN, help="what a server deviates from its family by")
    parser.add_argument("--only-adaptive", action="store_true", help="without the methods it is compared with")
    parser.add_argument("--together", action="store_true", help="the workloads of a seed in one sweep and budget")
    options = parser.parse_args()
    began = time.perf_counter()
    sweep, _ = read_sweep(str(Path(__file__).parent.parent / "sweeps" / "deepseek-r1.yaml"))
    experiments = [each for each in expand_sweep(sweep).experiments if each.stage in ("ctx", "gen")]
    forecasts = {each.id: forecast_experiment(each, sweep.cluster) for each in experiments}
    rows = Results.open(options.results).measured() if options.results else []
    labels = {row.experiment.id: row.experiment.label for row in rows}
    simulated = {labels[name]: rates for name, rates in read_known(rows).items()}
    spaces = {each.label: make_space(sweep, each, experiments, forecasts) for each in sweep.workloads}
    bases = {
        label: {each.id: dict(each.forecasts) | simulated.get(each.label, {}) for each in space.candidates}
        for label, space in spaces.items()
    }
    predicted = {} if options.only_adaptive else {label: predicted_order(space) for label, space in spaces.items()}
    traces: dict[str, list[tuple[Trace, float]]] = {}
    shares: list[float] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        truths = {label: make_truth(space, bases[label], seed, options.own) for label, space in spaces.items()}
        fronts = {label: truth.everything() for label, truth in truths.items()}
        wholes = {label: hypervolume(front) for label, front in fronts.items()}
        groups = [list(truths)] if options.together else [[label] for label in truths]
        for group in groups:
            total = sum(spaces[label].grid_hours for label in group)
            budgets = [share * total for share in BUDGETS]
            trace = run_together({label: truths[label] for label in group}, wholes, budgets)
            traces.setdefault("adaptive", []).append((trace, total))
            reached = (trace.reach(0.99) or np.inf) / total
            tenth = trace.lowest_at(0.1 * total)
            print(f"seed {seed}, {', '.join(group)}: 99 % at {reached:.1%}, {tenth:.1%} at 10 %", file=sys.stderr)
            shares += [share for label in group for share in choice_shares(truths[label], trace.known, fronts[label])]
        for label, order in predicted.items():
            truth, space, whole = truths[label], spaces[label], wholes[label]
            shuffled = random.Random(seed).sample(space.candidates, len(space.candidates))
            runs = {
                "grid": run(truth, grid_jobs(space, space.candidates), whole),
                "random": run(truth, grid_jobs(space, shuffled), whole),
                "prediction": run(truth, grid_jobs(space, order), whole),
                "ceil ratio": run(truth, grid_jobs(space, space.candidates), whole, ceil_only=True),
            }
            for name, trace in runs.items():
                traces.setdefault(name, []).append((trace, space.grid_hours))
    return report(traces, shares, time.perf_counter() - began)


def report(traces: dict[str, list[tuple[Trace, float]]], shares: list[float], seconds: float) -> int:
    totals = [total for _, total in next(iter(traces.values()))]
    print(f"{len(totals)} truths; the whole grid is {np.median(totals):.0f} GPU-hours (median over workloads)")
    print(f"{'method':12}" + "".join(f"{f'to {share:.1%}':>26}" for share in SHARES) + f"{'at the end':>24}")
    for name, runs in traces.items():
        cells = ""
        for share in SHARES:
            hours = [(trace.reach(share), total) for trace, total in runs]
            reached = [h / total for h, total in hours if h is not None]
            relative = [np.inf if h is None else h / total for h, total in hours]
            median = float(np.median(relative))
            text = f"{median:.1%}" if np.isfinite(median) else "never"
            cells += f"{f'{text} of grid ({len(reached)}/{len(runs)})':>26}"
        end = [trace.shares[-1] for trace, _ in runs]
        spent = np.median([trace.hours[-1] / total for trace, total in runs])
        print(f"{name:12}{cells}{f'{np.median(end):.1%} (worst {min(end):.1%}) at {spent:.0%}':>32}")
    tenth = [trace.lowest_at(0.1 * total) for trace, total in traces["adaptive"]]
    speeds = ", ".join(f"{speed:g}" for speed in SPEEDS)
    near = float(np.mean(np.array(shares) >= 0.98))
    told = f"median {np.median(tenth):.1%}, worst {min(tenth):.1%} of the front"
    print(f"adaptive at 10 % of the grid's GPU-hours: {told}")
    print(
        f"final choice at {speeds} tok/s/user: median {np.median(shares):.1%} of the best tok/s/GPU, worst "
        f"{min(shares):.1%}; {near:.0%} of choices within 2 %"
    )
    hours = [trace.reach(0.99) for trace, _ in traces["adaptive"]]
    relative = [np.inf if h is None else h / total for h, (_, total) in zip(hours, traces["adaptive"], strict=True)]
    met = float(np.median(relative)) <= 0.1 and min(tenth) >= 0.97
    goal = "goal (median <= 10 % of the grid to 99 %, no seed below 97 % there)"
    print(f"{goal}: {'met' if met else 'NOT met'}; {seconds:.0f} s")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
