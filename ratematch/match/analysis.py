"""Everything measured, to fronts, gaps and speed-ups per workload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import gcd

from ratematch.errors import ResultsError
from ratematch.match.figures import Figures, collect_figures, select_stage
from ratematch.match.pareto import extract_front, find_overlap, linear_at, log_grid, speed_up
from ratematch.match.points import Analysis, Gap, Kind, Measured, Point, Speedup, WorkloadAnalysis
from ratematch.match.predict import (
    Pair,
    bound_points,
    one_instance,
    pair_options,
    predict_deployment,
    read_ctx_options,
    read_gen_options,
    solve_pair,
)
from ratematch.plan.constraints import Constraints
from ratematch.plan.deployment import Deployment
from ratematch.plan.workload import Workload

SPEEDUP_GRID = 9
"""Interactivities at which fronts are compared, log-spaced over their overlap."""


def analyze(measured: Sequence[Measured], *, sweep: str, constraints: Constraints, max_gpus: int) -> Analysis:
    """Fronts, plans, gaps and speed-ups of every workload measured. ``max_gpus``: largest deployment planned.

    What is missing or not valid leaves fronts empty and a note or a ``left_out`` entry behind.

    Raises:
        ResultsError: nothing was measured, or emulated and real results (or two models, GPUs or engines) are mixed.
    """
    if not measured:
        raise ResultsError(f"{sweep}: nothing is measured yet")
    _refuse_mixture(measured, sweep)
    first = measured[0].experiment
    return Analysis(
        sweep=sweep,
        model=first.model,
        gpu=first.gpu,
        engine=f"{first.engine.name} {first.engine.version}",
        emulated=first.emulated,
        workloads=tuple(
            analyze_workload(measured, workload, constraints=constraints, max_gpus=max_gpus)
            for workload in list_workloads(measured)
        ),
    )


def _refuse_mixture(measured: Sequence[Measured], sweep: str) -> None:
    first = measured[0].experiment
    for row in measured:
        other = row.experiment
        for what, a, b in (
            ("emulated and real results", first.emulated, other.emulated),
            ("models", first.model, other.model),
            ("GPUs", first.gpu, other.gpu),
            ("engines", first.engine, other.engine),
        ):
            if a != b:
                raise ResultsError(
                    f"{sweep}: {what} never share a front, but {first.folder} ({_say(a)}) and "
                    f"{other.folder} ({_say(b)}) are both here: analyse them as separate sweeps"
                )


def _say(value: object) -> str:
    if isinstance(value, bool):
        return "emulated" if value else "real"
    return str(value)


def list_workloads(measured: Iterable[Measured]) -> list[Workload]:
    """The workloads that have a front: those of gen, IFB and end-to-end runs, or, with ctx runs alone, theirs."""
    rows = list(measured)
    whole = {row.experiment.workload for row in rows if row.experiment.stage != "ctx"}
    return sorted(whole or {row.experiment.workload for row in rows})


def select_workload(measured: Sequence[Measured], workload: Workload) -> list[Measured]:
    """The rows that speak about ``workload``. When no ctx run is of the workload itself, those of the same ISL count:
    a context server emits one token, whatever the OSL."""
    rows = [row for row in measured if row.experiment.workload == workload]
    if not any(row.experiment.stage == "ctx" for row in rows):
        rows += [r for r in measured if r.experiment.stage == "ctx" and r.experiment.workload.isl == workload.isl]
    return rows


def analyze_workload(
    measured: Sequence[Measured], workload: Workload, *, constraints: Constraints, max_gpus: int
) -> WorkloadAnalysis:
    """One workload's fronts, plans, gaps and speed-ups."""
    rows = select_workload(measured, workload)
    figures, left_out = collect_figures(rows, constraints)
    pairs = find_pairs(figures, constraints)
    name = workload.label
    plans = [p for pair in pairs for p in solve_pair(pair, workload=name, constraints=constraints, max_gpus=max_gpus)]
    rate_matched = _front(plans)
    bounds = [p for pair in pairs for p in _bounds(pair, rate_matched, name, constraints)]
    end_to_end = [_measured_point(row, "end_to_end", constraints) for row in select_stage(figures, "e2e")]
    ifb = [_measured_point(row, "ifb", constraints) for row in select_stage(figures, "ifb")]
    ifb_front = _front(_allowed(ifb))
    e2e_front = _front(_allowed(end_to_end))
    return WorkloadAnalysis(
        workload=name,
        emulated=rows[0].experiment.emulated,
        bound=_front(bounds),
        rate_matched=rate_matched,
        end_to_end=e2e_front,
        ifb=ifb_front,
        plans=tuple(plans),
        measured=(*end_to_end, *ifb),
        gaps=tuple(_gaps(select_stage(figures, "e2e"), pairs, rate_matched, constraints)),
        speedups=(
            *_speedups("rate_matched", rate_matched, ifb_front),
            *_speedups("end_to_end", e2e_front, ifb_front),
        ),
        left_out=tuple(left_out),
        notes=tuple(_notes(figures, pairs, plans, ifb, end_to_end, constraints, max_gpus)),
    )


def find_pairs(figures: Sequence[Figures], constraints: Constraints) -> list[Pair]:
    """Every measured gen configuration with the ctx configurations that may feed it."""
    ctx = read_ctx_options(select_stage(figures, "ctx"), constraints)
    return pair_options(ctx, read_gen_options(select_stage(figures, "gen")))


def _objectives(point: Point) -> tuple[float, float]:
    # Twelve digits: the same deployment reached by two sums must not appear twice.
    return float(f"{point.tok_s_user:.12g}"), float(f"{point.tok_s_gpu:.12g}")


def _front(points: Iterable[Point]) -> tuple[Point, ...]:
    """Without dominated or duplicate rows, ascending tok/s/user; of equals the one with fewer GPUs, then TTFT."""
    return extract_front(
        points, _objectives, prefer=lambda p: (len(p.flags), p.gpus, p.ttft_ms, p.label, p.sources, p.req_s)
    )


def _bounds(pair: Pair, front: Sequence[Point], workload: str, constraints: Constraints) -> list[Point]:
    """Bounds at the measured gen points and at those the front runs at, so that they lie above it everywhere."""
    tokens = pair.gen.rates.tokens_per_request
    rates = [p.req_s * tokens / p.gen for p in front if p.sources == (pair.ctx.source, pair.gen.source)]
    within = [min(rate, pair.gen.rates.curve.max_rate) for rate in rates]
    return bound_points(pair, workload=workload, constraints=constraints, gen_rates=within)


OVER_LIMIT = "over the"
"""How the flag of a measured row begins that breaks a constraint."""


def _measured_point(row: Figures, kind: Kind, constraints: Constraints) -> Point:
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
        sources=(row.experiment.id,),
        flags=tuple(flags),
    )


def _allowed(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if not any(flag.startswith(OVER_LIMIT) for flag in point.flags)]


def _pairs_of(front: Sequence[Point]) -> list[tuple[float, float]]:
    return [_objectives(point) for point in front]


def _speedups(kind: Kind, front: Sequence[Point], ifb: Sequence[Point]) -> list[Speedup]:
    a, b = _pairs_of(front), _pairs_of(ifb)
    overlap = find_overlap(a, b)
    if overlap is None:
        return []
    grid = [float(u) for u in log_grid(*overlap, SPEEDUP_GRID)]
    return [Speedup(kind, u, *speed_up(a, b, u)) for u in grid]


def _gaps(
    rows: Iterable[Figures], pairs: Sequence[Pair], front: Sequence[Point], constraints: Constraints
) -> list[Gap]:
    """Each end-to-end row against the prediction of its own deployment and against the whole front."""
    unlimited = replace(constraints, tpot_ms=None)
    gaps = []
    for row in rows:
        point = _measured_point(row, "end_to_end", constraints)
        pair = find_pair(pairs, row.experiment.deployment)
        predicted = None
        if pair is not None and point.ctx and point.gen:
            divisor = gcd(point.ctx, point.gen)
            x, y = point.ctx // divisor, point.gen // divisor
            curve = predict_deployment(pair, x, y, workload=point.workload, constraints=unlimited)
            predicted = predict_at(_pairs_of(_front(curve)), point.tok_s_user)
        at_front = predict_at(_pairs_of(front), point.tok_s_user)
        gaps.append(
            Gap(
                label=point.label,
                tok_s_user=point.tok_s_user,
                end_to_end=point.tok_s_gpu,
                rate_matched=predicted,
                ratio=point.tok_s_gpu / predicted if predicted else None,
                front=at_front,
                front_ratio=point.tok_s_gpu / at_front if at_front else None,
            )
        )
    return gaps


def predict_at(curve: Sequence[tuple[float, float]], u: float) -> float | None:
    """Predicted tok/s/GPU of one deployment, or of the front, at ``u`` tok/s/user, linear between its rows.

    Below its lowest u it is the highest rate: a deployment whose users get more also keeps ``u``. ``None`` above its
    highest u, where nothing was measured.
    """
    if curve and u < curve[0][0]:
        return curve[0][1]
    return linear_at(curve, u)


def find_pair(pairs: Sequence[Pair], deployment: Deployment) -> Pair | None:
    """The measured pair that a disaggregated deployment is made of: the same servers, else the same mappings."""
    if deployment.ctx is None or deployment.gen is None:
        return None
    ctx, gen = one_instance(deployment.ctx), one_instance(deployment.gen)
    for pair in pairs:
        if pair.gen.group == gen and replace(pair.ctx.group, mtp=gen.mtp) == ctx:
            return pair
    for pair in pairs:
        own = pair.gen.group
        if (own.mapping, own.mtp, pair.ctx.group.mapping) == (gen.mapping, gen.mtp, ctx.mapping):
            return pair
    return None


def _notes(
    figures: Sequence[Figures],
    pairs: Sequence[Pair],
    plans: Sequence[Point],
    ifb: Sequence[Point],
    end_to_end: Sequence[Point],
    constraints: Constraints,
    max_gpus: int,
) -> list[str]:
    """What a reader must know about the fronts, in words."""
    notes = []
    ctx, gen = select_stage(figures, "ctx"), select_stage(figures, "gen")
    if not ctx:
        notes.append("no valid ctx measurement: nothing to rate-match")
    elif not read_ctx_options(ctx, constraints):
        notes.append(f"no ctx measurement within TTFT {constraints.ttft_ms:g} ms ({constraints.percentile})")
    if not gen:
        notes.append("no valid gen measurement: nothing to rate-match")
    elif not read_gen_options(gen):
        notes.append("no gen measurement decodes: OSL must be above 1")
    if pairs and not plans:
        limit = f" within TPOT {constraints.tpot_ms:g} ms" if constraints.tpot_ms is not None else ""
        notes.append(f"no deployment of up to {max_gpus} GPUs{limit}")
    if plans:
        notes.append(
            "rate-matched TTFT is the ctx server's own: KV transfer, orchestrator and queueing are not in it; "
            "deployments are listed without common divisor (k copies have the same figures per GPU)"
        )
    if any(pair.gen.rates.curve.smoothed or pair.ctx.rates.curve.smoothed for pair in pairs):
        notes.append("some measured rates fell with load and were pooled to non-falling ones")
    if not ifb:
        notes.append("no valid IFB measurement: no speed-up")
    if not end_to_end:
        notes.append("no valid end-to-end measurement")
    for name, rows in (("IFB", ifb), ("end-to-end", end_to_end)):
        over = len(rows) - len(_allowed(rows))
        if over:
            notes.append(f"{over} of {len(rows)} {name} rows are over a limit and not on the front")
    return notes
