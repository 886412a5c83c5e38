"""The matcher's own answer: every pair of servers within a group's budget, forecast, matched, the best simulated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from benchmarks.real_deployments.simulated import CLUSTERS, bare_sweep, experiment_for, simulate
from benchmarks.real_deployments.table import Row
from ratematch.errors import RatematchError
from ratematch.match.analysis import analyze_workload
from ratematch.match.points import Point
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment
from ratematch.plan.expansion import experiment_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.sweep import Sweep
from ratematch.simulate.forecasts import forecast_experiment, to_measurement

from .group import Chosen, Group

MOST_SLOTS, MOST_DP_SLOTS = 256, 1024
"""Sequence slots of a gen server without attention DP, and of each rank with it."""
MOST_PROMPTS = 32
"""Prompts in flight of a context server, for each of its ranks."""
PAIRS, PAIRS_OF_GROUP = 3, 8
"""Pairs of servers that are simulated from end to end for each tok/s/user, and more where a group has few of them."""
FAST_ENOUGH = 0.95
"""Of a published tok/s/user. TPOT is predicted to 4 or 5 % in the median, and published points lie where one server
more or one request fewer is a step: held to the last per cent, half of the published deployments themselves would be
too slow in the model."""
STEP, TRIES = 1.15, 2
"""Each pair is simulated with the requests in flight that were forecast, then with fewer until it is fast enough, or
with more as long as it is."""
LOADS_AN_OCTAVE = 4


@dataclass(frozen=True)
class Candidate:
    """A deployment as it was simulated from end to end; ``forecast``: tok/s/GPU before that."""

    chosen: Chosen
    tok_s_user: float
    tok_s_gpu: float
    ttft_ms: float
    forecast: float


@dataclass
class Search:
    """Everything that is forecast and simulated for one group. ``refused``: servers that would not start."""

    group: Group
    requests_per_slot: float = 10
    refused: int = 0
    points: list[Point] = field(default_factory=list)
    simulated: dict[Chosen, Candidate] = field(default_factory=dict)

    def forecast(self) -> None:
        """Forecast all servers alone and match them."""
        group, sweep = self.group, _sweep_of(self.group)
        rows = [row for mtp in group.drafts for row in self._forecast_servers(sweep, mtp)]
        workload = next(row.experiment.workload for row in rows if row.experiment.stage == "gen")
        analysis = analyze_workload(rows, workload, Question(max_gpus=group.budget, draws=0))
        self.points = [*analysis.plans, *(point for point in analysis.measured if point.kind == "ifb")]

    def _forecast_servers(self, sweep: Sweep, mtp: int) -> Iterable[Measured]:
        for role in ("ctx", "gen", "agg"):
            for mapping in self.group.mappings(role):
                rows = _forecast_one(self.group, sweep, Server(role, mapping, mtp))
                self.refused += not rows
                yield from rows

    def answers(self, tok_s_user: float) -> list[Candidate]:
        """Deployments with ``FAST_ENOUGH`` of these tok/s/user, best first: of each of the pairs that are best by
        forecast the best, simulated; empty where nothing is so fast."""
        rows, least = self.group.rows, tok_s_user * FAST_ENOUGH
        most = max(row.concurrency for row in rows)
        within = (point for point in self.points if point.tok_s_user >= least and point.concurrency <= most)
        best: dict[tuple[str, str, int], Point] = {}
        for point in sorted(within, key=_most_first):
            best.setdefault(_chosen(point).servers, point)
        pairs = list(best.values())[: max(PAIRS, PAIRS_OF_GROUP // len(rows))]
        reached = [self._reach(point, least) for point in pairs]
        return sorted((each for each in reached if each), key=lambda each: -each.tok_s_gpu)

    def _reach(self, point: Point, tok_s_user: float) -> Candidate | None:
        chosen, best, more = _chosen(point), None, None
        for _ in range(TRIES):
            candidate = self.run(chosen, point)
            if candidate is None:
                return best
            enough = candidate.tok_s_user >= tok_s_user
            if enough and (best is None or candidate.tok_s_gpu > best.tok_s_gpu):
                best = candidate
            if more is not None and enough != more:
                return best
            more = enough
            chosen = replace(chosen, concurrency=_other(chosen.concurrency, more=more))
        return best

    def run(self, chosen: Chosen, point: Point) -> Candidate | None:
        """``chosen`` from end to end, once; ``None`` where it would not start."""
        if chosen not in self.simulated:
            try:
                figures = simulate(self.group.row_of(chosen), requests_per_slot=self.requests_per_slot)
            except RatematchError:
                self.refused += 1
                return None
            self.simulated[chosen] = Candidate(
                chosen, 1000 / figures.tpot_ms, figures.tok_s_gpu, figures.ttft_ms, point.tok_s_gpu
            )
        return self.simulated[chosen]


@dataclass(frozen=True)
class Server:
    """One kind of server: its role (``ctx``, ``gen``, ``agg``), mapping and drafts."""

    role: str
    mapping: str
    mtp: int


def _sweep_of(group: Group) -> Sweep:
    gpu = group.rows[0].gpu
    return bare_sweep(CLUSTERS.get(gpu, gpu), "roofline")


def _most_first(point: Point) -> tuple[float, int]:
    return (-point.tok_s_gpu, point.gpus)


def _chosen(point: Point) -> Chosen:
    concurrency = max(1, round(point.concurrency))
    return Chosen(
        point.ctx, point.ctx_mapping or "", max(1, point.gen), point.gen_mapping or "", point.mtp, concurrency
    )


def _other(concurrency: int, *, more: bool) -> int:
    """The next number of requests in flight to try: at least one more, or one less as long as there is one."""
    if more:
        return max(concurrency + 1, round(concurrency * STEP))
    return max(1, min(concurrency - 1, round(concurrency / STEP)))


def _ladder(most: int) -> list[int]:
    """Requests in flight from 1 to ``most``, evenly spaced by their logarithms."""
    steps = int(LOADS_AN_OCTAVE * math.log2(most))
    return sorted({most, *(round(2 ** (k / LOADS_AN_OCTAVE)) for k in range(steps + 1))})


def _forecast_one(group: Group, sweep: Sweep, server: Server) -> list[Measured]:
    """Forecasts of one server over its loads, with as many slots as fit its memory; empty where none do."""
    dp = parse_mapping(server.mapping).attention_dp
    slots = 1 if server.role == "ctx" else MOST_DP_SLOTS if dp else MOST_SLOTS
    while slots:
        experiment = _experiment(group, sweep, server, slots)
        try:
            forecasts = forecast_experiment(experiment, sweep.cluster)
        except RatematchError:
            slots //= 2
            continue
        return [Measured(experiment, load, to_measurement(each)) for load, each in forecasts.items()]
    return []


def _experiment(group: Group, sweep: Sweep, server: Server, slots: int) -> Experiment:
    ranks = parse_mapping(server.mapping).dp_ranks
    most = (MOST_PROMPTS if server.role == "ctx" else slots) * ranks
    whole = experiment_for(_row(group, server, slots, most), sweep, Concurrency(most, 1))
    steps = tuple(Concurrency(load, 1) for load in _ladder(most))
    own = whole.deployment
    match server.role:
        case "ctx":
            one_token = replace(whole.workload, osl=1, osl_ratio=1.0)
            return experiment_of(sweep, "ctx", Deployment(ctx=own.ctx), one_token, steps)
        case "gen":
            return experiment_of(sweep, "gen", Deployment(gen=own.gen), whole.workload, steps)
        case _:
            return experiment_of(sweep, "ifb", own, whole.workload, steps)


def _row(group: Group, server: Server, slots: int, most: int) -> Row:
    """A row with ``server`` in it; of ctx and gen servers the other side is of no account."""
    if server.role == "agg":
        return group.row_of(Chosen(0, "", 1, server.mapping, server.mtp, most), slots)
    return group.row_of(Chosen(1, server.mapping, 1, server.mapping, server.mtp, most), slots)
