"""How many GPUs an open-loop request rate needs within limits, before anything is measured.

Servers are forecast alone, as :mod:`ratematch.simulate.forecasts` does, and :mod:`ratematch.match.openloop` finds the
smallest deployment of each pair. Queueing theory does not know all that servers do, so the smallest one is run in
virtual time at that rate, and given one server more of the kind that breaks a limit, until it keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ratematch.analysis.rows import find_links
from ratematch.errors import UserError
from ratematch.match.analysis import find_pairs, select_workload
from ratematch.match.feasibility import Links
from ratematch.match.figures import collect_figures, select_stage
from ratematch.match.openloop import plan_serving
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
MOST_RUNS = 8


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

    ``low`` and ``high``: GPUs of the smallest one if all servers were as fast, or as slow, as 95 % of them are at
    most; ``None``: then none keeps the limits. ``runs``: deployments in virtual time, the last one is the answer
    where it keeps all limits. ``aggregated``: label and GPUs of the fewest aggregated servers, without any queue: no
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
        runs = tuple(_runs(sweep, workload, question, found[0.0][0])) if found[0.0] else ()
        sized.append(
            Sized(
                workload=workload.label,
                plans=tuple(plan for _, plan in found[0.0]),
                low=_gpus(found[Z95]),
                high=_gpus(found[-Z95]),
                runs=runs,
                aggregated=_aggregated(prediction.rows, workload, question),
                lacking=_lacking(prediction.rows, workload),
            )
        )
    return Sizing(question, tuple(sized), prediction)


def _lacking(rows: Sequence[Measured], workload: Workload) -> tuple[str, ...]:
    there = {row.experiment.stage for row in select_workload(rows, workload)}
    return tuple(stage for stage in ("ctx", "gen") if stage not in there)


def _gpus(found: Sequence[tuple[Pair, ServingPlan]]) -> int | None:
    return found[0][1].gpus if found else None


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
    return sorted(found, key=lambda each: (each[1].gpus, each[1].tpot_ms, each[1].label))


def _runs(sweep: Sweep, workload: Workload, question: Question, smallest: tuple[Pair, ServingPlan]) -> Iterator[Run]:
    """The deployment in virtual time; then with one server more of the kind that breaks a limit, until both hold."""
    pair, plan = smallest
    ctx, gen = plan.ctx, plan.gen
    for _ in range(MOST_RUNS):
        run = _run(sweep, workload, question, pair, ctx, gen, plan)
        yield run
        if not run.broken:
            return
        slow_ctx = any(reason.startswith("TTFT ") for reason in run.broken)
        slow_gen = any(reason.startswith("TPOT ") for reason in run.broken)
        if not slow_ctx and not slow_gen:
            return  # something else, which more servers do not mend
        ctx, gen = ctx + slow_ctx, gen + slow_gen


def _run(
    sweep: Sweep, workload: Workload, question: Question, pair: Pair, ctx: int, gen: int, plan: ServingPlan
) -> Run:
    assert question.request_rate is not None
    ctx_group, gen_group = deploy(pair, ctx, gen)
    deployment = Deployment(ctx=ctx_group, gen=gen_group)
    load = _load(question.request_rate, plan.ttft_limit_ms / 1000 + workload.osl * plan.tpot_limit_ms / 1000)
    experiment = experiment_of(sweep, "e2e", deployment, workload, (load,))
    room = replace(sweep.cluster, nodes=max(sweep.cluster.nodes, deployment.gpus))
    figures = _simulate(experiment, load, room)
    return _judge(figures, label_deployment(pair, ctx, gen), (ctx, gen, deployment.gpus), load, question.constraints)


def _load(req_s: float, seconds_each: float) -> Rate:
    usual = min(MOST_REQUESTS, math.ceil(SECONDS * req_s))
    requests = max(LEAST_REQUESTS, usual, math.ceil(LASTING * seconds_each * req_s))
    return Rate(req_s, requests, warmup=math.ceil(FILLING * seconds_each * req_s))


def _simulate(experiment: Experiment, load: Rate, cluster: Cluster) -> Measurement:
    service = Service(plan_simulation(experiment, cluster), Timeline())
    result = simulate_load(service, experiment.workload, load, seed_of(experiment, load))
    return measure_load(result.records, load, experiment.workload, client=result.health)


def _judge(figures: Measurement, label: str, counts: tuple[int, int, int], load: Rate, limits: Constraints) -> Run:
    broken = [] if figures.valid else list(figures.reasons)
    at: dict[str, float] = {}
    for name, stats, limit in (
        ("TTFT", figures.ttft_ms, limits.ttft_ms),
        ("TPOT", figures.tpot_ms, limits.tpot_ms),
    ):
        at[name] = stats.at(limits.percentile) if stats else math.nan
        if limit is not None and not at[name] <= limit:
            broken.append(f"{name} {at[name]:.0f} ms, over {limit:g}")
    ctx, gen, gpus = counts
    return Run(
        label=label,
        ctx=ctx,
        gen=gen,
        gpus=gpus,
        requests=load.num_requests,
        ttft_ms=figures.ttft_ms.mean if figures.ttft_ms else math.nan,
        tpot_ms=figures.tpot_ms.mean if figures.tpot_ms else math.nan,
        ttft_limit_ms=at["TTFT"],
        tpot_limit_ms=at["TPOT"],
        broken=tuple(broken),
    )


def _aggregated(rows: Sequence[Measured], workload: Workload, question: Question) -> tuple[str, int] | None:
    """Label and GPUs of the fewest aggregated servers that serve the rate, each at the most that it gives within the
    limits in a closed loop, where nothing queues."""
    assert question.request_rate is not None
    figures, _ = collect_figures(select_workload(rows, workload), question.constraints)
    best: tuple[str, int] | None = None
    for row in select_stage(figures, "ifb"):
        if question.tpot_ms is not None and row.tpot_limit_ms > question.tpot_ms:
            continue
        if question.ttft_ms is not None and row.ttft_limit_ms > question.ttft_ms:
            continue
        count = math.ceil(question.request_rate / row.req_s)
        gpus = count * row.experiment.deployment.gpus
        if best is None or gpus < best[1]:
            group = row.experiment.deployment.groups[-1]
            drafts = f", MTP {group.mtp}" if group.mtp else ""
            best = (f"{count} x {group.mapping.label}{drafts}", gpus)
    return best
