"""Context and generation figures, measured apart, to the rows they predict together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.cells import Ints
from ratematch.match.ctxqueue import read_steps
from ratematch.match.curves import Floats, Reading, latency_at, read_rate_at, throttle
from ratematch.match.inservice import InService
from ratematch.match.matching import (
    Plan,
    bound_tok_s_gpu,
    plan_curve,
    show_ratio,
    solve_ratio,
)
from ratematch.match.options import CtxOption, GenOption
from ratematch.match.points import Point
from ratematch.match.solver import MatchProblem, Rows
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import ORIGINS
from ratematch.plan.load import Constraints

WITHIN = 1e-6
"""The point at a limit is this share below it: far more than last digits, and than rates that are taken for one."""

HALVINGS = 60
"""Of the search for a point between two measured loads."""

MOST_TURNS = 100
"""Of the search for what is in flight with bunches; it stops earlier where nothing changes any more."""


@dataclass(frozen=True)
class Pair:
    """A gen configuration with a ctx configuration that may feed it. ``flags``: what had to be assumed.

    ``handover_s``: time before the first token beyond ctx, the KV transfer of one request alone; 0 when nothing is
    known. ``posting_s``: of it while the gen server does nothing else, s. ``bunching``: see
    :mod:`ratematch.match.closedloop`. ``in_step``: all requests are of one length, so that those which begin together
    end together. ``in_service``: what holds its deployments to a TTFT limit in service; ``None`` where there is no
    such limit, or nothing is known of how prompts queue.
    """

    ctx: CtxOption
    gen: GenOption
    flags: tuple[str, ...]
    handover_s: float = 0.0
    bunching: float = 0.0
    posting_s: float = 0.0
    in_step: bool = True
    in_service: InService | None = None


def with_posting(pair: Pair, posting_s: float) -> Pair:
    """The pair with the posting of its KV transfers, s a request: in its TTFT, and in what a request takes of gen.

    Alone a gen server may have computed a part of each prompt, which it does not in service: that much is taken off.
    """
    ctx, gen = pair.ctx.rates, pair.gen.rates
    computed_s = pair.gen.computed_share * ctx.gpus / (ctx.curve.max_rate * gen.gpus)
    gen = replace(gen, extra_s=posting_s - computed_s)
    return replace(pair, gen=replace(pair.gen, rates=gen), posting_s=posting_s)


def pair_options(ctx: Sequence[CtxOption], gen: Sequence[GenOption]) -> list[Pair]:
    """Each gen configuration with every ctx configuration of its KV layout and its MTP, else the nearest MTP
    measured.

    Both sides must carry the same MTP layers, or their KV layouts differ; a ctx rate measured with another MTP is
    an assumption, and flagged. An MTP that is not known goes with any.
    """
    pairs = []
    for option in gen:
        alike = [candidate for candidate in ctx if candidate.layout == option.layout]
        fed = [candidate for candidate in alike if None in (candidate.mtp, option.mtp) or candidate.mtp == option.mtp]
        flags: tuple[str, ...] = ()
        if not fed and option.mtp is not None and alike:
            nearest = min((abs(mtp - option.mtp), mtp) for candidate in alike if (mtp := candidate.mtp) is not None)[
                1
            ]
            fed = [candidate for candidate in alike if candidate.mtp == nearest]
            flags = (f"ctx measured with mtp={nearest}, not {option.mtp}",)
        if option.rates.curve.smoothed:
            flags += ("gen tok/s fell with concurrency; pooled",)
        pairs += [Pair(candidate, option, flags) for candidate in fed]
    return pairs


def to_problem(pair: Pair) -> MatchProblem:
    """The pair as the array solver takes it."""
    gen = pair.gen
    return MatchProblem(pair.ctx.rates, gen.rates, gen.loads, gen.tail, gen.at_limit, pair.in_service)


def meet_tpot_limit(pairs: Iterable[Pair], constraints: Constraints) -> list[Pair]:
    """The pairs with one more point of each gen curve, on the line between measured loads: where TPOT in service, at
    the percentile of the limit, meets the limit. As many requests as that decode when a limit is used to the full.

    Without it a deployment would be planned at the next lower load that happened to be measured, and one whose ctx
    capacity happens to lead nearer to the limit would be taken for a better ratio. A curve that keeps the limit up to
    its end, or nowhere, stays as it is.
    """
    if constraints.tpot_ms is None:
        return list(pairs)
    limit_s = constraints.tpot_ms / 1000 * (1 - WITHIN)
    done: dict[int, GenOption] = {}  # a gen configuration has one draw of its noise in all of its pairs
    result = []
    for pair in pairs:
        gen = done.setdefault(id(pair.gen), _meet_limit(pair.gen, limit_s))
        result.append(pair if gen is pair.gen else replace(pair, gen=gen))
    return result


def _meet_limit(gen: GenOption, limit_s: float) -> GenOption:
    curve = gen.rates.curve

    def late_s(load: float) -> float:
        point = gen.rates.in_service(Reading(load, rate := read_rate_at(curve, load), load / rate, clamped=False))
        return point.latency_s * float(np.interp(load, gen.loads, gen.tail)) - limit_s

    within = [late_s(load) <= 0 for load in curve.loads]
    borders = [k for k in range(len(within) - 1) if within[k] and not within[k + 1]]
    if not borders:
        return gen
    k = borders[-1]
    low, high = curve.loads[k], curve.loads[k + 1]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if late_s(middle) <= 0 else (low, middle)
    if not curve.loads[k] < low < curve.loads[k + 1]:
        return gen
    loads, rates, noise = list(curve.loads), list(curve.rates), list(gen.noise)
    rates.insert(k + 1, read_rate_at(curve, low))
    loads.insert(k + 1, low)
    if noise:
        noise.insert(k + 1, max(noise[k : k + 2], key=lambda each: each.rel if each is not None else 0.0))
    rates_ = replace(gen.rates, curve=replace(curve, loads=tuple(loads), rates=tuple(rates)))
    return replace(gen, rates=rates_, noise=tuple(noise), at_limit=k + 1)


def put_in_service(pairs: Iterable[Pair], constraints: Constraints) -> list[Pair]:
    """The pairs with what holds their deployments to the TTFT limit in service, where there is one. It looks at the
    curves as they are: this comes last."""
    if not constraints.in_service:
        return list(pairs)
    return [replace(pair, in_service=serve(pair, constraints)) for pair in pairs]


def serve(pair: Pair, constraints: Constraints) -> InService | None:
    """TTFT of the deployments of a pair in service, with the limit; ``None`` without a limit, or where nothing is
    known of how prompts queue."""
    steps, ctx = read_steps(pair.ctx.rates.curve), pair.ctx
    if steps is None or constraints.ttft_ms is None:
        return None
    spread_s = ctx.ttft_limit_s[0] - throttle(ctx.rates.curve, ctx.rates.capacities[0]).latency_s
    return InService(
        steps,
        pair.gen.rates,
        constraints.ttft_ms / 1000,
        constraints.percentile,
        before_gen_s(pair),
        pair.gen.tokens_per_step,
        max(0.0, spread_s),
    )


def row_points(pairs: Sequence[Pair], rows: Rows, which: Ints, score: Floats, workload: str) -> Iterator[Point]:
    """Rows of the array solver as points. ``score``: tok/s/GPU of every row of ``rows``, over the GPUs that count."""
    columns = (column[which].tolist() for column in (rows.pair, rows.nodes, rows.gpus_allocated, score))
    for plan, number, nodes, allocated, tok_s_gpu in zip(rows.plans(which), *columns, strict=True):
        pair = pairs[number]
        label = label_deployment(pair, plan.x, plan.y)
        taken = (nodes, allocated) if nodes else (None, None)
        yield _point(pair, plan, workload, label, tok_s_gpu=tok_s_gpu, nodes=taken)


def predict_deployment(pair: Pair, x: int, y: int, *, workload: str, constraints: Constraints) -> list[Point]:
    """The rate-matched rows of ``x`` ctx and ``y`` gen instances over demand, ascending; limits filter here, last."""
    label = label_deployment(pair, x, y)
    return [
        _point(pair, plan, workload, label)
        for plan in plan_curve(pair.ctx.rates, pair.gen.rates, x, y)
        if constraints.tpot_ms is None or pair.gen.tpot_limit_ms(plan) <= constraints.tpot_ms
    ]


def _point(
    pair: Pair,
    plan: Plan[float],
    workload: str,
    label: str,
    *,
    tok_s_gpu: float | None = None,
    nodes: tuple[int, int] | tuple[None, None] = (None, None),
) -> Point:
    """The row of a plan, over the GPUs in use unless ``tok_s_gpu`` is given. ``nodes``: and the GPUs on them.

    Its ``ratio`` is the ideal one at the gen point it runs at, or, when ctx is the limit and gen is throttled, at the
    highest gen rate measured: what x:y falls short of.
    """
    ctx, gen = pair.ctx, pair.gen
    osl, tokens = gen.osl, gen.osl - gen.tokens_from_ctx
    gen_req_s = gen.rates.max_req_s if plan.limit == "ctx" else plan.gen.rate / gen.rates.tokens_per_request
    flags = pair.flags
    if plan.gen.clamped:
        flags += ("demand below the smallest gen concurrency measured: TPOT read there",)
    if plan.ctx.clamped and ctx.rates.curve.loads[0] > 1.05:
        flags += ("demand below the smallest ctx load measured: TTFT read there",)
    ttft_s = bunched_ttft_s(pair, plan) + before_gen_s(pair)
    if pair.in_service is not None and plan.x:
        at, x, y = np.array([plan.req_s]), np.array([plan.x]), np.array([plan.y])
        ttft_s = max(ttft_s if pair.bunching else 0.0, float(pair.in_service.ttft_s(at, x, y)[0]))
    in_flight = plan.req_s * (ttft_s + tokens * plan.tpot_s)  # by Little's law, so it can be no check of the row
    origin = max(ctx.origin, gen.origin, key=ORIGINS.index)
    return Point(
        kind="rate_matched",
        workload=workload,
        label=label,
        ctx=plan.x,
        gen=plan.y,
        ctx_mapping=ctx.label,
        gen_mapping=gen.label,
        mtp=gen.mtp or 0,
        gpus=plan.gpus,
        concurrency=in_flight,
        req_s=plan.req_s,
        tok_s=plan.req_s * osl,
        tok_s_user=1 / plan.tpot_s,
        tok_s_gpu=plan.req_s * osl / max(plan.gpus, 1) if tok_s_gpu is None else tok_s_gpu,
        ttft_ms=ttft_s * 1000,
        tpot_ms=plan.tpot_s * 1000,
        little=None,
        osl=osl,
        limit=plan.limit,
        ratio=show_ratio(solve_ratio(ctx.rates.capacities[-1], gen_req_s)),
        clamped=plan.clamped,
        emulated=origin != "real",
        simulated=origin == "simulated",
        sources=(ctx.source, gen.source),
        flags=flags,
        nodes=nodes[0],
        gpus_allocated=nodes[1],
        ctx_options=ctx.group.tag if ctx.group is not None else "",
        gen_options=gen.group.tag if gen.group is not None else "",
    )


def before_gen_s(pair: Pair) -> float:
    """Between a request's ctx and its first step in gen, s: its KV transfer, posting and movement."""
    return pair.handover_s + pair.posting_s


def bunched_ttft_s(pair: Pair, plan: Plan[float]) -> float:
    """TTFT of ctx when prompts arrive in bunches of ``bunching`` x N / x, with N what is then in flight, s.

    Each prompt more in a bunch holds up the others by no more than 1 / rate, so the search for N ends.
    """
    if not pair.bunching or not plan.x:
        return plan.ttft_s
    curve, ttft_s = pair.ctx.rates.curve, plan.ttft_s
    for _ in range(MOST_TURNS):
        in_flight = plan.req_s * (ttft_s + before_gen_s(pair) + pair.gen.rates.tokens_per_request * plan.tpot_s)
        longer = max(plan.ttft_s, latency_at(curve, pair.bunching * in_flight / plan.x))
        if longer <= ttft_s * (1 + 1e-9):
            break
        ttft_s = longer
    return ttft_s


def label_deployment(pair: Pair, x: int, y: int) -> str:
    """The label an end-to-end run of this deployment has, ``ctx2xTEP4-gen1xDEP8-mtp1``; of rows of a table
    ``2xTEP4+1xDEP8``."""
    if pair.ctx.group is None or pair.gen.group is None:
        return f"{x}x{pair.ctx.label}+{y}x{pair.gen.label}"
    groups = deploy(pair, x, y)
    return Deployment(ctx=groups[0], gen=groups[1]).label


def deploy(pair: Pair, x: int, y: int) -> tuple[ServerGroup, ServerGroup]:
    """The servers of a plan: those measured, ``x`` and ``y`` times; ctx takes the MTP of gen (same KV layout).

    Raises:
        ValueError: the pair comes from a table, which says nothing of servers.
    """
    ctx, gen = pair.ctx.servers, pair.gen.servers
    return replace(ctx, instances=x, mtp=gen.mtp), replace(gen, instances=y)


@dataclass(frozen=True)
class Bound:
    """The ideal fractional ratio of a pair with a gen instance at ``plan.gen``; ``tok_s_gpu``: what it gives."""

    pair: Pair
    plan: Plan[float]
    tok_s_gpu: float

    def point(self, workload: str) -> Point:
        """The row for one gen instance (``gen`` = 1) with its ideal share of ctx instances, which is no whole number:
        ``ctx`` and ``gpus`` are 0, ``ratio`` says the share."""
        pair, ctx_rate = self.pair, self.pair.ctx.rates.capacities[-1]
        ratio = solve_ratio(ctx_rate, self.plan.req_s)
        label = f"ctx{ratio:.3g}x{pair.ctx.label}-gen1x{pair.gen.label}-mtp{pair.gen.mtp or 0}"
        point = _point(pair, self.plan, workload, label, tok_s_gpu=self.tok_s_gpu)
        return replace(point, kind="bound", ratio=show_ratio(ratio))


def list_bounds(pair: Pair, constraints: Constraints, gen_rates: Iterable[float] = ()) -> list[Bound]:
    """The bound at each measured gen point, and at further ``gen_rates`` (tok/s of one instance alone)."""
    curve = pair.gen.rates.curve
    readings = (throttle(curve, tok_s) for tok_s in sorted({*curve.rates, *gen_rates}))
    bounds = (find_bound(pair, reading, constraints) for reading in readings)
    return [bound for bound in bounds if bound is not None]


def find_bound(pair: Pair, gen: Reading[float], constraints: Constraints) -> Bound | None:
    """The bound with a gen instance at ``gen``, a point of its curve alone; ``None`` when its TPOT in service is over
    the limit."""
    rates, ctx_rate = pair.gen.rates, pair.ctx.rates.capacities[-1]
    req_s = rates.req_s(gen.rate)
    plan = Plan(0, 1, 0, req_s, "both", throttle(pair.ctx.rates.curve, ctx_rate), rates.in_service(gen))
    if constraints.tpot_ms is not None and pair.gen.tpot_limit_ms(plan) > constraints.tpot_ms:
        return None
    return Bound(pair, plan, bound_tok_s_gpu(pair.gen.osl, pair.ctx.rates.gpus, ctx_rate, rates.gpus, req_s))
