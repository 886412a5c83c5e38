"""Context and generation figures, measured apart, to the rows they predict together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.curves import Curve, Reading, latency_at, make_curve, throttle
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
from ratematch.plan.experiment import ORIGINS, Origin
from ratematch.plan.load import Constraints

MOST_TURNS = 100
"""Of the search for what is in flight with bunches; it stops earlier where nothing changes any more."""


@dataclass(frozen=True)
class CtxOption:
    """One measured ctx configuration, as rates of one instance."""

    source: str
    """Which measurement it is: the id of an experiment, or rows of a table."""
    label: str
    """Its parallelism, or its name in a table."""
    mtp: int | None
    """Draft tokens a step; ``None`` when a table does not say."""
    rates: Ctx[float]
    group: ServerGroup | None = None
    """Its servers, one instance; ``None`` when a table gives rates alone."""
    noise: tuple[Noise | None, ...] = ()
    """Of each capacity."""
    ttft_limit_s: tuple[float, ...] = ()
    """TTFT measured at each capacity, s, at the percentile of the constraints."""
    layout: str = ""
    """Of its KV cache."""
    origin: Origin = "real"

    @property
    def servers(self) -> ServerGroup:
        """See :func:`_servers_of`."""
        return _servers_of(self.label, self.group)


@dataclass(frozen=True)
class GenOption:
    """One measured gen configuration, as rates of one instance; see :class:`CtxOption`."""

    source: str
    label: str
    mtp: int | None
    rates: Gen[float]
    loads: tuple[float, ...]
    """Requests decoding at each measured point."""
    tail: tuple[float, ...]
    """At each of ``loads``, TPOT at the percentile of the constraints over mean TPOT."""
    group: ServerGroup | None = None
    noise: tuple[Noise | None, ...] = ()
    """Of the rate at each load of the curve."""
    layout: str = ""
    origin: Origin = "real"
    tokens_from_ctx: int = 1
    """Tokens of an answer that the rates do not count, for ctx sends them; 0 where they count all (tables)."""

    @property
    def servers(self) -> ServerGroup:
        """See :func:`_servers_of`."""
        return _servers_of(self.label, self.group)

    @property
    def osl(self) -> float:
        """Output tokens of a request."""
        return self.rates.tokens_per_request + self.tokens_from_ctx

    def tpot_limit_ms(self, plan: Plan[float]) -> float:
        """TPOT that a limit is held against, ms; the tail is read between measured loads like the curve."""
        return plan.tpot_s * 1000 * float(np.interp(plan.gen.load, self.loads, self.tail))


def _servers_of(label: str, group: ServerGroup | None) -> ServerGroup:
    """The measured servers, one instance.

    Raises:
        ValueError: they come from a table, which gives rates alone.
    """
    if group is None:
        raise ValueError(f"{label}: its servers are not known, only its rates")
    return group


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


@dataclass(frozen=True)
class CtxRow:
    """One measured row of a ctx configuration, of one instance: requests/s, and the TTFT at it.

    ``latency_s``: mean TTFT as the curve has it, ``None`` when it is not known. ``ttft_limit_s``: what a limit is
    held against.
    """

    req_s: float
    latency_s: float | None
    ttft_limit_s: float
    noise: Noise | None = None


def read_ctx_options(figures: Iterable[Figures], constraints: Constraints) -> list[CtxOption]:
    """Every ctx configuration with a row inside the TTFT limit, as rates of one instance.

    The curve is requests/s over the prompts being prefilled, c = requests/s x TTFT. Capacities: see
    :func:`keep_capacities`.
    """
    candidates: list[tuple[CtxOption, list[CtxRow]]] = []
    for rows in _by_experiment(figures):
        experiment = rows[0].experiment
        group = experiment.deployment.ctx
        if group is None:
            continue
        curve = make_curve(
            [(row.req_s * row.ttft_ms / 1000 / group.instances, row.req_s / group.instances) for row in rows]
        )
        allowed = []
        for row in rows:
            if constraints.ttft_ms is None or row.ttft_limit_ms <= constraints.ttft_ms:
                load = row.req_s * row.ttft_ms / 1000 / group.instances
                allowed.append(read_ctx_row(curve, load, row.ttft_limit_ms / 1000, row.noise))
        option = CtxOption(
            source=experiment.id,
            label=group.mapping.label,
            mtp=group.mtp,
            rates=Ctx(group.mapping.gpus, curve, ()),
            group=one_instance(group),
            layout=rows[0].layout,
            origin=experiment.origin,
        )
        candidates.append((option, allowed))
    return keep_capacities(candidates)


def read_ctx_row(curve: Curve[float], load: float, ttft_limit_s: float, noise: Noise | None) -> CtxRow:
    """The row of ``curve`` with ``load`` prompts in flight."""
    rate = float(np.interp(load, curve.loads, curve.rates))
    return CtxRow(rate, load / rate, ttft_limit_s, noise)


def keep_capacities(candidates: Sequence[tuple[CtxOption, Sequence[CtxRow]]]) -> list[CtxOption]:
    """The configurations with the rows that no other row beats in GPUs, requests/s and TTFT at once as capacities.

    Rows are held against those of the same MTP and KV layout; those without a TTFT against their own configuration
    only. A configuration with no row left is left out.
    """
    groups: dict[tuple[int, str, str], list[tuple[CtxOption, Sequence[CtxRow]]]] = {}
    for option, rows in candidates:
        alone = option.source if any(row.latency_s is None for row in rows) else ""
        groups.setdefault((-1 if option.mtp is None else option.mtp, option.layout, alone), []).append((option, rows))
    options = []
    for key in sorted(groups):
        flat = [(k, row) for k, (_, rows) in enumerate(groups[key]) for row in rows]
        rates = [
            (groups[key][k][0].rates.gpus, row.req_s, math.inf if row.latency_s is None else row.latency_s)
            for k, row in flat
        ]
        kept = [flat[i] for i in keep_undominated(rates)]
        for k, (option, _) in enumerate(groups[key]):
            if own := [row for owner, row in kept if owner == k]:
                options.append(with_capacities(option, own))
    return options


def with_capacities(option: CtxOption, rows: Iterable[CtxRow]) -> CtxOption:
    """The configuration with the rates of these rows as its capacities, ascending."""
    own = sorted(rows, key=lambda row: row.req_s)
    return replace(
        option,
        rates=replace(option.rates, capacities=tuple(row.req_s for row in own)),
        noise=tuple(row.noise for row in own),
        ttft_limit_s=tuple(row.ttft_limit_s for row in own),
    )


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
                label=group.mapping.label,
                mtp=group.mtp,
                rates=Gen(group.mapping.gpus, make_curve([(load, rate) for load, rate, _, _ in points]), tokens),
                loads=tuple(load for load, _, _, _ in points),
                tail=tuple(tail for _, _, tail, _ in points),
                group=one_instance(group),
                noise=tuple({load: noise for load, _, _, noise in points}.values()),
                layout=rows[0].layout,
                origin=experiment.origin,
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
    an assumption, and flagged. An MTP that is not known goes with any.
    """
    pairs = []
    for option in gen:
        alike = [each for each in ctx if each.layout == option.layout]
        fed = [each for each in alike if None in (each.mtp, option.mtp) or each.mtp == option.mtp]
        flags: tuple[str, ...] = ()
        if not fed and option.mtp is not None and alike:
            nearest = min((abs(mtp - option.mtp), mtp) for each in alike if (mtp := each.mtp) is not None)[1]
            fed = [each for each in alike if each.mtp == nearest]
            flags = (f"ctx measured with mtp={nearest}, not {option.mtp}",)
        if option.rates.curve.smoothed:
            flags += ("gen tok/s fell with concurrency; pooled",)
        pairs += [Pair(each, option, flags) for each in fed]
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
    osl, tokens = gen.osl, gen.osl - gen.tokens_from_ctx
    gen_rate = gen.rates.curve.max_rate if plan.limit == "ctx" else plan.gen.rate
    flags = pair.flags
    if plan.gen.clamped:
        flags += ("demand below the smallest gen concurrency measured: TPOT read there",)
    if plan.ctx.clamped and ctx.rates.curve.loads[0] > 1.05:
        flags += ("demand below the smallest ctx load measured: TTFT read there",)
    ttft_s = bunched_ttft_s(pair, plan) + pair.handover_s
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
        tok_s_gpu=plan.req_s * osl / max(plan.gpus, 1),
        ttft_ms=ttft_s * 1000,
        tpot_ms=plan.tpot_s * 1000,
        little=None,
        osl=osl,
        limit=plan.limit,
        ratio=show_ratio(solve_ratio(ctx.rates.capacities[-1], gen.rates.req_s(gen_rate))),
        clamped=plan.clamped,
        emulated=origin != "real",
        simulated=origin == "simulated",
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


def bound_points(
    pair: Pair, *, workload: str, constraints: Constraints, gen_rates: Iterable[float] = ()
) -> list[Point]:
    """The ideal fractional ratio at each measured gen point, and at further ``gen_rates`` (tok/s of one instance)."""
    curve = pair.gen.rates.curve
    readings = [throttle(curve, tok_s) for tok_s in sorted({*curve.rates, *gen_rates})]
    points = [bound_point(pair, reading, workload, constraints) for reading in readings]
    return [point for point in points if point is not None]


def bound_point(pair: Pair, gen: Reading[float], workload: str, constraints: Constraints) -> Point | None:
    """The ideal fractional ratio with a gen instance at ``gen``; ``None`` when its TPOT is over the limit.

    The row is for one gen instance (``gen`` = 1) with its ideal share of ctx instances, which is no whole number:
    ``ctx`` and ``gpus`` are 0, ``ratio`` says the share.
    """
    rates, ctx_rate = pair.gen.rates, pair.ctx.rates.capacities[-1]
    req_s = rates.req_s(gen.rate)
    plan = Plan(0, 1, 0, req_s, "both", throttle(pair.ctx.rates.curve, ctx_rate), gen)
    if constraints.tpot_ms is not None and pair.gen.tpot_limit_ms(plan) > constraints.tpot_ms:
        return None
    ratio = solve_ratio(ctx_rate, req_s)
    label = f"ctx{ratio:.3g}x{pair.ctx.label}-gen1x{pair.gen.label}-mtp{pair.gen.mtp or 0}"
    return replace(
        _point(pair, plan, workload, label),
        kind="bound",
        tok_s_gpu=bound_tok_s_gpu(pair.gen.osl, pair.ctx.rates.gpus, ctx_rate, rates.gpus, req_s),
        ratio=show_ratio(ratio),
    )
