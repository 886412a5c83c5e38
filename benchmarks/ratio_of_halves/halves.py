"""Servers of a case in virtual time: each kind alone, and whole deployments, measured as a sweep measures them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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
LEAST_OF_WHOLE = 256
"""Requests of a whole deployment at least: of fewer the mean TTFT is one draw of many."""
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


def _ladder(most: int, step: float) -> list[int]:
    """Powers of ``step`` up to ``most``, and ``most``."""
    return sorted({*(round(step**k) for k in range(1 + int(math.log(most, step)))), most})


def _group(case: Case, role: Role, instances: int) -> ServerGroup:
    mapping = parse_mapping(case.ctx if role == "ctx" else case.gen)
    if role == "ctx":
        return ServerGroup(role, mapping, instances, case.mtp, options={"disable_overlap_scheduler": True})
    options = {"stream_interval": STREAM_INTERVAL}
    return ServerGroup(role, mapping, instances, case.mtp, case.gen_batch, options=options)


def _load(concurrency: int, least: int = LEAST_REQUESTS, stagger_s: float = 0.0) -> Concurrency:
    return Concurrency(concurrency, max(least, REQUESTS_PER_SLOT * concurrency), stagger_s=stagger_s)


def measure_halves(case: Case, step: float) -> list[Measured]:
    """The context server alone and the generation server alone, each over a ladder of loads ``step`` apart."""
    sweep = sweep_of(case)
    workload = workload_of(case, sweep)
    ctx, gen = _group(case, "ctx", 1), _group(case, "gen", 1)
    prompts = _ladder(FULL_STEPS * max(1, STEP_TOKENS // case.isl) * ctx.mapping.dp_ranks, step)
    slots = _ladder(case.gen_batch * gen.mapping.dp_ranks, step)
    one_token = replace(workload, osl=1, osl_ratio=1.0)
    return [
        *_measure(experiment_of(sweep, "ctx", Deployment(ctx=ctx), one_token, _loads(prompts)), sweep),
        *_measure(experiment_of(sweep, "gen", Deployment(gen=gen), workload, _loads(slots)), sweep),
    ]


def measure_whole(
    case: Case, x: int, y: int, concurrencies: Sequence[int], lives_s: Sequence[float] | None = None
) -> list[Measured]:
    """``x`` context and ``y`` generation servers together, at each of ``concurrencies``. ``lives_s``: the time over
    which the slots of each start; ``None``: all at once."""
    sweep = sweep_of(case)
    deployment = Deployment(ctx=_group(case, "ctx", x), gen=_group(case, "gen", y))
    if lives_s is None:
        loads = _loads(concurrencies)
    else:
        loads = tuple(_load(n, LEAST_OF_WHOLE, life_s) for n, life_s in zip(concurrencies, lives_s, strict=True))
    return _measure(experiment_of(sweep, "e2e", deployment, workload_of(case, sweep), loads), sweep)


def life_s(alone: Sequence[Measured], concurrency: float) -> float:
    """How long a request of a deployment lives that waits for nobody, ``concurrency`` of them in each gen server, s:
    TTFT of a prompt alone, and its tokens at the TPOT that the gen server has alone."""
    ttft_ms, lives = 0.0, []
    for row in alone:
        figures = row.measurement
        assert isinstance(row.load, Concurrency) and figures.osl_mean
        if figures.tpot_ms and row.experiment.stage == "gen":
            lives.append((row.load.concurrency, figures.osl_mean * figures.tpot_ms.mean))
        elif figures.ttft_ms and row.load.concurrency == 1:
            ttft_ms = figures.ttft_ms.mean
    loads, values = (np.array(column) for column in zip(*sorted(lives), strict=True))
    return (ttft_ms + float(np.interp(concurrency, loads, values))) / 1000


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
