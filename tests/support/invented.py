"""Invented experiments, records and figures with a known truth, for tests of every room.

First experiments and what is only carried around; then loads as lists of records (:func:`closed_loop`); then measured
rows of whole servers that obey Little's law (:func:`ctx_rows` and its like).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import Parallelism, parse_mapping
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
    model: str = "deepseek-r1",
) -> Experiment:
    return Experiment(
        stage=stage,
        model=model,
        model_path=model,
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


# ----------------------------------------------------------------------------------------------------- records

MS = 1_000_000


def record(
    seq: int = 0,
    *,
    sent_ms: float = 0.0,
    ttft_ms: float = 50.0,
    tpot_ms: float = 5.0,
    osl: int = 11,
    tokens_per_chunk: int = 1,
    lag_ms: float = 0.0,
    tail_ms: float = 0.0,
    isl: int = 100,
) -> RequestRecord:
    """A full answer: chunks of ``tokens_per_chunk`` tokens, ``tail_ms`` from the last token to the end."""
    first = sent_ms + ttft_ms
    tokens = [0, *range(tokens_per_chunk, osl, tokens_per_chunk)]
    if tokens[-1] != osl - 1:
        tokens.append(osl - 1)
    chunks = [round((first + tpot_ms * token) * MS) for token in tokens]
    return RequestRecord(
        seq=seq,
        intended_ns=round((sent_ms - lag_ms) * MS),
        sent_ns=round(sent_ms * MS),
        first_token_ns=chunks[0],
        last_token_ns=chunks[-1],
        end_ns=chunks[-1] + round(tail_ms * MS),
        chunk_ns=chunks,
        isl=isl,
        isl_reported=isl,
        osl_requested=osl,
        osl=osl,
        cached_tokens=0,
        finish_reason="length",
        status=200,
    )


def closed_loop(
    concurrency: int,
    osls: Sequence[int],
    *,
    ttft_ms: float = 50.0,
    tpot_ms: float = 5.0,
    burst_ms: float = 0.0,
    stagger_ms: float = 0.0,
) -> list[RequestRecord]:
    """``concurrency`` slots kept full; the first wave waits ``burst_ms`` longer per request ahead of it.

    ``stagger_ms``: how much later each slot starts than the one before.
    """
    slots = [(k * stagger_ms, k) for k in range(concurrency)]
    heapq.heapify(slots)
    records = []
    for seq, osl in enumerate(osls):
        free_ms, slot = heapq.heappop(slots)
        extra = burst_ms * slot if seq < concurrency else 0.0
        made = record(seq, sent_ms=free_ms, ttft_ms=ttft_ms + extra, tpot_ms=tpot_ms, osl=osl)
        assert made.end_ns is not None
        heapq.heappush(slots, (made.end_ns / MS, slot))
        records.append(made)
    return records


def lengths(num: int, low: int, high: int, seed: int = 0) -> list[int]:
    return [int(osl) for osl in np.random.default_rng(seed).integers(low, high, size=num, endpoint=True)]


def contended_loop(
    concurrency: int, osls: Sequence[int], *, prefill_ms: float, step_ms: float, step_ms_per_request: float
) -> list[RequestRecord]:
    """A closed loop whose servers are slower the fuller they are: one prompt at a time is prefilled, and a decode
    step takes ``step_ms`` plus ``step_ms_per_request`` for each request in it."""
    now = prefill_free = 0.0
    waiting: list[tuple[float, int, float]] = []  # first token at, seq, sent at
    decoding: dict[int, tuple[float, list[float]]] = {}
    done: list[RequestRecord] = []
    unsent = iter(range(len(osls)))

    def send(at: float) -> None:
        nonlocal prefill_free
        if (seq := next(unsent, None)) is not None:
            prefill_free = max(at, prefill_free) + prefill_ms
            waiting.append((prefill_free, seq, at))

    for _ in range(concurrency):
        send(0.0)
    while waiting or decoding:
        if not decoding:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now:
            first, seq, sent = waiting.pop(0)
            decoding[seq] = (sent, [first])
        now += step_ms + step_ms_per_request * len(decoding)
        for seq, (sent, tokens) in list(decoding.items()):
            tokens.append(now)
            if len(tokens) == osls[seq]:
                del decoding[seq]
                chunks = [round(token * MS) for token in tokens]
                made = record(seq, osl=osls[seq])
                made.intended_ns = made.sent_ns = round(sent * MS)
                made.chunk_ns, made.first_token_ns = chunks, chunks[0]
                made.last_token_ns = made.end_ns = chunks[-1]
                done.append(made)
                send(now)
    return done


# -------------------------------------------------------------------------------------------------------- rows

WORKLOAD = Workload(1024, 201)


def constant(value: float, tail: float = 1.0) -> Stats:
    """A metric that is ``value`` on average and ``tail`` times that at every percentile above the median."""
    high = value * tail
    return Stats(n=100, mean=value, std=0.0, min=value, p50=value, p90=high, p95=high, p99=high, max=high)


def measurement(
    *, req_s: float, osl: float, ttft_ms: float, tpot_ms: float | None, valid: bool = True, tail: float = 1.0
) -> Measurement:
    """Figures that obey Little's law."""
    return Measurement(
        num_requests=100,
        num_ok=100,
        num_failed=0,
        window=None,
        ttft_ms=constant(ttft_ms, tail),
        tpot_ms=constant(tpot_ms, tail) if tpot_ms else None,
        itl_ms=None,
        e2el_ms=None,
        send_lag_ms=None,
        tok_s_user=1000 / tpot_ms if tpot_ms else None,
        tok_s=req_s * osl,
        req_s=req_s,
        tok_s_run=req_s * osl,
        req_s_run=req_s,
        isl_mean=1024,
        osl_mean=osl,
        in_flight=req_s * (ttft_ms + (osl - 1) * (tpot_ms or 0)) / 1000,
        little=1.0,
        valid=valid,
        reasons=() if valid else ("invented reason",),
    )


def group(role: str, mapping: Parallelism | str, instances: int = 1, mtp: int = 0, **fields: object) -> ServerGroup:
    shape = parse_mapping(mapping) if isinstance(mapping, str) else mapping
    return ServerGroup(role, shape, instances, mtp, **fields)  # type: ignore[arg-type]


def ctx_rows(
    mapping: str,
    rates: dict[int, float],
    *,
    mtp: int = 0,
    workload: Workload = WORKLOAD,
    tail: float = 1.0,
    **kwargs: bool,
) -> list[Measured]:
    """One ctx server: requests/s by concurrency, TTFT by Little's law."""
    of = experiment("ctx", Deployment(ctx=group("ctx", mapping, mtp=mtp)), workload, **kwargs)
    return [
        Measured(of, Concurrency(c, 100), measurement(req_s=r, osl=1, ttft_ms=1000 * c / r, tpot_ms=None, tail=tail))
        for c, r in rates.items()
    ]


def gen_rows(
    mapping: str,
    decode_tok_s: dict[int, float],
    *,
    mtp: int = 0,
    instances: int = 1,
    tail: float = 1.0,
    **fields: object,
) -> list[Measured]:
    """Gen servers: decoded tok/s of one instance by requests decoding in it; TTFT 1 ms."""
    of = experiment("gen", Deployment(gen=group("gen", mapping, instances, mtp, **fields)), WORKLOAD)
    osl = WORKLOAD.osl
    return [
        Measured(
            of,
            Concurrency(c * instances, 100),
            measurement(req_s=instances * t / (osl - 1), osl=osl, ttft_ms=1, tpot_ms=1000 * c / t, tail=tail),
        )
        for c, t in decode_tok_s.items()
    ]


def ifb_rows(mapping: str, points: dict[int, tuple[float, float]]) -> list[Measured]:
    """An aggregated server: (TPOT ms, TTFT ms) by concurrency; its rate follows from Little's law."""
    of = experiment("ifb", Deployment(agg=group("agg", mapping)), WORKLOAD)
    return [Measured(of, Concurrency(c, 100), _closed(c, tpot, ttft)) for c, (tpot, ttft) in points.items()]


def e2e_rows(
    ctx: ServerGroup, gen: ServerGroup, points: dict[int, tuple[float, float]], *, repeat: int = 0
) -> list[Measured]:
    of = experiment("e2e", Deployment(ctx=ctx, gen=gen), WORKLOAD)
    return [
        Measured(of, Concurrency(c, 100, repeat=repeat), _closed(c, tpot, ttft)) for c, (tpot, ttft) in points.items()
    ]


def _closed(concurrency: int, tpot_ms: float, ttft_ms: float) -> Measurement:
    osl = WORKLOAD.osl
    req_s = concurrency / (ttft_ms + (osl - 1) * tpot_ms) * 1000
    return measurement(req_s=req_s, osl=osl, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
