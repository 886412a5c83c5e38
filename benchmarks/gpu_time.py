"""How much of the GPU-time of a sweep on a machine with two GPUs is spent measuring, before and after.

Replays ``sweeps/qwen3-8b-vllm.yaml`` by the rules that the product starts experiments with (which goes next on free
GPUs, which share one start of servers), with the times of a real run in place of servers: seconds that each start and
each load took, read from its results folder. Nothing runs, no clock is waited for.

    python benchmarks/gpu_time.py RESULTS

Where the real run has no such load, its time is derived: between two measured
concurrencies the seconds of a request are read linearly; more output tokens cost the TPOT that the gen server alone
had at that concurrency; aggregated servers on two GPUs are taken to need :data:`TP2` of the time of one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratematch.campaign.jobs.here import left_alone
from ratematch.campaign.precheck import expand_sweep
from ratematch.inputs.find import read_sweep
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.packs import Piece, next_to_start
from ratematch.run.sharing import share_servers
from ratematch.store.folder import ExperimentFolder, Results

GPUS = 2
TP2 = 0.65
COMPILED_S = 25.0
"""By which a start is shorter whose servers find what they compile: 29.8 s became 5.0 (real run, section 6)."""
BETWEEN_S = 2.0
"""Controller and teardown, an experiment (real run: 2.1 s)."""

Key = tuple[str, int, int]
"""Stage, tokens of a KV block (0: any), output tokens."""


Pick = Callable[[Experiment], Experiment | None]
"""What is replayed of an experiment; ``None``: nothing."""


@dataclass(frozen=True)
class RealTimes:
    """``slots``: seconds of a request in its slot, by concurrency. ``starts``: seconds of a start, by stage.
    ``between``: seconds of a load beside its measured part, by stage. ``tpot``: seconds a token of gen servers."""

    slots: Mapping[Key, Mapping[int, float]]
    starts: Mapping[str, float]
    between: Mapping[str, float]
    tpot: Mapping[int, float]

    def seconds(self, stage: str, block: int, osl: int, gpus: int, load: Load) -> tuple[float, bool]:
        """What ``load`` takes, and whether the real run has it."""
        assert isinstance(load, Concurrency)
        known = self.slots.get((stage, block, osl), {})
        at = load.concurrency
        measured = at in known and gpus <= (2 if stage == "e2e" else 1)
        if at in known:
            slot = known[at]
        else:
            base_osl = osl if known else 256
            slot = between(known or self.slots[stage, block, base_osl], at)
            slot += (osl - base_osl) * between(self.tpot, at) if stage != "ctx" else 0.0
        if stage == "ifb" and gpus > 1:
            slot *= TP2
        return slot * load.num_requests / at + self.between[stage], measured


def between(points: Mapping[int, float], at: int) -> float:
    """Linear between the two nearest, the nearest one beyond the ends."""
    below, above = [x for x in points if x <= at], [x for x in points if x >= at]
    if not below or not above:
        return points[min(points) if not below else max(points)]
    low, high = max(below), min(above)
    share = (at - low) / (high - low) if high > low else 0.0
    return points[low] + share * (points[high] - points[low])


def block_of(experiment: Experiment) -> int:
    return int(experiment.deployment.groups[-1].options.get("block_size", 16))


def key_of(experiment: Experiment) -> Key:
    stage = experiment.stage
    return stage, 0 if stage == "ifb" else block_of(experiment), 0 if stage == "ctx" else experiment.workload.osl


def read_times(path: Path) -> RealTimes:
    """The times of the real run in the results folder ``path``."""
    slots: dict[Key, dict[int, float]] = {}
    starts: dict[str, list[float]] = {}
    beside: dict[str, list[float]] = {}
    tpot: dict[int, float] = {}
    for stored in Results(path).now().experiments:
        key, loads = key_of(stored.experiment), 0.0
        for load in stored.loads:
            assert isinstance(load.load, Concurrency) and load.run.end_ns and load.run.start_ns
            seconds = (load.run.end_ns - load.run.start_ns) / 1e9
            at = load.load.concurrency
            slots.setdefault(key, {})[at] = seconds * at / load.load.num_requests
            loads += seconds
            if key[0] == "gen" and load.measurement.tpot_ms:
                tpot.setdefault(at, load.measurement.tpot_ms.mean / 1000)
        outcome = stored.outcome
        if outcome is not None and outcome.ok and stored.loads:
            starts.setdefault(key[0], []).append(outcome.starting_s)
            beside.setdefault(key[0], []).append((outcome.measuring_s - loads) / len(stored.loads))

    def mean(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {name: sum(each) / len(each) for name, each in values.items()}

    return RealTimes(slots, mean(starts), mean(beside), tpot)


@dataclass(frozen=True)
class Rules:
    """What the product does: experiments at once, servers shared, compile cache found, starts apart from
    measurements."""

    at_once: bool = False
    shared: bool = False
    cached: bool = False
    apart: bool = False


@dataclass
class Spent:
    """GPU-seconds."""

    measuring: float = 0.0
    starting: float = 0.0
    held: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.measuring + other.measuring, self.starting + other.starting, self.held + other.held)


@dataclass
class Running:
    """An experiment under way: when its servers are ready, and when it is over."""

    gpus: int
    ready: float
    end: float


def replay(folders: Sequence[ExperimentFolder], times: RealTimes, rules: Rules, cached: bool) -> Spent:
    """One stage of a sweep: all of ``folders`` on :data:`GPUS` GPUs. ``cached``: its servers were compiled before."""
    waiting, running, now = list(folders), list[Running](), 0.0
    spent = Spent()
    while waiting or running:
        free = GPUS - sum(each.gpus for each in running)
        pieces = [Piece(f.path.name, f.read().deployment.gpus, 1.0) for f in waiting]
        ends = [(each.end, each.gpus) for each in running]
        index = next_to_start(pieces, free, ends, now) if waiting and (rules.at_once or not running) else None
        if index is None:
            now = min(each.end for each in running)
            running = [each for each in running if each.end > now]
            continue
        first, gpus = waiting[index], pieces[index].nodes
        others = [folder for folder in waiting if folder is not first]
        together = share_servers(first, others) if rules.shared else (first,)
        if rules.at_once and left_alone(together, others, free - gpus):
            together = (first,)
        start = times.starts[first.read().stage] - (COMPILED_S if cached and rules.cached else 0.0)
        loads = sum(seconds_of(folder, times) for folder in together)
        waiting = [folder for folder in waiting if folder.path not in {each.path for each in together}]
        running.append(_begin(running, now, start, loads, gpus, rules))
        spent += Spent(loads * gpus, start * gpus)
    return spent + Spent(held=now * GPUS)


def _begin(running: Sequence[Running], now: float, start: float, loads: float, gpus: int, rules: Rules) -> Running:
    """An experiment that starts now, or, where a start and a measurement wait for each other, when it may; what
    starts beside it then measures no sooner than it does."""
    begin = now
    if rules.apart:
        begin = max([now, *(each.end for each in running if each.ready <= now)])
    ready = begin + start
    if rules.apart:
        starting = [each for each in running if each.ready > now]
        ready = max([ready, *(each.ready for each in starting)])
        for each in starting:
            each.end += ready - each.ready
            each.ready = ready
    return Running(gpus, ready, ready + loads + BETWEEN_S)


def seconds_of(folder: ExperimentFolder, times: RealTimes) -> float:
    experiment = folder.read()
    key = key_of(experiment)
    return sum(times.seconds(*key, experiment.deployment.gpus, load)[0] for load in experiment.loads)


def whole_sweep(results: Results, rules: Rules, times: RealTimes, pick: Pick) -> Spent:
    """The sweep of the seed file, or the part of it that ``pick`` leaves."""
    profile = results.path / "bench.yaml"
    profile.write_text(f"name: bench\ngpu: h200\ngpus_per_node: {GPUS}\nnodes: 1\ncheck_paths: false\n")
    sweep, _ = read_sweep("sweeps/qwen3-8b-vllm.yaml", ("engine.version=0.24",), str(profile))
    cluster = sweep.cluster
    chosen = [picked for each in expand_sweep(sweep).experiments if (picked := pick(each)) is not None]
    apart = [results.add(each, cluster) for each in chosen]
    pairs = []
    for ctx in (each for each in chosen if each.stage == "ctx"):
        for gen in (each for each in chosen if each.stage == "gen" and block_of(each) == block_of(ctx)):
            pair = Deployment(ctx=ctx.deployment.ctx, gen=gen.deployment.gen)
            assert sweep.e2e is not None
            at = [Concurrency(c, max(16, 4 * c), c // 4) for c in sweep.e2e.loads.concurrency]
            wanted = pick(replace(gen, stage="e2e", deployment=pair, loads=tuple(at)))
            if wanted is not None:
                pairs.append(results.add(wanted, cluster))
    return replay(apart, times, rules, cached=False) + replay(pairs, times, rules, cached=True)


def measured_only(times: RealTimes) -> Pick:
    """Of each experiment the loads that the real run has."""

    def pick(experiment: Experiment) -> Experiment | None:
        if experiment.stage == "ifb" and experiment.deployment.gpus > 1:
            return None
        known = times.slots.get(key_of(experiment), {})
        closed = (load for load in experiment.loads if isinstance(load, Concurrency))
        loads = tuple(load for load in closed if load.concurrency in known)
        return replace(experiment, loads=loads) if loads else None

    return pick


def main(path: Path) -> None:
    times = read_times(path)
    steps = {
        "before: one experiment at a time": Rules(),
        "(a) both GPUs at once": Rules(at_once=True),
        "(b) and the compile cache is found": Rules(at_once=True, cached=True),
        "(e) and one start for both output lengths": Rules(at_once=True, cached=True, shared=True),
        "the same with starts apart from measurements": Rules(at_once=True, cached=True, shared=True, apart=True),
        "(e) alone, one at a time": Rules(shared=True),
    }
    sweeps: dict[str, Pick] = {
        "the whole sweep (loads that were not run: derived)": lambda experiment: experiment,
        "only loads that the real run has": measured_only(times),
    }
    for name, pick in sweeps.items():
        print(name)
        for words, rules in steps.items():
            with tempfile.TemporaryDirectory() as folder:
                spent = whole_sweep(Results(Path(folder)), rules, times, pick)
            rest = spent.held - spent.measuring - spent.starting
            print(
                f"  {words:44s} {spent.measuring:6.0f} of {spent.held:6.0f} GPU-s measuring: "
                f"{spent.measuring / spent.held:4.0%}   starting {spent.starting / spent.held:4.0%}, "
                f"unused and between {rest / spent.held:4.0%}, {spent.held / GPUS / 60:5.1f} min"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
