"""How many GPUs an open-loop request rate needs within limits, before anything is measured.

Servers are forecast alone, as :mod:`ratematch.simulate.forecasts` does, and :mod:`ratematch.match.openloop` finds the
smallest deployment of each pair. Queueing theory does not know all that servers do, so deployments are run in virtual
time at that rate, the smallest first; one that breaks a limit comes again with one server more of the kind at fault.

Servers that are all slower by a factor are the same servers in slower time: they are run at the rate over it, and
their times are divided by it. So both ends of the interval are searched in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ratematch.analysis.rows import find_links
from ratematch.errors import UserError
from ratematch.match.analysis import find_pairs, select_workload
from ratematch.match.feasibility import Links
from ratematch.match.figures import collect_figures
from ratematch.match.openloop import fewest_aggregated, plan_serving
from ratematch.match.pairs import Pair, deploy, label_deployment
from ratematch.match.points import ServingPlan
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement, measure_load
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.expansion import experiment_of
from ratematch.plan.experiment import Experiment, seed_of
from ratematch.plan.load import Constraints, Rate
from ratematch.plan.parallelism import family_name
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.search.families import FamilyEffect
from ratematch.simulate.calibration import Calibration
from ratematch.simulate.forecasts import Prediction, predict_sweep, to_measurement
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.steadystate import Forecast
from ratematch.simulate.timeline import Timeline

Z95 = 1.96
SECONDS, LEAST_REQUESTS, MOST_REQUESTS = 120.0, 2000, 10_000
"""Of a run in virtual time: so long; at least so many that 20 are beyond the 99th percentile; these do."""
FILLING = 2.0
"""Times the time of one request before its requests count: servers are full by then."""
LASTING = 3.0
"""Times the time of one request that the counted ones are sent for, however many they are: in less, more arrive than
end (no rate can be taken in the first one and a half), and a deployment that keeps up seems overloaded."""
MOST_RUNS, MOST_PAIRS = 12, 40
"""Deployments that are run at most, and pairs, the smallest ones, that they are of."""


@dataclass(frozen=True)
class Run:
    """A deployment in virtual time at the rate. ``broken``: what was not kept, in words; empty where all was."""

    label: str
    ctx: int
    gen: int
    gpus: int
    requests: int
    ttft_ms: float
    tpot_ms: float
    ttft_limit_ms: float
    tpot_limit_ms: float
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Sized:
    """What one workload needs. ``plans``: the smallest deployment of each pair of servers, fewest GPUs first.

    ``runs``: deployments in virtual time, the last one is the answer where it keeps all limits. ``low`` and ``high``:
    GPUs of the answer if all servers were as fast, or as slow, as 95 % of them are at most; ``None``: then none was
    found. ``aggregated``: label and GPUs of the fewest aggregated servers, without any queue: no
    fewer do; ``None`` where none keeps the limits. ``lacking``: the stages without any server that was forecast.
    """

    workload: str
    plans: tuple[ServingPlan, ...]
    low: int | None
    high: int | None
    runs: tuple[Run, ...]
    aggregated: tuple[str, int] | None
    lacking: tuple[str, ...] = ()

    @property
    def answer(self) -> Run | None:
        """The deployment that keeps all limits in virtual time; ``None`` where none did."""
        return self.runs[-1] if self.runs and not self.runs[-1].broken else None


@dataclass(frozen=True)
class Sizing:
    """The answer to a question of size. ``prediction``: what it stands on."""

    question: Question
    workloads: tuple[Sized, ...]
    prediction: Prediction


def size_sweep(
    sweep: Sweep, experiments: Sequence[Experiment], question: Question, calibration: Calibration | None = None
) -> Sizing:
    """The smallest deployments of the servers in ``experiments`` that serve ``question.request_rate``.

    Raises:
        UserError: the question has no request rate. RatematchError: servers would not start.
    """
    if question.request_rate is None:
        raise UserError("a size needs a request rate")
    prediction = predict_sweep(sweep, experiments, None, calibration)
    effects = {effect.family: effect for effect in prediction.effects}
    links = find_links(prediction.rows) if prediction.rows else None
    sized = []
    for workload in sweep.workloads:
        of = links.at_isl(workload.isl) if links is not None else None
        found = {z: _smallest(_faster(prediction.rows, effects, z), workload, question, of) for z in (-Z95, 0.0, Z95)}
        runs = {z: _search(_Trial(sweep, workload, question, effects, z), plans) for z, plans in found.items()}
        of_servers, _ = collect_figures(select_workload(prediction.rows, workload), question.constraints)
        sized.append(
            Sized(
                workload=workload.label,
                plans=tuple(plan for _, plan in found[0.0]),
                low=_gpus(runs[Z95]),
                high=_gpus(runs[-Z95]),
                runs=runs[0.0],
                aggregated=fewest_aggregated(of_servers, question),
                lacking=_lacking(prediction.rows, workload),
            )
        )
    return Sizing(question, tuple(sized), prediction)


def _lacking(rows: Sequence[Measured], workload: Workload) -> tuple[str, ...]:
    there = {row.experiment.stage for row in select_workload(rows, workload)}
    return tuple(stage for stage in ("ctx", "gen") if stage not in there)


def _gpus(runs: Sequence[Run]) -> int | None:
    return runs[-1].gpus if runs and not runs[-1].broken else None


def _faster(rows: Sequence[Measured], effects: Mapping[str, FamilyEffect], z: float) -> list[Measured]:
    """``rows`` with every server ``z`` standard deviations faster than predicted."""
    faster = []
    for row in rows:
        family = family_name(row.experiment.stage, row.experiment.deployment.groups[-1].mapping.label)
        figures = row.measurement
        assert figures.req_s and figures.ttft_ms and figures.osl_mean
        forecast = Forecast(
            concurrency=round(figures.in_flight or 0),
            req_s=figures.req_s,
            ttft_s=figures.ttft_ms.mean / 1000,
            tpot_s=figures.tpot_ms.mean / 1000 if figures.tpot_ms else 0.0,
            osl=figures.osl_mean,
        )
        factor = math.exp(z * effects[family].total_sd)
        faster.append(replace(row, measurement=to_measurement(forecast, factor)))
    return faster


def _smallest(
    rows: Sequence[Measured], workload: Workload, question: Question, links: Links | None
) -> list[tuple[Pair, ServingPlan]]:
    """The smallest deployment of each pair, fewest GPUs first. TTFT is judged with its queue, not before."""
    limits = replace(question.constraints, ttft_ms=None)
    figures, _ = collect_figures(select_workload(rows, workload), limits)
    found = [(pair, plan) for pair in find_pairs(figures, limits) for plan in plan_serving([pair], question, links)]
    return sorted(found, key=lambda each: (each[1].gpus, _strain(each[1], question), each[1].label))


def _strain(plan: ServingPlan, question: Question) -> float:
    """How near a plan is to its limits: of several of one size the one with more room is tried first."""
    ttft = plan.ttft_limit_ms / question.ttft_ms if question.ttft_ms else 0.0
    tpot = plan.tpot_limit_ms / question.tpot_ms if question.tpot_ms else 0.0
    return ttft + tpot


@dataclass(frozen=True)
class _Trial:
    """Where deployments are tried. ``z``: standard deviations by which all servers are faster than predicted."""

    sweep: Sweep
    workload: Workload
    question: Question
    effects: Mapping[str, FamilyEffect]
    z: float

    def speed(self, pair: Pair) -> float:
        """Of the pair's servers over the predicted one, by the less known of the two families."""
        names = (("ctx", pair.ctx.servers.mapping), ("gen", pair.gen.servers.mapping))
        return math.exp(self.z * max(self.effects[family_name(role, of.label)].total_sd for role, of in names))

    def run(self, pair: Pair, ctx: int, gen: int, plan: ServingPlan) -> Run:
        """So many servers of ``pair`` in virtual time. ``plan``: what its requests take, for the warm-up."""
        sweep, req_s, speed = self.sweep, self.question.request_rate, self.speed(pair)
        assert req_s is not None
        ctx_group, gen_group = deploy(pair, ctx, gen)
        deployment = Deployment(ctx=ctx_group, gen=gen_group)
        load = _load(req_s, speed, plan.ttft_limit_ms / 1000 + self.workload.osl * plan.tpot_limit_ms / 1000)
        experiment = experiment_of(sweep, "e2e", deployment, self.workload, (load,))
        room = replace(sweep.cluster, nodes=max(sweep.cluster.nodes, deployment.gpus))
        figures = _simulate(experiment, load, room)
        counts = ctx, gen, deployment.gpus
        return _judge(figures, label_deployment(pair, ctx, gen), counts, speed, self.question.constraints)


def _search(trial: _Trial, found: Sequence[tuple[Pair, ServingPlan]]) -> tuple[Run, ...]:
    """Deployments in virtual time, fewest GPUs first, up to the first that keeps all limits; each that does not comes
    again with a server more of the kind at fault."""
    waiting = [
        (plan.gpus, rank, plan.ctx, plan.gen, pair, plan) for rank, (pair, plan) in enumerate(found[:MOST_PAIRS])
    ]
    runs: list[Run] = []
    while waiting and len(runs) < MOST_RUNS:
        waiting.sort(key=lambda each: each[:2])
        _, rank, ctx, gen, pair, plan = waiting.pop(0)
        run = trial.run(pair, ctx, gen, plan)
        runs.append(run)
        if not run.broken:
            break
        more_ctx = any(reason.startswith("TTFT ") for reason in run.broken)
        more_gen = any(reason.startswith("TPOT ") for reason in run.broken)
        if more_ctx or more_gen:  # anything else more servers do not mend
            ctx, gen = ctx + more_ctx, gen + more_gen
            gpus = ctx * pair.ctx.servers.mapping.gpus + gen * pair.gen.servers.mapping.gpus
            waiting.append((gpus, rank, ctx, gen, pair, plan))
    return tuple(runs)


def _load(req_s: float, speed: float, seconds_each: float) -> Rate:
    usual = min(MOST_REQUESTS, math.ceil(SECONDS * req_s))
    requests = max(LEAST_REQUESTS, usual, math.ceil(LASTING * seconds_each * req_s))
    return Rate(req_s / speed, requests, warmup=math.ceil(FILLING * seconds_each * req_s))


def _simulate(experiment: Experiment, load: Rate, cluster: Cluster) -> Measurement:
    service = Service(plan_simulation(experiment, cluster), Timeline())
    result = simulate_load(service, experiment.workload, load, seed_of(experiment, load))
    return measure_load(result.records, load, experiment.workload, client=result.health)


def _judge(figures: Measurement, label: str, counts: tuple[int, int, int], speed: float, limits: Constraints) -> Run:
    """Times of servers that are ``speed`` as fast as those that ran."""
    broken = [] if figures.valid else list(figures.reasons)
    mean, at = {}, {}
    for name, stats, limit in (
        ("TTFT", figures.ttft_ms, limits.ttft_ms),
        ("TPOT", figures.tpot_ms, limits.tpot_ms),
    ):
        mean[name] = stats.mean / speed if stats else math.nan
        at[name] = stats.at(limits.percentile) / speed if stats else math.nan
        if limit is not None and not at[name] <= limit:
            broken.append(f"{name} {at[name]:.0f} ms, over {limit:g}")
    ctx, gen, gpus = counts
    return Run(
        label, ctx, gen, gpus, figures.num_requests, mean["TTFT"], mean["TPOT"], at["TTFT"], at["TPOT"], tuple(broken)
    )
