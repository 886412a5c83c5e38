"""End-to-end runs against what rate matching predicted for them: the gap, and what it is made of.

At N requests in flight output is P = N x OSL / (GPUs x E), E the life of a request (Little's law). So

    P_plan - P_measured = N x OSL / GPUs x (E_measured - E_plan) / (E_measured x E_plan)

is proportional to the time a request takes longer than predicted, and every part of that time has its exact share of
the gap, in whatever order parts are taken. Before it stands what whole instances lose to the ideal ratio: a fraction
of a ctx instance that is idle, and whole ones when fewer would carry the load at this concurrency; after it
what the measured figures break Little's law by. The parts add up to ideal minus measured; what no part explains is
the last one, the residual.

Some stages are shorter than predicted where others are longer: a queue that was predicted in front of ctx does not
come about where gen turns out to be the limit. What is longer took the place of what is shorter, so only the rest of
it is lost: the longer stages share the gap by their lengths, and no part is larger than the gap. Where a run gives
more than its plan the shorter ones share the gain in the same way, and it is taken off what whole instances lose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import gcd

from ratematch.match.closedloop import Operating, operate
from ratematch.match.curves import throttle
from ratematch.match.figures import Figures, measured_point
from ratematch.match.matching import bound_tok_s_gpu
from ratematch.match.options import one_instance
from ratematch.match.pairs import Pair, predict_deployment, with_posting
from ratematch.match.pareto import Front, extract_front, linear_at
from ratematch.match.points import Gap, GapPart, Point, objectives
from ratematch.measure.breakdown import Breakdown
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.load import Constraints
from ratematch.plan.parallelism import Parallelism

WHOLE_INSTANCES = ("integer rounding", "spare ctx at this load")
"""Parts that lie between the ideal ratio and the plan: a rate-matched front has lost them already."""

TRANSFER, POSTING = "KV transfer", "KV transfer posted between decode steps"

WORTH_SAYING = 0.03
"""Share of the ideal from which on what the KV transfer costs is put into words."""

MANY_PIECES = 1000
"""Descriptors a request from which on their number is named: at some microseconds each they take milliseconds."""


def find_gaps(
    rows: Iterable[Figures], pairs: Sequence[Pair], front: Sequence[Point], constraints: Constraints
) -> list[Gap]:
    """Each end-to-end row against the prediction of its own deployment and against the whole front."""
    unlimited = replace(constraints, tpot_ms=None)
    whole = [objectives(point) for point in front]
    index = PairIndex.of(pairs)
    gaps = []
    for row in rows:
        point = measured_point(row, "end_to_end", constraints)
        pair = index.find(row.experiment.deployment)
        predicted = operating = free = None
        parts: tuple[GapPart, ...] = ()
        if pair is not None and point.ctx and point.gen:
            divisor = gcd(point.ctx, point.gen)
            x, y = point.ctx // divisor, point.gen // divisor
            curve = predict_deployment(pair, x, y, workload=point.workload, constraints=unlimited)
            predicted = predict_at([objectives(p) for p in extract_front(curve, objectives)], point.tok_s_user)
            moved = replace(pair, handover_s=0.0)
            operating = operate(moved, point.ctx, point.gen, point.concurrency)
            # What KV transfer costs is a part of the gap, so that is taken apart from a prediction without it.
            pair = without_transfer(pair)
            same = (moved.posting_s, moved.gen.rates.extra_s) == (0.0, pair.gen.rates.extra_s)
            free = operating if same else operate(pair, point.ctx, point.gen, point.concurrency)
            parts = attribute(point, free, pair, row.breakdown)
        at_front = predict_at(whole, point.tok_s_user)
        gaps.append(
            Gap(
                label=point.label,
                tok_s_user=point.tok_s_user,
                end_to_end=point.tok_s_gpu,
                rate_matched=predicted,
                ratio=point.tok_s_gpu / predicted if predicted else None,
                front=at_front,
                front_ratio=point.tok_s_gpu / at_front if at_front else None,
                concurrency=point.concurrency,
                at_concurrency=operating.req_s * point.tok_s / point.req_s / point.gpus if operating else None,
                tpot_ms=point.tpot_ms,
                tpot_at_concurrency_ms=operating.tpot_s * 1000 if operating else None,
                ideal=sum(part.tok_s_gpu for part in parts) + point.tok_s_gpu if parts else None,
                parts=parts,
                without_transfer=free.req_s * point.tok_s / point.req_s / point.gpus if free else None,
                without_transfer_limit=free.limit if free else None,
            )
        )
    return gaps


def without_transfer(pair: Pair) -> Pair:
    """The pair as if KV caches were handed over in no time."""
    return with_posting(replace(pair, handover_s=0.0), 0.0)


def attribute(point: Point, predicted: Operating, pair: Pair, breakdown: Breakdown | None) -> tuple[GapPart, ...]:
    """The parts of (ideal minus measured) tok/s/GPU of one end-to-end row; they add up exactly.

    ``predicted``: the deployment at the same concurrency. The ideal is the fractional ratio of the same servers at
    the TPOT predicted there. Without a ``breakdown`` all that happens before decoding is one part.
    """
    osl = point.tok_s / point.req_s
    gen, tokens = pair.gen.rates, pair.gen.rates.tokens_per_request
    n = point.concurrency
    gen_req_s = min(predicted.req_s / point.gen, gen.req_s(gen.curve.max_rate))
    ideal = bound_tok_s_gpu(osl, pair.ctx.rates.gpus, pair.ctx.rates.capacities[-1], gen.gpus, gen_req_s)
    plan = predicted.req_s * osl / point.gpus

    decode_s = tokens * predicted.tpot_s
    life_plan = n / predicted.req_s
    ttft_s, decode_measured_s = point.ttft_ms / 1000, tokens * point.tpot_ms / 1000
    life = ttft_s + decode_measured_s
    share = n * osl / point.gpus / (life * life_plan)

    if breakdown is None:
        longer = [
            ("ctx slow-down, KV transfer, queues and router", ttft_s - predicted.ttft_s),
            ("gen slow-down", decode_measured_s - decode_s),
        ]
    else:
        longer = _longer_stages(breakdown, predicted, pair, decode_s, life)
    # ctx instances that would have carried this load; more of them are spare, fewer are a fraction of one.
    enough = min(point.ctx, math.ceil(predicted.req_s / pair.ctx.rates.capacities[-1] * (1 - 1e-9)))
    whole = predicted.req_s * osl / (enough * pair.ctx.rates.gpus + point.gen * gen.gpus)
    instances = [(WHOLE_INSTANCES[0], ideal - whole), (WHOLE_INSTANCES[1], whole - plan)]
    stages = net([(name, seconds * share) for name, seconds in longer])
    gain = sum(value for _, value in stages)
    if gain < 0 < ideal - plan:  # as far as it makes up for what whole instances lose
        instances = net([*instances, ("gain", gain)])[:-1]
        left = ideal - point.tok_s_gpu if point.tok_s_gpu > ideal else 0.0
        stages = [(name, value * left / gain) for name, value in stages]
    parts = [GapPart(name, value) for name, value in (*instances, *stages)]
    explained = sum(part.tok_s_gpu for part in parts)
    parts.append(GapPart("residual", ideal - point.tok_s_gpu - explained))
    # What is only the last digits of a float is nothing.
    return tuple(part if abs(part.tok_s_gpu) > 1e-9 * ideal else GapPart(part.name, 0.0) for part in parts)


def _longer_stages(
    breakdown: Breakdown, predicted: Operating, pair: Pair, decode_s: float, life: float
) -> list[tuple[str, float]]:
    """By how much (seconds) each stage of a request took longer than predicted; ``decode_s``: predicted, ``life``:
    measured.

    A lone prompt's time is what prefill takes without others. The rest of the predicted TTFT is sharing: being one of
    several in a step, or waiting. The ctx curve does not say which, so it is set against the queue that was measured
    first, and what is left of it against prefill. What was predicted between ctx and gen is the KV transfer first,
    then admission to gen, then the way.
    """
    alone = throttle(pair.ctx.rates.curve, pair.ctx.rates.curve.rates[0]).latency_s
    handover = min(pair.handover_s, predicted.ttft_s)
    alone = min(alone, predicted.ttft_s - handover)
    shared = max(0.0, predicted.ttft_s - handover - alone)
    queue = min(shared, breakdown.ctx_queue_s)
    kv = min(handover, breakdown.kv_transfer_s)
    gen_queue = min(handover - kv, breakdown.gen_queue_s)
    # A transfer that is posted in many pieces keeps the gen server's steps waiting: decode is longer for it.
    posted = breakdown.decode_s * (breakdown.kv_posting or 0.0)
    return [
        ("ctx slow-down", breakdown.prefill_s - alone - (shared - queue)),
        ("ctx queue", breakdown.ctx_queue_s - queue),
        (TRANSFER, breakdown.kv_transfer_s - kv),
        ("gen queue", breakdown.gen_queue_s - gen_queue),
        *([(POSTING, posted)] if breakdown.kv_posting is not None else []),
        ("gen slow-down", breakdown.decode_s - posted - decode_s),
        ("router", breakdown.dispatch_s - (handover - kv - gen_queue)),
        ("client and network", life - breakdown.total_s),
    ]


def net(parts: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The same parts with the same sum and all of the sum's sign: those of the other sign are taken off them, from
    each by its size."""
    total = sum(value for _, value in parts)
    alike = sum(value for _, value in parts if value * total > 0)
    return [(name, value * total / alike if value * total > 0 else 0.0) for name, value in parts]


def describe_transfer(gaps: Sequence[Gap], rows: Sequence[Figures]) -> str | None:
    """What the KV transfer costs the end-to-end deployment that it costs most, where that is worth saying."""
    worst: tuple[float, Gap, Breakdown] | None = None
    for gap, row in zip(gaps, rows, strict=True):
        lost = sum(part.tok_s_gpu for part in gap.parts if part.name in (TRANSFER, POSTING))
        if gap.without_transfer is not None:
            lost = min(lost, gap.without_transfer - gap.end_to_end)
        if row.breakdown and gap.ideal and lost >= WORTH_SAYING * gap.ideal and (worst is None or lost > worst[0]):
            worst = (lost, gap, row.breakdown)
    if worst is None:
        return None
    lost, gap, breakdown = worst
    pieces = ""
    if breakdown.kv_descriptors is not None and breakdown.kv_descriptors >= MANY_PIECES:
        size = f" of {breakdown.kv_b / breakdown.kv_descriptors / 1e3:.3g} kB" if breakdown.kv_b else ""
        pieces = f", in {breakdown.kv_descriptors:,.0f} pieces{size}: larger KV blocks make fewer"
    assert gap.ideal is not None and gap.without_transfer is not None
    limit = gap.without_transfer_limit
    reach = f"reach its {limit} limit, " if limit in ("ctx", "gen") else "give "
    more = gap.without_transfer / gap.end_to_end - 1
    return (
        f"the KV transfer costs {gap.label} at {gap.concurrency:.0f} in flight {lost:,.0f} of {gap.ideal:,.0f} "
        f"tok/s/GPU: without it the pair would {reach}{gap.without_transfer:,.0f} ({more:+.0%}); "
        f"{breakdown.kv_transfer_s * 1000:.3g} ms a request{pieces}"
    )


def predict_at(curve: Front, u: float) -> float | None:
    """Predicted tok/s/GPU of one deployment, or of the front, at ``u`` tok/s/user, linear between its rows.

    Below its lowest u it is the highest rate: a deployment whose users get more also keeps ``u``. ``None`` above its
    highest u, where nothing was measured.
    """
    if curve and u < curve[0][0]:
        return curve[0][1]
    return linear_at(curve, u)


@dataclass(frozen=True)
class PairIndex:
    """Measured pairs by what they are made of: ``alike`` by the same servers, ``same_mapping`` by mappings and MTP
    alone; of several the first."""

    alike: Mapping[tuple[str, str], Pair]
    same_mapping: Mapping[tuple[Parallelism, int, Parallelism], Pair]

    @staticmethod
    def of(pairs: Iterable[Pair]) -> PairIndex:
        alike: dict[tuple[str, str], Pair] = {}
        same_mapping: dict[tuple[Parallelism, int, Parallelism], Pair] = {}
        for pair in pairs:
            ctx, gen = pair.ctx.servers, pair.gen.servers
            alike.setdefault(_key(ctx, gen), pair)
            same_mapping.setdefault((gen.mapping, gen.mtp, ctx.mapping), pair)
        return PairIndex(alike, same_mapping)

    def find(self, deployment: Deployment) -> Pair | None:
        """The pair that a disaggregated deployment is made of: the same servers, else the same mappings."""
        if deployment.ctx is None or deployment.gen is None:
            return None
        ctx, gen = one_instance(deployment.ctx), one_instance(deployment.gen)
        known = self.alike.get(_key(ctx, gen))
        return known or self.same_mapping.get((gen.mapping, gen.mtp, ctx.mapping))


def _key(ctx: ServerGroup, gen: ServerGroup) -> tuple[str, str]:
    """A context server that is measured alone may have other draft layers than the pair it serves in."""
    return _text(replace(ctx, mtp=gen.mtp)), _text(gen)


def _text(group: ServerGroup) -> str:
    """The same for equal groups, whatever the order of their options."""
    compared = {field.name: getattr(group, field.name) for field in fields(group) if field.compare}
    return json.dumps(compared, sort_keys=True, default=repr)
