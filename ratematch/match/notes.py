"""What a reader must know about the fronts of a workload, in words."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from ratematch.match.figures import Figures, select_stage
from ratematch.match.frontier import MOST_ROWS, SHOWN_WITHIN, Frontier
from ratematch.match.inservice import GEN_STEPS
from ratematch.match.measuredfront import may_stand
from ratematch.match.options import read_ctx_options, read_gen_options
from ratematch.match.pairs import Pair
from ratematch.match.points import Point
from ratematch.match.question import Question


def describe_fronts(
    figures: Sequence[Figures],
    pairs: Sequence[Pair],
    frontier: Frontier,
    ifb: Sequence[Point],
    end_to_end: Sequence[Point],
    question: Question,
) -> list[str]:
    """What is missing from the fronts, what was assumed for them, and what their figures hold."""
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
    notes += _describe_missing(figures, question)
    if pairs and not plans:
        limit = f" within TPOT {question.tpot_ms:g} ms" if question.tpot_ms is not None else ""
        limit += f" with TTFT {question.ttft_ms:g} ms in service" if question.constraints.in_service else ""
        gpus = "1 GPU" if question.budget_gpus == 1 else f"{question.budget_gpus} GPUs"
        notes.append(f"no deployment of up to {gpus}{limit}")
    if plans:
        notes.append(_describe_ttft(pairs))
        notes += describe_queues(pairs, question)
        if all(gcd(point.ctx, point.gen) == 1 for point in plans):
            notes.append("deployments are listed without common divisor: k copies have the same figures per GPU")
    if any(pair.gen.rates.curve.smoothed or pair.ctx.rates.curve.smoothed for pair in pairs):
        notes.append("some measured rates fell with load and were pooled to non-falling ones")
    if not ifb:
        notes.append("no valid IFB measurement: no speed-up")
    if not end_to_end:
        notes.append("no valid end-to-end measurement")
    for name, rows in (("IFB", ifb), ("end-to-end", end_to_end)):
        over = sum(not may_stand(point) for point in rows)
        if over:
            notes.append(f"{over} of {len(rows)} {name} rows are over a limit and not on the front")
    return notes


def _describe_missing(figures: Sequence[Figures], question: Question) -> list[str]:
    """Why ctx or gen servers are not there to be matched."""
    notes = []
    ctx, gen = select_stage(figures, "ctx"), select_stage(figures, "gen")
    if not ctx:
        notes.append("no valid ctx measurement: nothing to rate-match")
    elif not read_ctx_options(ctx, question.constraints):
        limits = question.constraints
        notes.append(f"no ctx measurement within TTFT {limits.ttft_ms:g} ms ({limits.percentile})")
    if not gen:
        notes.append("no valid gen measurement: nothing to rate-match")
    elif not read_gen_options(gen):
        notes.append("no gen measurement decodes: OSL must be above 1")
    return notes


def describe_queues(pairs: Sequence[Pair], question: Question) -> list[str]:
    """What a TTFT limit says of queues: nothing where it is held against ctx servers alone; else which ctx servers it
    cannot be held against in service."""
    if question.ttft_ms is None or not pairs:
        return []
    if not question.constraints.in_service:
        return [
            "the TTFT limit is held against ctx servers measured alone: --ttft-of deployment plans with the queue in "
            "front of them"
        ]
    unknown = list(dict.fromkeys(pair.ctx.label for pair in pairs if pair.in_service is None))
    return [
        f"ctx {label} was measured at one load, which does not tell how prompts queue: the TTFT limit is held "
        "against its own TTFT"
        for label in unknown
    ]


def _describe_ttft(pairs: Sequence[Pair]) -> str:
    if any(pair.in_service is not None for pair in pairs):
        return (
            "rate-matched TTFT is that in service: queue in front of ctx, KV transfer as far as its links are known, "
            f"and {GEN_STEPS:g} steps of gen; orchestrator and the wait for a slot of gen are not in it"
        )

    handovers = [pair.handover_s * 1000 for pair in pairs]
    bunching = max(pair.bunching for pair in pairs)
    queues = "queueing" if not bunching else f"queueing beyond bunches of {bunching:.0%} of all in flight"
    if not any(handovers):
        return f"rate-matched TTFT is the ctx server's own: KV transfer, orchestrator and {queues} are not in it"
    span, posted = _span(handovers), [pair.posting_s * 1000 for pair in pairs]
    link = f"bytes over link, and {_span(posted)} ms for its posting" if any(posted) else "bytes over link"
    return (
        f"rate-matched TTFT is the ctx server's own and {span} ms for the KV transfer of one request alone, "
        f"{link}; orchestrator and {queues} are not in it"
    )


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"
