"""How many GPU-hours it takes to find the front: adaptive search against what one would do without it.

Every method spends hours on the servers of ``sweeps/deepseek-r1.yaml`` (three workloads) and knows only what it has
measured. The truth is hidden from all of them: for each seed the speed of every mapping family is another than the
forecasts say (step times up to +-30 %, with a tilt over the ladder of up to +-5 %), and every measurement is off by
1.5 %, short ones by more; with ``--own 0.03`` every server also deviates from its family by 3 %. Forecasts are
within 1 % of the simulation (docs/simulation.md), so that a truth made from them is one in simulation; ``--results``
makes it from a simulated sweep's own figures.

    grid         the whole ladder of every server, in the order of the file
    random       the same in random order
    prediction   in the order that uncorrected forecasts suggest, whole ladders, nothing learnt
    ceil ratio   the grid's figures, matched as one generation server and the ratio rounded up
    adaptive     ratematch.search, one job at a time, longer runs included: all three workloads in one
                 budget, as the sweep is run
    apart        the same, each workload by itself

What counts is the hypervolume of the true front of the servers measured, as a share of that of the whole grid; of all
workloads in one budget their mean. Hours are those of ctx and gen: starts and loads as the cluster profile says,
times GPUs.

    python benchmarks/search_race [--seeds 20] [--results results/deepseek-r1-simulated]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from choice import FINALISTS, SPEEDS, choice_shares
from methods import Requests, Trace, grid_jobs, predicted_order, requests_of, run, run_adaptive
from truth import Rates, make_truth

from ratematch.campaign.precheck import expand_sweep
from ratematch.inputs.find import read_sweep
from ratematch.search.candidates import Candidate, Space
from ratematch.search.fronts import hypervolume
from ratematch.search.space import make_space, read_known
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.store.folder import Results

SHARES = (0.95, 0.99, 0.995)
BUDGETS = (0.1, 0.2, 0.4)
"""Of the grid's GPU-hours: what the search is given first, and when that is spent, as ``--max-gpu-hours``."""


@dataclass(frozen=True)
class Race:
    """What all seeds have in common. ``order``: of the prediction; empty: only the search takes part."""

    spaces: Mapping[str, Space]
    base: Mapping[str, Rates]
    requests: Requests
    order: Mapping[str, Sequence[Candidate]]
    own: float


@dataclass
class Ended:
    """By method, each trace with the GPU-hours of the grid it is measured by. ``possible`` and ``chosen``: see
    :func:`choice.choice_shares`, by method."""

    seed: int
    traces: dict[str, list[tuple[Trace, float]]] = field(default_factory=dict)
    possible: dict[str, list[float]] = field(default_factory=dict)
    chosen: dict[str, list[float]] = field(default_factory=dict)


def race(common: Race, seed: int) -> Ended:
    """One seed, all methods."""
    ended = Ended(seed)
    labels = list(common.spaces)
    for name, groups in (("adaptive", [labels]), ("apart", [[label] for label in labels])):
        for group in groups:
            truths = {
                label: make_truth(common.spaces[label], common.base[label], seed, common.own) for label in group
            }
            wholes = {label: hypervolume(truth.everything()) for label, truth in truths.items()}
            total = sum(common.spaces[label].grid_hours for label in group)
            trace = run_adaptive(truths, wholes, common.requests, [share * total for share in BUDGETS])
            ended.traces.setdefault(name, []).append((trace, total))
            for truth in truths.values():
                measured = {
                    each.id: trace.measured[each.id] for each in truth.space.candidates if each.id in trace.measured
                }
                possible, chosen = choice_shares(truth, measured)
                ended.possible.setdefault(name, []).extend(possible)
                ended.chosen.setdefault(name, []).extend(chosen)
    for label, order in common.order.items():
        space, truth = common.spaces[label], make_truth(common.spaces[label], common.base[label], seed, common.own)
        whole = hypervolume(truth.everything())
        shuffled = random.Random(seed).sample(space.candidates, len(space.candidates))
        runs = {
            "grid": run(truth, grid_jobs(space, space.candidates), whole),
            "random": run(truth, grid_jobs(space, shuffled), whole),
            "prediction": run(truth, grid_jobs(space, order), whole),
            "ceil ratio": run(truth, grid_jobs(space, space.candidates), whole, ceil_only=True),
        }
        for name, trace in runs.items():
            ended.traces.setdefault(name, []).append((trace, space.grid_hours))
    return ended


def prepare(results: Path | None, own: float, only_adaptive: bool) -> Race:
    sweep, _ = read_sweep(str(Path(__file__).parent.parent.parent / "sweeps" / "deepseek-r1.yaml"))
    experiments = [each for each in expand_sweep(sweep).experiments if each.stage in ("ctx", "gen")]
    forecasts = {each.id: forecast_experiment(each, sweep.cluster) for each in experiments}
    rows = Results.open(results).measured() if results else []
    labels = {row.experiment.id: row.experiment.label for row in rows}
    simulated = {labels[name]: rates for name, rates in read_known(rows).items()}
    spaces = {each.label: make_space(sweep, each, experiments, forecasts) for each in sweep.workloads}
    base = {
        label: {each.id: dict(each.forecasts) | simulated.get(each.label, {}) for each in space.candidates}
        for label, space in spaces.items()
    }
    order = {} if only_adaptive else {label: predicted_order(space) for label, space in spaces.items()}
    return Race(spaces, base, requests_of(experiments), order, own)


def main() -> int:
    parser = argparse.ArgumentParser(description="GPU-hours to find the front")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=40, help="those below 40 were looked at during development")
    parser.add_argument("--results", type=Path, help="a simulated sweep, for truths made from its figures")
    parser.add_argument("--own", type=float, default=0.0, help="what a server deviates from its family by")
    parser.add_argument("--only-adaptive", action="store_true", help="without the methods it is compared with")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    began = time.perf_counter()
    common = prepare(options.results, options.own, options.only_adaptive)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    ended = []
    with get_context("fork").Pool(options.jobs) as pool:
        for each in pool.imap(partial(race, common), seeds):
            ended.append(each)
            trace, total = each.traces["adaptive"][0]
            reached = (trace.reach(0.99) or np.inf) / total
            shares = f"99 % at {reached:.1%}; at 10 % the workload worst off has {trace.lowest_at(0.1 * total):.1%}"
            print(f"seed {each.seed}: {shares}", file=sys.stderr)
    return report(ended, time.perf_counter() - began)


def report(ended: Sequence[Ended], seconds: float) -> int:
    print(f"{len(ended)} seeds, 3 workloads; shares of the GPU-hours of the whole grid, medians")
    print(f"{'method':12}" + "".join(f"{f'to {share:.1%}':>20}" for share in SHARES) + f"{'at the end':>34}")
    for name in ended[0].traces:
        runs = [run for each in ended for run in each.traces[name]]
        cells = ""
        for share in SHARES:
            relative = [_relative(trace.reach(share), total) for trace, total in runs]
            cells += f"{f'{_percent(relative)} ({np.isfinite(relative).sum()}/{len(runs)})':>20}"
        end = [trace.lowest[-1] for trace, _ in runs]
        median = np.median([trace.shares[-1] for trace, _ in runs])
        spent = np.median([trace.hours[-1] / total for trace, total in runs])
        print(f"{name:12}{cells}{f'{median:.1%} (worst {min(end):.1%}) at {spent:.0%}':>34}")
    for name in ("adaptive", "apart"):
        tenth = [trace.lowest_at(0.1 * total) for each in ended for trace, total in each.traces[name]]
        print(f"{name} at 10 %: every workload has at least {min(tenth):.1%} of its front")
    speeds = ", ".join(f"{speed:g}" for speed in SPEEDS)
    for name in ("adaptive", "apart"):
        possible = [share for each in ended for share in each.possible[name]]
        chosen = [share for each in ended for share in each.chosen[name]]
        print(f"{name} at its end, at {speeds} tok/s/user: tok/s/GPU over that of the best of all")
        print(f"    the best deployment of servers measured: {_within(possible)}")
        print(f"    chosen of {FINALISTS} that are run end to end: {_within(chosen)}")
    runs = [run for each in ended for run in each.traces["adaptive"]]
    median = float(np.median([_relative(trace.reach(0.99), total) for trace, total in runs]))
    met = median <= 0.1 and min(trace.lowest_at(0.1 * total) for trace, total in runs) >= 0.97
    print(f"goal (median <= 10 % to 99 %, no workload of a seed below 97 % there): {'met' if met else 'NOT met'}")
    print(f"{seconds:.0f} s")
    return 0 if met else 1


def _relative(hours: float | None, total: float) -> float:
    return np.inf if hours is None else hours / total


def _percent(relative: Sequence[float]) -> str:
    median = float(np.median(relative))
    return f"{median:.1%}" if np.isfinite(median) else "never"


def _within(shares: Sequence[float]) -> str:
    return f"{np.mean(np.array(shares) >= 0.98):.1%} within 2 %, worst {min(shares):.1%}"


if __name__ == "__main__":
    raise SystemExit(main())
