"""Everything measured, to fronts, gaps and speed-ups per workload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import gcd

from ratematch.errors import ResultsError
from ratematch.match.calibration import apply_calibration, fit_calibration
from ratematch.match.compare import compare_fronts, draw_measured_fronts, sum_up
from ratematch.match.feasibility import Site, add_transfer
from ratematch.match.figures import OVER_LIMIT, Figures, collect_figures, measured_point, select_stage
from ratematch.match.frontier import MOST_ROWS, SHOWN_WITHIN, Frontier, find_frontier
from ratematch.match.gaps import find_gaps, say_transfer
from ratematch.match.matching import Objective
from ratematch.match.objective import OVER_BUDGET, Counting
from ratematch.match.openloop import plan_serving
from ratematch.match.pairs import Pair, bound_points, pair_options, read_ctx_options, read_gen_options
from ratematch.match.pareto import extract_front
from ratematch.match.points import Analysis, Kind, Point, ServingPlan, WorkloadAnalysis, objectives
from ratematch.match.servicetime import Routing
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Stage
from ratematch.plan.load import Constraints
from ratematch.plan.workload import Workload

MEASURED_KINDS: tuple[tuple[Kind, Stage], ...] = (("end_to_end", "e2e"), ("ifb", "ifb"))

DRAWS = 200
"""Bootstrap draws: the ends of a 95 % interval then move by a few per cent of its width."""


def analyze(
    measured: Sequence[Measured],
    *,
    sweep: str,
    constraints: Constraints,
    max_gpus: int,
    draws: int = DRAWS,
    calibrate: bool = False,
    site: Site | None = None,
    request_rate: float | None = None,
    routing: Routing = "round_robin",
    objective: Objective = "per_used_gpu",
) -> Analysis:
    """Fronts, plans, gaps and speed-ups of every workload measured. ``max_gpus``: largest deployment planned.

    What is missing or not valid leaves fronts empty and a note or a ``left_out`` entry behind. ``draws``: bootstrap
    draws for the intervals, which exist where repeats or batches tell the noise of the rates; 0 leaves them out.
    ``calibrate``: predict with the factors fitted to the end-to-end runs. ``site``: leave out what the machines
    cannot carry, count nodes and KV transfer. ``request_rate``: requests/s, Poisson arrivals, to find the smallest
    deployments for; ``routing``: how they reach ctx instances. ``objective``: which GPUs tok/s/GPU is over.

    Raises:
        ResultsError: nothing was measured, or results of different origins, models, GPUs or engines are mixed.
    """
    if not measured:
        raise ResultsError(f"{sweep}: nothing is measured yet")
    _refuse_mixture(measured, sweep)
    first = measured[0].experiment
    return Analysis(
        sweep=sweep,
        model=first.model,
        gpu=first.gpu,
        engine=first.stack,
        emulated=first.emulated,
        simulated=first.simulated,
        objective=objective,
        workloads=tuple(
            analyze_workload(
                measured,
                workload,
                constraints=constraints,
                max_gpus=max_gpus,
                draws=draws,
                calibrate=calibrate,
                site=site,
                request_rate=request_rate,
                routing=routing,
                objective=objective,
            )
            for workload in list_workloads(measured)
        ),
    )


def _refuse_mixture(measured: Sequence[Measured], sweep: str) -> None:
    first = measured[0].experiment
    for row in measured:
        other = row.experiment
        for what, a, b in (
            (" and ".join(sorted({first.origin, other.origin})) + " results", first.origin, other.origin),
            ("models", first.model, other.model),
            ("GPUs", first.gpu, other.gpu),
            ("engines or step-time models", first.stack, other.stack),
        ):
            if a != b:
                raise ResultsError(
                    f"{sweep}: {what} never share a front, but {first.folder} ({a}) and "
                    f"{other.folder} ({b}) are both here: analyse them as separate sweeps"
                )


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
    measured: Sequence[Measured],
    workload: Workload,
    *,
    constraints: Constraints,
    max_gpus: int,
    draws: int = 0,
    calibrate: bool = False,
    site: Site | None = None,
    request_rate: float | None = None,
    routing: Routing = "round_robin",
    objective: Objective = "per_used_gpu",
) -> WorkloadAnalysis:
    """One workload's fronts, plans, gaps and speed-ups."""
    rows = select_workload(measured, workload)
    figures, left_out = collect_figures(rows, constraints)
    name = workload.label
    site = (site or Site()).at_isl(workload.isl)
    measured_pairs = find_pairs(figures, constraints)
    too_slow: list[str] = []
    if site.links is not None:
        measured_pairs, too_slow = add_transfer(measured_pairs, site.links, max_gpus, constraints.ttft_ms)
    calibration = fit_calibration(select_stage(figures, "e2e"), measured_pairs)
    used = calibration if calibrate else None
    pairs = apply_calibration(measured_pairs, used) if used else measured_pairs
    counting = Counting(objective, max_gpus, site.packing)
    frontier = find_frontier(
        pairs,
        workload=name,
        constraints=constraints,
        max_gpus=max_gpus,
        site=site,
        draws=draws,
        counting=counting,
    )
    serving: list[ServingPlan] = []
    if request_rate is not None:
        # Open loop, the TTFT limit is judged with the queue: a ctx row over it alone is not a reason to leave it out.
        open_loop = find_pairs(figures, replace(constraints, ttft_ms=None))
        open_loop = apply_calibration(open_loop, used) if used else open_loop
        serving = plan_serving(
            open_loop, request_rate, constraints=constraints, routing=routing, links=site.links, max_gpus=max_gpus
        )
    bounds = [p for pair in pairs for p in _bounds(pair, frontier.front, name, constraints)]
    end_to_end, ifb = (
        [
            (row, counting.recount(measured_point(row, kind, constraints), row.experiment.deployment))
            for row in select_stage(figures, stage)
        ]
        for kind, stage in MEASURED_KINDS
    )
    ifb_front = _front(_allowed(point for _, point in ifb))
    e2e_front = _front(_allowed(point for _, point in end_to_end))
    ifb_draws, e2e_draws = _draw(ifb, draws, seed=1), _draw(end_to_end, draws, seed=2)
    versus = (
        ("rate_matched", frontier.front, list(zip(frontier.draws, ifb_draws, strict=False))),
        ("end_to_end", e2e_front, list(zip(e2e_draws, ifb_draws, strict=False))),
    )
    own, other = (
        [[objectives(point) for point in front] for _, front, _ in versus],
        [objectives(p) for p in ifb_front],
    )
    # Gaps are over used GPUs, whatever fronts are over.
    pairs_run = select_stage(figures, "e2e")
    gaps = find_gaps(pairs_run, pairs, frontier.front if objective == "per_used_gpu" else (), constraints)
    costly = say_transfer(gaps, pairs_run)
    sums = [sum_up(kind, front, other, drawn) for (kind, _, drawn), front in zip(versus, own, strict=True)]  # type: ignore[arg-type]
    return WorkloadAnalysis(
        workload=name,
        emulated=rows[0].experiment.emulated,
        simulated=rows[0].experiment.simulated,
        bound=_front(bounds),
        rate_matched=frontier.front,
        end_to_end=e2e_front,
        ifb=ifb_front,
        plans=frontier.plans,
        measured=tuple(point for _, point in (*end_to_end, *ifb)),
        gaps=tuple(gaps),
        speedups=tuple(
            row
            for (kind, _, drawn), front in zip(versus, own, strict=True)
            for row in compare_fronts(kind, front, other, drawn)  # type: ignore[arg-type]
        ),
        left_out=tuple(left_out),
        notes=(
            *too_slow,
            *([costly] if costly else []),
            *_notes(figures, pairs, frontier, [p for _, p in ifb], [p for _, p in end_to_end], constraints, max_gpus),
        ),
        ties=frontier.ties,
        comparisons=tuple(each for each in sums if each is not None),
        calibration=calibration,
        calibrated=used is not None,
        serving=tuple(serving),
        drawn=(
            ("rate_matched", frontier.draws),
            ("end_to_end", tuple(tuple(front) for front in e2e_draws)),
            ("ifb", tuple(tuple(front) for front in ifb_draws)),
        ),
    )


def _draw(rows: Sequence[tuple[Figures, Point]], draws: int, *, seed: int) -> list[list[tuple[float, float]]]:
    """Fronts of measured rows as they might have been; empty when the noise of none is known."""
    allowed = [(row, point) for row, point in rows if _allowed([point])]
    if not draws or not any(row.noise for row, _ in allowed):
        return []
    points = [objectives(point) for _, point in allowed]
    return draw_measured_fronts(points, [row.noise for row, _ in allowed], draws=draws, seed=seed)


def find_pairs(figures: Sequence[Figures], constraints: Constraints) -> list[Pair]:
    """Every measured gen configuration with the ctx configurations that may feed it."""
    ctx = read_ctx_options(select_stage(figures, "ctx"), constraints)
    return pair_options(ctx, read_gen_options(select_stage(figures, "gen")))


def _front(points: Iterable[Point]) -> tuple[Point, ...]:
    """Without dominated or duplicate rows, ascending tok/s/user; of equals the one with fewer GPUs, then TTFT."""
    return extract_front(
        points, objectives, prefer=lambda p: (len(p.flags), p.gpus, p.ttft_ms, p.label, p.sources, p.req_s)
    )


def _bounds(pair: Pair, front: Sequence[Point], workload: str, constraints: Constraints) -> list[Point]:
    """Bounds at the measured gen points and at those the front runs at, so that they lie above it everywhere."""
    tokens = pair.gen.rates.tokens_per_request
    rates = [p.req_s * tokens / p.gen for p in front if p.sources == (pair.ctx.source, pair.gen.source)]
    within = [min(rate, pair.gen.rates.curve.max_rate) for rate in rates]
    return bound_points(pair, workload=workload, constraints=constraints, gen_rates=within)


def _allowed(points: Iterable[Point]) -> list[Point]:
    over = (OVER_LIMIT, OVER_BUDGET)
    return [point for point in points if not any(flag.startswith(over) for flag in point.flags)]


def _say_ttft(pairs: Sequence[Pair]) -> str:
    handovers = [pair.handover_s * 1000 for pair in pairs]
    bunching = max(pair.bunching for pair in pairs)
    queues = "queueing" if not bunching else f"queueing beyond bunches of {bunching:.0%} of all in flight"
    if not any(handovers):
        return f"rate-matched TTFT is the ctx server's own: KV transfer, orchestrator and {queues} are not in it"
    low, high = f"{min(handovers):.2g}", f"{max(handovers):.2g}"
    span = low if low == high else f"{low} to {high}"
    return (
        f"rate-matched TTFT is the ctx server's own and {span} ms for the KV transfer of one request alone, bytes "
        f"over link; orchestrator and {queues} are not in it"
    )


def _notes(
    figures: Sequence[Figures],
    pairs: Sequence[Pair],
    frontier: Frontier,
    ifb: Sequence[Point],
    end_to_end: Sequence[Point],
    constraints: Constraints,
    max_gpus: int,
) -> list[str]:
    """What a reader must know about the fronts, in words."""
    notes = list(frontier.notes)
    plans = frontier.plans
    if frontier.num_rows > MOST_ROWS:
        notes.append(
            f"{len(plans)} of {frontier.num_rows} rate-matched rows are listed: those within {SHOWN_WITHIN:.0%} of "
            "the front at their tok/s/user"
        )
    silent = [stage for stage in ("ctx", "gen") if not any(row.noise for row in select_stage(figures, stage))]
    if frontier.draws and silent:
        notes.append(f"the noise of {silent[0]} rates is not known: intervals are without it, too narrow")
    if plans and not frontier.draws:
        notes.append("no intervals: no repeats, and no run long enough for batches, tell how noisy the rates are")
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
        notes.append(_say_ttft(pairs))
        if all(gcd(point.ctx, point.gen) == 1 for point in plans):
            notes.append("deployments are listed without common divisor: k copies have the same figures per GPU")
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
