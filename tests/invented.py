"""Invented experiments, records and figures for tests of rooms that only carry them around."""

from __future__ import annotations

from ratematch.measure.measurement import Measurement
from ratematch.measure.records import RequestRecord
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.workload import Workload

LAPTOP = Cluster("laptop", "gb200", gpus_per_node=4, nodes=18, emulated=True)

AGG = Deployment(agg=ServerGroup("agg", Parallelism(tp=4, ep=4), max_batch_size=8, max_num_tokens=8192))
GEN = Deployment(gen=ServerGroup("gen", Parallelism(tp=4, ep=4), mtp=1, max_batch_size=8, max_num_tokens=16))
PAIR = Deployment(
    ctx=ServerGroup("ctx", Parallelism(tp=4, ep=4, attention_dp=True), 2, 1, max_batch_size=8, max_num_tokens=8192),
    gen=ServerGroup("gen", Parallelism(tp=8, ep=8), 1, 1, max_batch_size=64, max_num_tokens=128),
)


def experiment(
    stage: Stage = "ifb",
    deployment: Deployment = AGG,
    workload: Workload | None = None,
    loads: tuple[Load, ...] = (Concurrency(2, 6, 1), Concurrency(4, 8, 1)),
    version: str = "1.2",
    *,
    emulated: bool = True,
) -> Experiment:
    return Experiment(
        stage=stage,
        model="deepseek-r1",
        model_path="deepseek-r1",
        engine=EngineRef("trtllm-serve", version),
        gpu="gb200",
        cluster="laptop",
        emulated=emulated,
        deployment=deployment,
        workload=workload or Workload(64, 8),
        loads=loads,
    )


def records(count: int = 6) -> list[RequestRecord]:
    """``count`` answers of 5 tokens: sent 1 s apart, first token after 100 ms, then one each 20 ms."""
    found = []
    for k in range(count):
        sent = k * 1_000_000_000
        chunks = [sent + 100_000_000 + token * 20_000_000 for token in range(5)]
        found.append(
            RequestRecord(
                k, sent, sent, chunks[0], chunks[-1], chunks[-1], chunks, 64, 64, 5, 5, 0, "length", "ok", 200
            )
        )
    return found


FIGURES = Measurement(
    num_requests=6,
    num_ok=6,
    num_failed=0,
    window=None,
    ttft_ms=None,
    tpot_ms=None,
    itl_ms=None,
    e2el_ms=None,
    send_lag_ms=None,
    tok_s_user=None,
    tok_s=None,
    req_s=None,
    tok_s_run=None,
    req_s_run=None,
    isl_mean=None,
    osl_mean=None,
    in_flight=None,
    little=None,
    valid=False,
    reasons=("invented",),
)
