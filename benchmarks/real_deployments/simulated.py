"""One measured row as a written-out deployment in virtual time, with the load of the client behind it.

Like with like: that client keeps its concurrency with ten requests a slot, their lengths uniform on [0.8 L, L], and
counts the whole run, its ends included.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median

from ratematch.inputs.catalog import load_gpu
from ratematch.inputs.find import read_sweep
from ratematch.measure.records import RequestRecord
from ratematch.plan.deployment import Deployment, Options, Role, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.precision import read_precision, usual_or
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

from .setup import aggregated_batch, aggregated_options, moe_options, setup_of
from .table import Row, Servers

CLUSTERS = {"gb200": "gb200-nvl72", "gb300": "gb300-nvl72"}
REQUESTS_PER_SLOT = 10
ENOUGH = 400
"""Requests over which a row is averaged: a run of fewer is drawn again, as few requests make one draw of many."""


@dataclass(frozen=True)
class Simulated:
    """What the simulation gives for a row; ``ttft_ms`` as the row has it, of ``mean_ttft_ms`` and the median.
    ``in_flight``: mean over the run. ``ctx_busy``: share of it that context servers compute (0: there are none).
    ``seconds``: that it took; ``virtual_s``: simulated. Of runs with few requests the mean of several.
    """

    tok_s_gpu: float
    tpot_ms: float
    ttft_ms: float
    mean_ttft_ms: float
    in_flight: float
    seconds: float
    virtual_s: float
    ctx_busy: float = 0.0


def simulate(row: Row, steps: str = "roofline", requests_per_slot: float = REQUESTS_PER_SLOT) -> Simulated:
    """Simulate ``row`` with the step times of ``steps``.

    Raises:
        RatematchError: the deployment would not start.
    """
    sweep = bare_sweep(CLUSTERS.get(row.gpu, row.gpu), steps)
    load = Concurrency(row.concurrency, max(1, round(requests_per_slot * row.concurrency)), 0)
    experiment = experiment_for(row, sweep, load)
    plan = plan_simulation(experiment, sweep.cluster)
    runs = []
    for seed in range(1, 1 + math.ceil(ENOUGH / load.num_requests)):
        service = Service(plan, Timeline(), frontends=setup_of(row).frontends)
        began = time.perf_counter()
        result = simulate_load(service, experiment.workload, load, seed=seed)
        seconds = time.perf_counter() - began
        run_s = (result.end_ns - result.start_ns) / 1e9
        busy = [server.busy_s / run_s for server in service.servers if server.name.startswith("ctx")]
        runs.append(replace(_figures(row, result.records, run_s, seconds), ctx_busy=fmean(busy or [0.0])))
    return Simulated(*(fmean(values) for values in zip(*(astuple(run) for run in runs), strict=True)))


def experiment_for(row: Row, sweep: Sweep, load: Concurrency) -> Experiment:
    """The experiment that runs the row's deployment within ``sweep``."""
    gpu = load_gpu(sweep.cluster.gpu)
    precision = usual_or(sweep.model, gpu, read_precision(row.precision, gpu))
    workload = Workload(row.isl, row.osl, row.length_ratio, row.length_ratio, precision=precision)
    if row.ctx is None:
        deployment = Deployment(agg=_aggregated(row))
    else:
        transfer = {"cache_transceiver_config": {"backend": row.transfer}}
        setup = setup_of(row)
        ctx_options = {**transfer, "disable_overlap_scheduler": True, **moe_options(setup.ctx_backend)}
        kv = {} if row.kv_fraction is None else {"kv_cache_config": {"free_gpu_memory_fraction": row.kv_fraction}}
        gen_options = {**transfer, **kv, "stream_interval": setup.stream_interval, **moe_options(setup.gen_backend)}
        ctx = _group("ctx", row.ctx, setup.ctx_mapping, row.mtp, ctx_options)
        gen = _group("gen", row.gen, setup.gen_mapping, row.mtp, gen_options)
        if setup.all_to_all:
            gen = replace(gen, environment={"TRTLLM_FORCE_COMM_METHOD": "NVLINK_TWO_SIDED"})
        deployment = Deployment(ctx=ctx, gen=gen)
    return experiment_of(sweep, "e2e" if row.ctx else "ifb", deployment, workload, (load,))


def _aggregated(row: Row) -> ServerGroup:
    tokens, options = aggregated_options(row)
    mapping = parse_mapping(row.gen.mapping)
    return ServerGroup("agg", mapping, row.gen.instances, row.mtp, aggregated_batch(row), tokens, options)


def _group(role: Role, servers: Servers, label: str, mtp: int, options: Options) -> ServerGroup:
    mapping = parse_mapping(label)
    return ServerGroup(role, mapping, servers.instances, mtp, servers.max_batch_size, servers.max_num_tokens, options)


def _figures(row: Row, records: Sequence[RequestRecord], run_s: float, seconds: float) -> Simulated:
    done = [record for record in records if record.first_token_ns and record.last_token_ns and record.osl]
    if len(done) < len(records):
        raise SystemExit(f"line {row.line}: {len(records) - len(done)} simulated requests failed: {records[0].error}")
    tokens = sum(record.osl or 0 for record in done)
    ttfts = [((r.first_token_ns or 0) - (r.sent_ns or 0)) / 1e6 for r in done]
    tpots = [
        ((r.last_token_ns or 0) - (r.first_token_ns or 0)) / 1e6 / (r.osl - 1) for r in done if r.osl and r.osl > 1
    ]
    in_flight = sum([(r.end_ns or 0) - (r.sent_ns or 0) for r in done]) / 1e9 / run_s
    mean_ms = fmean(ttfts)
    ttft_ms = row.ttft_as_given(mean_ms, median(ttfts))
    return Simulated(tokens / run_s / row.gpus, fmean(tpots), ttft_ms, mean_ms, in_flight, seconds, run_s)


@cache
def bare_sweep(cluster: str, steps: str) -> Sweep:
    """A sweep of DeepSeek-R1 on ``cluster`` for experiments written out by hand; ``steps``: step-time model."""
    text = f"name: real\nmodel: deepseek-r1\ncluster: {cluster}\nworkloads: [{{isl: 1024, osl: 1024}}]\n"
    text += "ifb: {axes: {mapping: [TP8]}, loads: {concurrency: [1]}}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "real.yaml"
        path.write_text(text)
        sweep, _ = read_sweep(str(path))
    return replace(sweep, simulated=True, step_times=steps)
