"""Everything measured, to fronts, gaps and speed-ups per workload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ratematch.errors import ResultsError
from ratematch.match.calibration import apply_calibration, fit_calibration
from ratematch.match.compare import compare_fronts, pair_draws, sum_up
from ratematch.match.feasibility import Links, add_transfer
from ratematch.match.figures import Figures, collect_figures, measured_point, select_stage
from ratematch.match.frontier import Frontier, find_frontier
from ratematch.match.gaps import describe_transfer, find_gaps
from ratematch.match.measuredfront import MeasuredFront, make_front, measure_front
from ratematch.match.notes import describe_fronts
from ratematch.match.objective import gpus_on_nodes, per_gpu
from ratematch.match.openloop import fewest_aggregated, plan_serving
from ratematch.match.options import read_ctx_options, read_gen_options
from ratematch.match.pairs import (
    Bound,
    Pair,
    list_bounds,
    meet_tpot_limit,
    pair_options,
    put_in_service,
    with_posting,
)
from ratematch.match.pareto import not_beaten
from ratematch.match.points import (
    Analysis,
    Calibration,
    Comparison,
    DrawnFronts,
    Kind,
    Point,
    ServingPlan,
    Speedup,
    WorkloadAnalysis,
    objectives,
)
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Stage
from ratematch.plan.load import Constraints
from ratematch.plan.workload import Workload, feeds

IFB_SEED, END_TO_END_SEED = 1, 2
"""Of the draws of measured fronts, each its own."""


def analyze(measured: Sequence[Measured], question: Question, *, sweep: str, links: Links | None = None) -> Analysis:
    """Fronts, plans, gaps and speed-ups of every workload measured. ``question``: filled in.

    What is missing or not valid leaves fronts empty and a note or a ``left_out`` entry behind. ``links``: what KV
    transfers go over, where model and GPU are known: transfers are then part of TTFT and judged.

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
        origin=first.origin,
        objective=question.objective,
        workloads=tuple(
            analyze_workload(measured, workload, question, links) for workload in list_workloads(measured)
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
    a context server emits one token, whatever the OSL. Weights of another precision are other servers."""
    rows = [row for row in measured if row.experiment.workload == workload]
    if not any(row.experiment.stage == "ctx" for row in rows):
        rows += [
            row for row in measured if row.experiment.stage == "ctx" and feeds(row.experiment.workload, workload)
        ]
    return rows


def analyze_workload(
    measured: Sequence[Measured], workload: Workload, question: Question, links: Links | None = None
) -> WorkloadAnalysis:
    """One workload's fronts, plans, gaps and speed-ups. See :func:`analyze`."""
    rows = select_workload(measured, workload)
    figures, left_out = collect_figures(rows, question.constraints)
    links = links.at_isl(workload.isl) if links is not None else None
    servers = _pair_servers(figures, question, links, in_step=_is_of_one_length(workload))
    frontier = find_frontier(servers.pairs, question, workload=workload.label, links=links)
    ifb = _measure(figures, "ifb", "ifb", question, IFB_SEED)
    end_to_end = _measure(figures, "end_to_end", "e2e", question, END_TO_END_SEED)
    over_ifb = (
        _over_ifb("rate_matched", frontier.front, frontier.draws, ifb),
        _over_ifb("end_to_end", end_to_end.front, end_to_end.draws, ifb),
    )
    # Gaps are over used GPUs, whatever fronts are over.
    runs = select_stage(figures, "e2e")
    over_used = frontier.front if question.objective == "per_used_gpu" else ()
    gaps = find_gaps(runs, servers.pairs, over_used, question.constraints)
    costly = describe_transfer(gaps, runs)
    return WorkloadAnalysis(
        workload=workload.label,
        origin=rows[0].experiment.origin,
        bound=_bound_front(servers.pairs, frontier, workload.label, question.constraints),
        rate_matched=frontier.front,
        end_to_end=end_to_end.front,
        ifb=ifb.front,
        plans=frontier.plans,
        measured=(*end_to_end.points, *ifb.points),
        gaps=tuple(gaps),
        speedups=tuple(row for speedups, _ in over_ifb for row in speedups),
        left_out=tuple(left_out),
        notes=(
            *_note_forced(workload),
            *servers.notes,
            *([costly] if costly else []),
            *_note_aggregated(figures, question),
            *describe_fronts(figures, servers.pairs, frontier, ifb.points, end_to_end.points, question),
        ),
        ties=frontier.ties,
        comparisons=tuple(whole for _, whole in over_ifb if whole is not None),
        calibration=servers.calibration,
        calibrated=question.calibrate and servers.calibration is not None,
        serving=tuple(_plan_open_loop(figures, servers, question, links)),
        drawn=(("rate_matched", frontier.draws), ("end_to_end", end_to_end.draws), ("ifb", ifb.draws)),
    )


def _note_forced(workload: Workload) -> list[str]:
    """Drafts that were accepted by force: such figures are not those of the model's own drafts."""
    forced = workload.forced
    if forced is None:
        return []
    steps = ", ".join(f"{tokens:g} with MTP {drafts}" for drafts, tokens in sorted(forced.tokens.items()))
    name = f" ({forced.name})" if forced.name else ""
    return [
        f"drafts are accepted by force{name}, tokens a step: {steps}; not the acceptance of real text, and what is "
        "generated is none"
    ]


def _note_aggregated(figures: Sequence[Figures], question: Question) -> list[str]:
    """How many aggregated servers the request rate would take: those of ctx and gen alone are half an answer."""
    fewest = fewest_aggregated(figures, question)
    if fewest is None:
        return []
    servers, gpus = fewest
    return [
        f"aggregated serving takes {gpus} GPUs at least for {question.request_rate:g} requests/s: {servers}, each at "
        "the most that it gives within the limits, without what queues for it"
    ]


@dataclass(frozen=True)
class PairedServers:
    """ctx and gen servers measured apart, paired. ``calibration``: what end-to-end runs say of them; the pairs are
    with it where the question wants that. ``notes``: pairs that are left out, in words."""

    pairs: tuple[Pair, ...]
    calibration: Calibration | None
    notes: tuple[str, ...]


def _is_of_one_length(workload: Workload) -> bool:
    spread = workload.isl_spread or workload.osl_spread or workload.file or workload.turns > 1
    return not spread and workload.osl_ratio == workload.isl_ratio == 1


def _pair_servers(
    figures: Sequence[Figures], question: Question, links: Links | None, *, in_step: bool
) -> PairedServers:
    pairs = [replace(pair, in_step=in_step) for pair in find_pairs(figures, question.constraints)]
    notes: list[str] = []
    if links is not None:
        pairs, notes = add_transfer(pairs, links, question.budget_gpus, question.constraints)
    calibration = fit_calibration(select_stage(figures, "e2e"), pairs)
    if question.calibrate and calibration is not None:
        if links is not None and calibration.piece_us is not None:
            # Factors are what is left beside the posting, so they are fitted again with what was counted of it.
            piece_s = calibration.piece_us * 1e-6
            pairs = [with_posting(pair, links.posting_s(pair, question.budget_gpus, piece_s)) for pair in pairs]
            calibration = fit_calibration(select_stage(figures, "e2e"), pairs) or calibration
        pairs = apply_calibration(pairs, calibration)
    pairs = put_in_service(meet_tpot_limit(pairs, question.constraints), question.constraints)
    return PairedServers(tuple(pairs), calibration, tuple(notes))


def _measure(figures: Sequence[Figures], kind: Kind, stage: Stage, question: Question, seed: int) -> MeasuredFront:
    """The measured rows of one kind, over the GPUs that count, and their front."""
    rows = []
    for row in select_stage(figures, stage):
        on_nodes = gpus_on_nodes(row.experiment.deployment, question.packing)
        rows.append((per_gpu(measured_point(row, kind, question.constraints), question, on_nodes), row.noise))
    return measure_front(rows, draws=question.draws, seed=seed)


def _over_ifb(
    kind: Kind, front: Sequence[Point], draws: DrawnFronts, ifb: MeasuredFront
) -> tuple[list[Speedup], Comparison | None]:
    """A front over that of IFB, at equal tok/s/user and as a whole."""
    own, other = [objectives(point) for point in front], [objectives(point) for point in ifb.front]
    drawn = pair_draws(draws, ifb.draws)
    return compare_fronts(kind, own, other, drawn), sum_up(kind, own, other, drawn)


def _plan_open_loop(
    figures: Sequence[Figures], servers: PairedServers, question: Question, links: Links | None
) -> list[ServingPlan]:
    """The smallest deployments for the question's request rate; none when it has none.

    The TTFT limit is judged with the queue: a ctx row over it alone is not a reason to leave it out.
    """
    if question.request_rate is None:
        return []
    pairs = find_pairs(figures, replace(question.constraints, ttft_ms=None))
    if question.calibrate and servers.calibration is not None:
        pairs = apply_calibration(pairs, servers.calibration)
    return plan_serving(pairs, question, links)


def find_pairs(figures: Sequence[Figures], constraints: Constraints) -> list[Pair]:
    """Every measured gen configuration with the ctx configurations that may feed it."""
    ctx = read_ctx_options(select_stage(figures, "ctx"), constraints)
    return pair_options(ctx, read_gen_options(select_stage(figures, "gen")))


def _bound_front(
    pairs: Sequence[Pair], frontier: Frontier, workload: str, constraints: Constraints
) -> tuple[Point, ...]:
    """Bounds at the measured gen points and at those the front runs at, so that they lie above it everywhere."""
    own: dict[tuple[str, ...], list[Point]] = {}
    for point in frontier.front:
        own.setdefault(point.sources, []).append(point)
    bounds: list[Bound] = []
    for pair in pairs:
        rates = pair.gen.rates
        runs = own.get((pair.ctx.source, pair.gen.source), ())
        within = [min(rates.alone_tok_s(p.req_s / p.gen), rates.curve.max_rate) for p in runs]
        bounds += list_bounds(pair, constraints, within)
    kept = not_beaten([(1 / bound.plan.tpot_s, bound.tok_s_gpu) for bound in bounds])
    return make_front(bounds[k].point(workload) for k in kept)
