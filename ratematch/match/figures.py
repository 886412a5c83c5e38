"""Measured loads to figures: repeats averaged, what cannot be used set apart with the reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.noise import Noise, draw, interval, noise_of_mean, pool_noise
from ratematch.match.points import Kind, Point
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.plan.deployment import STAGES, Stage
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Constraints, Load

LeftOut = tuple[str, str, tuple[str, ...]]

DRAWS = 2000
"""Draws for the interval of one rate: its ends are then good to two digits."""


@dataclass(frozen=True)
class Figures:
    """One operating point of one experiment, the mean over its repeats, of the whole deployment.

    ``tpot_ms`` is 0 when OSL is 1 (no token is decoded), ``ttft_ms`` in gen_only and gen_only_warmed, which have
    none and whose matching needs none. ``ttft_limit_ms`` and ``tpot_limit_ms``: at the percentile that constraints
    are judged at. ``little``: from the averaged figures. ``tokens_per_step``: of a request, 1 without drafts.
    ``layout``, ``decoding``, ``computed_share``: see :class:`Measured`. ``noise``: of the mean rates, ``None``
    without repeats and within-run batches.
    """

    experiment: Experiment
    load: Load
    in_flight: float
    req_s: float
    tok_s: float
    ttft_ms: float
    tpot_ms: float
    ttft_limit_ms: float
    tpot_limit_ms: float
    osl: float
    repeats: int
    warnings: tuple[str, ...]
    noise: Noise | None = None
    breakdown: Breakdown | None = None
    layout: str = ""
    decoding: float | None = None
    computed_share: float = 0.0
    tokens_per_step: float = 1.0

    @property
    def latency_s(self) -> float:
        return (self.ttft_ms + (self.osl - 1) * self.tpot_ms) / 1000

    @property
    def little(self) -> float:
        return self.in_flight / (self.req_s * self.latency_s)


def collect_figures(measured: Iterable[Measured], constraints: Constraints) -> tuple[list[Figures], list[LeftOut]]:
    """Figures of every valid load, repeats of the same operating point averaged; and (experiment, load, why not)."""
    groups: dict[tuple[str, Load], list[Figures]] = {}
    left_out: list[LeftOut] = []
    for row in measured:
        reasons = row.measurement.reasons if not row.measurement.valid else _missing(row, constraints)
        figures = None if reasons or not row.measurement.valid else _read(row, constraints)
        if figures is None:
            left_out.append((row.experiment.label, row.load.label, reasons or ("not valid",)))
            continue
        groups.setdefault((row.experiment.id, _operating_point(row.load)), []).append(figures)
    return _add_noise(list(groups.values())), left_out


def _add_noise(groups: Sequence[Sequence[Figures]]) -> list[Figures]:
    """Each group averaged, with the noise of its mean rate: repeats of one stage are pooled, for few show little."""
    pooled = {
        stage: pool_noise([[row.req_s for row in group] for group in groups if group[0].experiment.stage == stage])
        for stage in STAGES
    }
    rows = [
        replace(
            _average(group),
            noise=noise_of_mean(len(group), pooled[group[0].experiment.stage], [row.noise for row in group]),
        )
        for group in groups
    ]
    usual = {stage: _usual_noise([row for row in rows if row.experiment.stage == stage]) for stage in STAGES}
    return [row if row.noise else replace(row, noise=usual[row.experiment.stage]) for row in rows]


def _usual_noise(rows: Sequence[Figures]) -> Noise | None:
    """For rows too short to tell their own: root mean square of those of the same stage that do."""
    known = [row.noise for row in rows if row.noise is not None]
    if not known:
        return None
    rel = (sum(noise.rel**2 for noise in known) / len(known)) ** 0.5
    return Noise(rel, min(noise.dof for noise in known), "other rows of its stage")


def _operating_point(load: Load) -> Load:
    """What makes two loads repeats of one another: the pressure, not how long it was kept up."""
    return replace(load, num_requests=0, warmup=0, repeat=0)


def _missing(row: Measured, constraints: Constraints) -> tuple[str, ...]:
    m = row.measurement
    needed: dict[str, object] = {"requests/s": m.req_s, "tok/s": m.tok_s, "OSL": m.osl_mean}
    needed["requests in flight"] = m.in_flight
    if row.experiment.mode not in ("gen_only", "gen_only_warmed"):
        needed["TTFT"] = m.ttft_ms
    if row.experiment.stage != "ctx":
        needed["TPOT"] = m.tpot_ms
    names = [name for name, value in needed.items() if not value]
    # Imported figures may hold a mean and no such percentile; a limit cannot be judged by what is not known.
    names += [
        f"{what} at percentile {constraints.percentile}"
        for what, stats in (("TTFT", m.ttft_ms), ("TPOT", m.tpot_ms))
        if stats is not None and math.isnan(stats.at(constraints.percentile))
    ]
    return (f"no {', '.join(names)} measured",) if names else ()


def _read(row: Measured, constraints: Constraints) -> Figures:
    m: Measurement = row.measurement
    assert m.in_flight and m.req_s and m.tok_s and m.osl_mean  # _missing() saw to it
    return Figures(
        experiment=row.experiment,
        load=row.load,
        in_flight=m.in_flight,
        req_s=m.req_s,
        tok_s=m.tok_s,
        ttft_ms=m.ttft_ms.mean if m.ttft_ms else 0.0,
        tpot_ms=m.tpot_ms.mean if m.tpot_ms else 0.0,
        ttft_limit_ms=m.ttft_ms.at(constraints.percentile) if m.ttft_ms else 0.0,
        tpot_limit_ms=m.tpot_ms.at(constraints.percentile) if m.tpot_ms else 0.0,
        osl=m.osl_mean,
        repeats=1,
        warnings=m.warnings,
        noise=row.noise,
        breakdown=row.breakdown,
        layout=row.layout,
        decoding=row.decoding,
        computed_share=row.computed_share,
        tokens_per_step=m.acceptance_length or 1.0,
    )


def _average(group: Sequence[Figures]) -> Figures:
    def mean(name: str) -> float:
        values: list[float] = [getattr(figures, name) for figures in group]
        return sum(values) / len(values)

    return replace(
        group[0],
        in_flight=mean("in_flight"),
        req_s=mean("req_s"),
        tok_s=mean("tok_s"),
        ttft_ms=mean("ttft_ms"),
        tpot_ms=mean("tpot_ms"),
        ttft_limit_ms=mean("ttft_limit_ms"),
        tpot_limit_ms=mean("tpot_limit_ms"),
        osl=mean("osl"),
        decoding=None if any(figures.decoding is None for figures in group) else mean("decoding"),
        computed_share=mean("computed_share"),
        tokens_per_step=mean("tokens_per_step"),
        repeats=len(group),
        warnings=tuple(dict.fromkeys(text for figures in group for text in figures.warnings)),
    )


def select_stage(figures: Iterable[Figures], stage: Stage) -> list[Figures]:
    return [row for row in figures if row.experiment.stage == stage]


OVER_LIMIT = "over the"
"""How the flag of a measured row begins that breaks a constraint."""


def measured_point(row: Figures, kind: Kind, constraints: Constraints) -> Point:
    """A measured row as a point; what it breaks of the constraints is a flag."""
    deployment = row.experiment.deployment
    ctx, gen = deployment.ctx, deployment.gen
    own = deployment.agg or gen or ctx
    flags = list(row.warnings)
    if row.repeats > 1:
        flags.append(f"mean of {row.repeats} repeats")
    for what, value, limit in (
        ("TTFT", row.ttft_limit_ms, constraints.ttft_ms),
        ("TPOT", row.tpot_limit_ms, constraints.tpot_ms),
    ):
        if limit is not None and value > limit:
            flags.append(f"{OVER_LIMIT} {what} limit: {value:.4g} ms > {limit:g} ms")
    low = high = None
    if row.noise is not None:
        factors = interval(draw(row.noise, DRAWS, np.random.default_rng(0)))
        low, high = (row.tok_s / deployment.gpus * factor for factor in factors)
    return Point(
        kind=kind,
        workload=row.experiment.workload.label,
        label=deployment.label,
        ctx=ctx.instances if ctx else 0,
        gen=gen.instances if gen else 0,
        ctx_mapping=ctx.mapping.label if ctx else None,
        gen_mapping=own.mapping.label if own and own is not ctx else None,
        mtp=deployment.mtp,
        gpus=deployment.gpus,
        concurrency=row.in_flight,
        req_s=row.req_s,
        tok_s=row.tok_s,
        tok_s_user=1000 / row.tpot_ms,
        tok_s_gpu=row.tok_s / deployment.gpus,
        ttft_ms=row.ttft_ms,
        tpot_ms=row.tpot_ms,
        little=row.little,
        osl=row.osl,
        emulated=row.experiment.emulated,
        simulated=row.experiment.simulated,
        sources=(row.experiment.id,),
        flags=tuple(flags),
        tok_s_gpu_low=low,
        tok_s_gpu_high=high,
        ctx_options=ctx.tag if ctx else "",
        gen_options=own.tag if own and own is not ctx else "",
    )
