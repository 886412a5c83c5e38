"""ctx and gen configurations, measured apart, as rates of one instance: what matching pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from ratematch.match.curves import Curve, make_curve
from ratematch.match.figures import Figures
from ratematch.match.matching import Ctx, Gen, Plan, gen_tokens_per_request, keep_undominated
from ratematch.match.noise import Noise
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Origin
from ratematch.plan.load import Constraints


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
    computed_share: float = 0.0
    """Share of each prompt that the server computed when it was measured alone, and does not in service."""
    tokens_per_step: float = 1.0
    """Tokens that a step gives a request; more than one with drafts, where it is known."""
    at_limit: int | None = None
    """Which point of the curve was not measured, but read where TPOT meets its limit; see
    :func:`ratematch.match.pairs.meet_tpot_limit`."""

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
        limit_ms = own_limit_ms(constraints, len(curve.loads))
        for row in rows:
            if limit_ms is None or row.ttft_limit_ms <= limit_ms:
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


def own_limit_ms(constraints: Constraints, loads: int) -> float | None:
    """The limit of the TTFT that a ctx server had alone, ms; ``None`` where it has none of its own.

    Where a limit is of the whole deployment, so are capacities: what a server sustains with its queue. One that was
    measured at a single one of ``loads`` does not tell how prompts queue, and is held to the limit as it is.
    """
    return None if constraints.in_service and loads > 1 else constraints.ttft_ms


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
    C = requests/s x (OSL - 1) x TPOT: requests that wait for their first token are not part of it. Where it is known
    how many decoded beside each other while any did (:attr:`Figures.decoding`), that is C, and the rate is C / TPOT.
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
            tok_s = row.req_s * gen_tokens_per_request(row.osl)
            if row.decoding is not None:
                tok_s = row.decoding / row.tpot_ms * 1000
            tok_s /= group.instances
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
                computed_share=fmean(row.computed_share for row in rows),
                tokens_per_step=fmean(row.tokens_per_step for row in rows),
            )
        )
    return options


def _by_experiment(figures: Iterable[Figures]) -> list[list[Figures]]:
    groups: dict[str, list[Figures]] = {}
    for row in figures:
        groups.setdefault(row.experiment.id, []).append(row)
    return [groups[key] for key in sorted(groups)]
