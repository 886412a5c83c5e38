"""Context and generation figures, measured apart, to the rows they predict together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.curves import latency_at, make_curve, throttle
from ratematch.match.figures import Figures
from ratematch.match.matching import (
    Ctx,
    Gen,
    Plan,
    bound_tok_s_gpu,
    gen_tokens_per_request,
    keep_undominated,
    plan_curve,
    show_ratio,
    solve_ratio,
)
from ratematch.match.noise import Noise
from ratematch.match.points import Point
from ratematch.match.solver import Problem, Rows
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.load import Constraints

MOST_TURNS = 100
"""Of the search for what is in flight with bunches; it stops earlier where nothing changes any more."""


@dataclass(frozen=True)
class CtxOption:
    """One measured ctx configuration. ``group``: its servers, one instance. ``noise``: of each capacity.

    ``ttft_limit_s``: TTFT measured at each capacity, at the percentile of the constraints. ``layout``: of its KV
    cache.
    """

    source: str
    group: ServerGroup
    rates: Ctx[float]
    emulated: bool
    noise: tuple[Noise | None, ...] = ()
    simulated: bool = False
    ttft_limit_s: tuple[float, ...] = ()
    layout: str = ""


@dataclass(frozen=True)
class GenOption:
    """One measured gen configuration. ``noise``: of the rate at each load of the curve.

    ``loads`` and ``tail``: at each measured load, TPOT at the percentile of the constraints over mean TPOT.
    """

    source: str
    group: ServerGroup
    rates: Gen[float]
    loads: tuple[float, ...]
    tail: tuple[float, ...]
    emulated: bool
    noise: tuple[Noise | None, ...] = ()
    simulated: bool = False
    layout: str = ""

    def tpot_limit_ms(self, plan: Plan[float]) -> float:
        """TPOT that a limit is held against, ms; the tail is read between measured loads like the curve."""
        return plan.tpot_s * 1000 * float(np.interp(plan.gen.load, self.loads, self.tail))


@dataclass(frozen=True)
class Pair:
    """A gen configuration with a ctx configuration that may feed it. ``flags``: what had to be assumed.

    ``handover_s``: time before the first token beyond ctx, the KV transfer of one request alone; 0 when nothing is
    known. ``bunching``: see :mod:`ratematch.match.closedloop`.
    """

    ctx: CtxOption
    gen: GenOption
    flags: tuple[str, ...]
    handover_s: float = 0.0
    bunching: float = 0.0


def one_instance(group: ServerGroup) -> ServerGroup:
    return replace(group, instances=1)


Candidate = tuple["CtxOption", list[tuple[float, float]], list[tuple[Noise | None, float]]]
"""A ctx configuration without capacities, its allowed rows (requests/s, TTFT), and of each the noise and the TTFT
that a limit is held against."""


def read_ctx_options(figures: Iterable[Figures], constraints: Constraints) -> list[CtxOption]:
    """Every ctx configuration with a row inside the TTFT limit, as rates of one instance.

    The curve is requests/s over the prompts being prefilled, c = requests/s x TTFT. Capacities are the rows within
    the limit (at its percentile) that no other row beats in requests/s and TTFT; a configuration that another one
    with the same MTP and KV layout beats in GPUs, requests/s and TTFT at once is left out.
    """
    candidates: list[Candidate] = []
    for rows in _by_experiment(figures):
        group = rows[0].experiment.deployment.ctx
        if group is None:
            continue
        curve = make_curve(
            [(row.req_s * row.ttft_ms / 1000 / group.instances, row.req_s / group.instances) for row in rows]
        )
        allowed: list[tuple[float, float]] = []
        beside: list[tuple[Noise | None, float]] = []
        for row in rows:
            if constraints.ttft_ms is None or row.ttft_limit_ms <= constraints.ttft_ms:
                load = row.req_s * row.ttft_ms / 1000 / group.instances
                rate = float(np.interp(load, curve.loads, curve.rates))
                allowed.append((rate, load / rate))
                beside.append((row.noise, row.ttft_limit_ms / 1000))
        if allowed:
            rates = Ctx(group.mapping.gpus, curve, ())
            experiment = rows[0].experiment
            option = CtxOption(
                experiment.id,
                one_instance(group),
                rates,
                experiment.emulated,
                simulated=experiment.simulated,
                layout=rows[0].layout,
            )
            candidates.append((option, allowed, beside))
    return _drop_beaten(candidates)


def _drop_beaten(candidates: Sequence[Candidate]) -> list[CtxOption]:
    options = []
    for mtp, layout in sorted({(option.group.mtp, option.layout) for option, _, _ in candidates}):
        same = [each for each in candidates if (each[0].group.mtp, each[0].layout) == (mtp, layout)]
        flat = [
            (k, n, option.rates.gpus, *row) for k, (option, rows, _) in enumerate(same) for n, row in enumerate(rows)
        ]
        kept = [flat[i] for i in keep_undominated([row[2:] for row in flat])]
        for k, (option, _, beside) in enumerate(same):
            own = sorted((rate, n) for owner, n, _, rate, _ in kept if owner == k)
            if own:
                rates = replace(option.rates, capacities=tuple(rate for rate, _ in own))
                noise, ttft_s = zip(*(beside[n] for _, n in own), strict=True)
                options.append(replace(option, rates=rates, noise=noise, ttft_limit_s=ttft_s))
    return options


def read_gen_options(figures: Iterable[Figures]) -> list[GenOption]:
    """Every gen configuration as rates of one instance.

    The curve counts decoded tokens, requests/s x (OSL - 1), over the requests that are decoding,
    C = requests/s x (OSL - 1) x TPOT: requests that wait for their first token are not part of it.
    """
    options = []
    for rows in _by_experiment(figures):
        group = rows[0].experiment.deployment.gen
        rows = [row for row in rows if row.osl > 1 and row.tpot_ms > 0]
        if group is None or not rows:
            continue
        tokens = gen_tokens_per_request(sum(row.osl for row in rows) / len(rows))
        points = []
        for row in rows:
            tok_s = row.req_s * gen_tokens_per_request(row.osl) / group.instances
            points.append((tok_s * row.tpot_ms / 1000, tok_s, row.tpot_limit_ms / row.tpot_ms, row.noise))
        points.sort(key=lambda point: point[:3])
        experiment = rows[0].experiment
        options.append(
            GenOption(
                source=experiment.id,
                group=one_instance(group),
                rates=Gen(group.mapping.gpus, make_curve([(load, rate) for load, rate, _, _ in points]), tokens),
                loads=tuple(load for load, _, _, _ in points),
                tail=tuple(tail for _, _, tail, _ in points),
                emulated=experiment.emulated,
                simulated=experiment.simulated,
                layout=rows[0].layout,
                noise=tuple({load: noise for load, _, _, noise in points}.values()),
            )
        )
    return options


def _by_experiment(figures: Iterable[Figures]) -> list[list[Figures]]:
    groups: dict[str, list[Figures]] = {}
    for row in figures:
        groups.setdefault(row.experiment.id, []).append(row)
    return [groups[key] for key in sorted(groups)]


def pair_options(ctx: Sequence[CtxOption], gen: Sequence[GenOption]) -> list[Pair]:
    """Each gen configuration with every ctx configuration of its KV layout and its MTP, else the nearest MTP
    measured.

    Both sides must carry the same MTP layers, or their KV layouts differ; a ctx rate measured with another MTP is
    an assumption, and flagged.
    """
    pairs = []
    for option in gen:
        mtp = option.group.mtp
        alike = [each for each in ctx if each.layout == option.layout]
        nearest = min((abs(c.group.mtp - mtp), c.group.mtp) for c in alike)[1] if alike else mtp
        flags: tuple[str, ...] = () if nearest == mtp else (f"ctx measured with mtp={nearest}, not {mtp}",)
        if option.rates.curve.smoothed:
            flags += ("gen tok/s fell with concurrency; pooled",)
        pairs += [Pair(c, option, flags) for c in alike if c.group.mtp == nearest]
    return pairs


def to_problem(pair: Pair) -> Problem:
    """The pair as the array solver takes it."""
    return Problem(pair.ctx.rates, pair.gen.rates, pair.gen.loads, pair.gen.tail)


def row_point(pair: Pair, rows: Rows, k: int, workload: str) -> Point:
    """Row ``k`` of the array solver as a point."""
    plan = rows.plan(k)
    point = _point(pair, plan, workload, label_deployment(pair, plan.x, plan.y))
    nodes = int(rows.nodes[k])
    return replace(point, nodes=nodes, gpus_allocated=int(rows.gpus_allocated[k])) if nodes else point


def predict_deployment(pair: Pair, x: int, y: int, *, workload: str, constraints: Constraints) -> list[Point]:
    """The rate-matched rows of ``x`` ctx and ``y`` gen instances over demand, ascending; limits filter here, last."""
    label = label_deployment(pair, x, y)
    return [
        _point(pair, plan, workload, label)
        for plan in plan_curve(pair.ctx.rates, pair.gen.rates, x, y)
        if constraints.tpot_ms is None or pair.gen.tpot_limit_ms(plan) <= constraints.tpot_ms
    ]


def _point(pair: Pair, plan: Plan[float], workload: str, label: str) -> Point:
    """The row of a plan. Its ``ratio`` is the ideal one at the gen point it runs at, or, when ctx is the limit and
    gen is throttled, at the highest gen rate measured: what x:y falls short of."""
    ctx, gen = pair.ctx, pair.gen
    osl = gen.rates.tokens_per_request + 1
    gen_rate = gen.rates.curve.max_rate if plan.limit == "ctx" else plan.gen.rate
    flags = pair.flags
    if plan.gen.clamped:
        flags += ("demand below the smallest gen concurrency measured: TPOT read there",)
    if plan.ctx.clamped and ctx.rates.curve.loads[0] > 1.05:
        flags += ("demand below the smallest ctx load measured: TTFT read there",)
    ttft_s = bunched_ttft_s(pair, plan) + pair.handover_s
    in_flight = plan.req_s * (ttft_s + (osl - 1) * plan.tpot_s)
    return Point(
        kind="rate_matched",
        workload=workload,
        label=label,
        ctx=plan.x,
        gen=plan.y,
        ctx_mapping=ctx.group.mapping.label,
        gen_mapping=gen.group.mapping.label,
        mtp=gen.group.mtp,
        gpus=plan.gpus,
        concurrency=in_flight,
        req_s=plan.req_s,
        tok_s=plan.req_s * osl,
        tok_s_user=1 / plan.tpot_s,
        tok_s_gpu=plan.req_s * osl / max(plan.gpus, 1),
        ttft_ms=ttft_s * 1000,
        tpot_ms=plan.tpot_s * 1000,
        little=in_flight / (plan.req_s * (ttft_s + (osl - 1) * plan.tpot_s)),
        osl=osl,
        limit=plan.limit,
        ratio=show_ratio(solve_ratio(ctx.rates.capacities[-1], gen.rates.req_s(gen_rate))),
        clamped=plan.clamped,
        emulated=ctx.emulated or gen.emulated,
        simulated=ctx.simulated or gen.simulated,
        sources=(ctx.source, gen.source),
        flags=flags,
    )


def bunched_ttft_s(pair: Pair, plan: Plan[float]) -> float:
    """TTFT of ctx when prompts arrive in bunches of ``bunching`` x N / x, with N what is then in flight, s.

    Each prompt more in a bunch holds up the others by no more than 1 / rate, so the search for N ends.
    """
    if not pair.bunching or not plan.x:
        return plan.ttft_s
    curve, ttft_s = pair.ctx.rates.curve, plan.ttft_s
    for _ in range(MOST_TURNS):
        in_flight = plan.req_s * (ttft_s + pair.handover_s + pair.gen.rates.tokens_per_request * plan.tpot_s)
        longer = max(plan.ttft_s, latency_at(curve, pair.bunching * in_flight / plan.x))
        if longer <= ttft_s * (1 + 1e-9):
            break
        ttft_s = longer
    return ttft_s


def label_deployment(pair: Pair, x: int, y: int) -> str:
    """The label an end-to-end run of this deployment has: ``ctx2xTEP4-gen1xDEP8-mtp1``."""
    groups = deploy(pair, x, y)
    return Deployment(ctx=groups[0], gen=groups[1]).label


def deploy(pair: Pair, x: int, y: int) -> tuple[ServerGroup, ServerGroup]:
    """The servers of a plan: those measured, ``x`` and ``y`` times; ctx takes the MTP of gen (same KV layout)."""
    ctx, gen = pair.ctx.group, pair.gen.group
    return replace(ctx, instances=x, mtp=gen.mtp), replace(gen, instances=y)


def bound_points(
    pair: Pair, *, workload: str, constraints: Constraints, gen_rates: Iterable[float] = ()
) -> list[Point]:
    """The ideal fractional ratio at each measured gen point, and at further ``gen_rates`` (tok/s of one instance).

    Rows are for one gen instance (``gen`` = 1) with its ideal share of ctx instances, which is no whole number:
    ``ctx`` and ``gpus`` are 0, ``ratio`` says the share.
    """
    ctx_rate = pair.ctx.rates.capacities[-1]
    rates = pair.gen.rates
    osl = rates.tokens_per_request + 1
    ctx_point = throttle(pair.ctx.rates.curve, ctx_rate)
    points = []
    for tok_s in sorted({*rates.curve.rates, *gen_rates}):
        req_s = rates.req_s(tok_s)
        gen_point = throttle(rates.curve, tok_s)
        plan = Plan(0, 1, 0, req_s, "both", ctx_point, gen_point)
        if constraints.tpot_ms is not None and pair.gen.tpot_limit_ms(plan) > constraints.tpot_ms:
            continue
        ratio = solve_ratio(ctx_rate, req_s)
        label = f"ctx{ratio:.3g}x{pair.ctx.group.mapping.label}-gen1x{pair.gen.group.mapping.label}"
        points.append(
            replace(
                _point(pair, plan, workload, f"{label}-mtp{pair.gen.group.mtp}"),
                kind="bound",
                tok_s_gpu=bound_tok_s_gpu(osl, pair.ctx.rates.gpus, ctx_rate, rates.gpus, req_s),
                ratio=show_ratio(ratio),
            )
        )
    return points
