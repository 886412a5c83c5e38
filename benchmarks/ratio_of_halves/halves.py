"""Servers of a case in virtual time: each kind alone, and whole deployments, measured as a sweep measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.real_deployments.simulated import CLUSTERS, bare_sweep
from ratematch.analysis.rows import find_layout
from ratematch.inputs.catalog import load_gpu
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import measure_load
from ratematch.plan.deployment import Deployment, Role, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.experiment import Experiment, seed_of
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.precision import read_precision, usual_or
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

from .cases import Case

REQUESTS_PER_SLOT, LEAST_REQUESTS = 5, 64
FULL_STEPS, STEP_TOKENS = 4, 8192
"""Prompts in flight of a context server at most, in steps of all its ranks: with more, more only wait."""
STREAM_INTERVAL = 20


def sweep_of(case: Case) -> Sweep:
    """Where the servers of ``case`` would run."""
    return bare_sweep(CLUSTERS.get(case.gpu, case.gpu), "roofline")


def workload_of(case: Case, sweep: Sweep) -> Workload:
    gpu = load_gpu(sweep.cluster.gpu)
    precision = usual_or(sweep.model, gpu, read_precision(case.precision, gpu))
    return Workload(case.isl, case.osl, case.length_ratio, case.length_ratio, precision=precision)


def _ladder(most: int) -> list[int]:
    """Powers of two up to ``most``, and ``most``."""
    return sorted({*(1 << k for k in range(most.bit_length())), most})


def _group(case: Case, role: Role, instances: int) -> ServerGroup:
    mapping = parse_mapping(case.ctx if role == "ctx" else case.gen)
    if role == "ctx":
        return ServerGroup(role, mapping, instances, case.mtp, options={"disable_overlap_scheduler": True})
    options = {"stream_interval": STREAM_INTERVAL}
    return ServerGroup(role, mapping, instances, case.mtp, case.gen_batch, options=options)


def _load(concurrency: int) -> Concurrency:
    return Concurrency(concurrency, max(LEAST_REQUESTS, REQUESTS_PER_SLOT * concurrency))


def measure_halves(case: Case) -> list[Measured]:
    """The context server alone and the generation server alone, each over a ladder of loads."""
    sweep = sweep_of(case)
    workload = workload_of(case, sweep)
    ctx, gen = _group(case, "ctx", 1), _group(case, "gen", 1)
    prompts = _ladder(FULL_STEPS * max(1, STEP_TOKENS // case.isl) * ctx.mapping.dp_ranks)
    slots = _ladder(case.gen_batch * gen.mapping.dp_ranks)
    one_token = replace(workload, osl=1, osl_ratio=1.0)
    return [
        *_measure(experiment_of(sweep, "ctx", Deployment(ctx=ctx), one_token, _loads(prompts)), sweep),
        *_measure(experiment_of(sweep, "gen", Deployment(gen=gen), workload, _loads(slots)), sweep),
    ]


def measure_whole(case: Case, x: int, y: int, concurrencies: Sequence[int]) -> list[Measured]:
    """``x`` context and ``y`` generation servers together, at each of ``concurrencies``."""
    sweep = sweep_of(case)
    deployment = Deployment(ctx=_group(case, "ctx", x), gen=_group(case, "gen", y))
    workload = workload_of(case, sweep)
    return _measure(experiment_of(sweep, "e2e", deployment, workload, _loads(concurrencies)), sweep)


def _loads(concurrencies: Sequence[int]) -> tuple[Load, ...]:
    return tuple(_load(concurrency) for concurrency in concurrencies)


def _measure(experiment: Experiment, sweep: Sweep) -> list[Measured]:
    service = Service(plan_simulation(experiment, sweep.cluster), Timeline())
    layout = find_layout(experiment)
    rows = []
    for load in experiment.loads:
        result = simulate_load(service, experiment.workload, load, seed_of(experiment, load))
        figures = measure_load(result.records, load, experiment.workload, client=result.health)
        rows.append(Measured(experiment, load, figures, layout=layout))
    return rows
