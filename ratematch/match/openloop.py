"""How many GPUs an open-loop request rate needs within TTFT and TPOT limits.

ctx and gen decide apart: TTFT depends on the number of ctx instances alone, TPOT on that of gen instances alone. So
the fewest of each is the fewest of all, for every pair of measured configurations.

TTFT at a percentile = wait in front of ctx at that percentile (:mod:`ratematch.match.servicetime`; service time
1 / R_c, R_c the highest rate measured) + TTFT of the smallest load measured + KV transfer. TPOT at a percentile: the
requests decoding in an instance vary like a Poisson count around their mean C* = T^-1(demand); TPOT is read at the
load C* + z sqrt(C*) that they stay below at the percentile, and that load must have been measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

from ratematch.match.curves import Reading, read_rate_at, throttle
from ratematch.match.feasibility import Links, kv_transfer_s
from ratematch.match.figures import Figures
from ratematch.match.pairs import Pair, label_deployment
from ratematch.match.points import ServingPlan
from ratematch.match.question import Question
from ratematch.match.servicetime import open_loop_wait
from ratematch.plan.load import Constraints

MOST_INSTANCES = 4096


def plan_serving(pairs: Iterable[Pair], question: Question, links: Links | None = None) -> list[ServingPlan]:
    """The smallest deployment of each pair for the question's request rate, fewest GPUs first.

    Pairs that cannot keep the limits are left out. ``links``: what KV transfers go over, where it is known.
    """
    req_s = question.request_rate
    if req_s is None:
        return []
    plans = [plan for pair in pairs if (plan := _plan(pair, req_s, question, links)) is not None]
    return sorted(plans, key=lambda plan: (plan.gpus, plan.tpot_ms, plan.label))


def _plan(pair: Pair, req_s: float, question: Question, links: Links | None) -> ServingPlan | None:
    constraints = question.constraints
    share = _fewest_gen(pair, req_s, constraints)
    if share is None:
        return None
    y = share.instances
    ctx, gen = pair.ctx.servers.mapping, pair.gen.servers.mapping
    service_s = 1 / pair.ctx.rates.curve.max_rate
    alone_s = throttle(pair.ctx.rates.curve, pair.ctx.rates.curve.rates[0]).latency_s
    x = max(1, math.ceil(req_s * service_s / MOST_INSTANCES))
    while x <= MOST_INSTANCES:
        gpus = x * ctx.gpus + y * gen.gpus
        kv_s = kv_transfer_s(links, ctx, gen, pair.gen.servers.mtp, gpus) if links is not None else None
        # A calibrated handover holds the KV transfer already.
        fixed_s = alone_s + max(kv_s or 0.0, pair.handover_s)
        wait = open_loop_wait(req_s, service_s, x, question.routing)
        limit_s = None if constraints.ttft_ms is None else constraints.ttft_ms / 1000
        if limit_s is not None and fixed_s > limit_s:
            return None
        if wait is None or (limit_s is not None and wait.at(constraints.percentile) + fixed_s > limit_s):
            x += 1
            continue
        osl = pair.gen.osl
        ttft_s = wait.mean_s + fixed_s
        flags = (*pair.flags, *share.flags)
        if kv_s is None and not pair.handover_s:
            flags += ("KV transfer time is not in TTFT",)
        return ServingPlan(
            label=label_deployment(pair, x, y),
            ctx=x,
            gen=y,
            gpus=gpus,
            req_s=req_s,
            ttft_ms=ttft_s * 1000,
            ttft_limit_ms=(wait.at(constraints.percentile) + fixed_s) * 1000,
            wait_ms=wait.mean_s * 1000,
            kv_transfer_ms=None if kv_s is None else kv_s * 1000,
            tpot_ms=share.tpot_s * 1000,
            tpot_limit_ms=share.tpot_limit_s * 1000,
            ctx_load=req_s * service_s / x,
            gen_load=share.of_capacity,
            concurrency=req_s * ttft_s + y * share.decoding,
            tok_s_gpu=req_s * osl / gpus,
            within=question.max_gpus is None or gpus <= question.max_gpus,
            flags=flags,
        )
    return None


def fewest_aggregated(figures: Iterable[Figures], question: Question) -> tuple[str, int] | None:
    """Label (``5 x DEP8, MTP 2``) and GPUs of the fewest aggregated servers that serve the question's request rate.

    Each is taken at the most that it gives within the limits in a closed loop, where nothing queues: no fewer do.
    ``None`` where none keeps the limits, or no rate is requested.
    """
    best: tuple[str, int] | None = None
    for row in figures:
        over_ttft = question.ttft_ms is not None and row.ttft_limit_ms > question.ttft_ms
        over_tpot = question.tpot_ms is not None and row.tpot_limit_ms > question.tpot_ms
        if row.experiment.stage != "ifb" or question.request_rate is None or over_ttft or over_tpot:
            continue
        count = math.ceil(question.request_rate / row.req_s * (1 - 1e-9))
        gpus = count * row.experiment.deployment.gpus
        if best is None or gpus < best[1]:
            group = row.experiment.deployment.groups[-1]
            drafts = f", MTP {group.mtp}" if group.mtp else ""
            best = (f"{count} x {group.mapping.label}{drafts}", gpus)
    return best


@dataclass(frozen=True)
class GenShare:
    """What each of so many gen instances does: mean TPOT and TPOT at the percentile of the limits, s; requests
    decoding in it; its rate over the highest one measured."""

    instances: int
    tpot_s: float
    tpot_limit_s: float
    decoding: float
    of_capacity: float
    flags: tuple[str, ...]


def _fewest_gen(pair: Pair, req_s: float, constraints: Constraints) -> GenShare | None:
    """The fewest gen instances that keep the TPOT limit; ``None`` when none do."""
    gen, curve = pair.gen.rates, pair.gen.rates.curve
    z = 0.0 if constraints.percentile == "mean" else NormalDist().inv_cdf(constraints.percentile / 100)
    limit_s = None if constraints.tpot_ms is None else constraints.tpot_ms / 1000
    first = max(1, math.ceil(req_s / gen.max_req_s * (1 - 1e-9)))
    for y in range(first, MOST_INSTANCES + 1):
        point = gen.read(min(req_s / y, gen.max_req_s))
        high = point.load + max(0.0, z) * math.sqrt(point.load)
        if high > curve.loads[-1] * (1 + 1e-9):
            continue
        high = min(high, curve.loads[-1])
        slow_s = point.latency_s
        if high >= curve.loads[0]:
            rate = read_rate_at(curve, high)
            slow_s = max(slow_s, gen.in_service(Reading(high, rate, high / rate, clamped=False)).latency_s)
        if limit_s is not None and slow_s > limit_s:
            if point.clamped:
                return None  # already below the smallest load measured: more instances are not known to be faster
            continue
        flags = ("TPOT read at the smallest gen concurrency measured",) if point.clamped else ()
        return GenShare(y, point.latency_s, slow_s, point.load, req_s / y / gen.max_req_s, flags)
    return None


def describe_limits(constraints: Constraints) -> str:
    """``p99 TTFT 2000 ms, p99 TPOT 20 ms``; ``no limit`` without any."""
    name = "mean" if constraints.percentile == "mean" else f"p{constraints.percentile}"
    limits = [
        f"{name} {what} {limit:g} ms"
        for what, limit in (("TTFT", constraints.ttft_ms), ("TPOT", constraints.tpot_ms))
        if limit is not None
    ]
    return ", ".join(limits) or "no limit"
