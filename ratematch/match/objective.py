"""Which GPUs the tok/s/GPU of a point is over: three answers, each named, never mixed on one front."""

from __future__ import annotations

from dataclasses import replace

from ratematch.match.matching import Objective
from ratematch.match.packing import Packing, allocated_gpus, count_nodes
from ratematch.match.points import Point
from ratematch.match.question import Question
from ratematch.plan.deployment import Deployment

COUNTED: dict[Objective, str] = {
    "per_used_gpu": "GPUs in use (ctx + gen, or aggregated)",
    "per_allocated_gpu": "all GPUs of the nodes taken",
    "tok_s_in_budget": "all GPUs of the budget",
}
OVER_BUDGET = "over the budget"


def score_unit(question: Question) -> float:
    """What a score of the solver (tok/s, or tok/s/GPU) is divided by to be tok/s/GPU."""
    return float(question.budget_gpus) if question.objective == "tok_s_in_budget" else 1.0


def per_gpu(point: Point, question: Question, on_nodes: float) -> Point:
    """A measured ``point``, given per GPU in use, over the GPUs that the objective counts.

    Of a budget whole copies are filled. ``on_nodes``: GPUs of the nodes it takes, :func:`gpus_on_nodes`.
    """
    if question.objective == "per_used_gpu":
        return point
    flags = point.flags
    counted = on_nodes
    if question.objective == "tok_s_in_budget":
        budget = question.budget_gpus
        copies = budget // point.gpus
        counted = budget / max(1, copies)
        if not copies:
            flags += (f"{OVER_BUDGET} of {budget} GPUs",)
    scale = point.gpus / counted
    return replace(
        point,
        flags=flags,
        tok_s_gpu=point.tok_s_gpu * scale,
        tok_s_gpu_low=None if point.tok_s_gpu_low is None else point.tok_s_gpu_low * scale,
        tok_s_gpu_high=None if point.tok_s_gpu_high is None else point.tok_s_gpu_high * scale,
    )


def gpus_on_nodes(deployment: Deployment, packing: Packing | None) -> float:
    """GPUs of the nodes that a deployment takes; those in use where the size of a node is not known.

    Aggregated servers stand side by side on nodes, as many as fit, and each pays for its share.
    """
    if packing is None:
        return deployment.gpus
    ctx, gen = deployment.ctx, deployment.gen
    if ctx and gen:
        nodes = count_nodes(ctx.mapping.gpus, ctx.instances, gen.mapping.gpus, gen.instances, packing)
        return nodes * packing.gpus_per_node
    return allocated_gpus(deployment.gpus, packing)
