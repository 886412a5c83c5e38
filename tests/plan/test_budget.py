"""Minutes and GPU-hours, by hand."""

from __future__ import annotations

from dataclasses import replace

from ratematch.plan.budget import estimate
from tests.support.sweeptext import GOOD, expanded, parse


def test_cost_is_start_plus_loads_times_the_gpus_of_each_deployment() -> None:
    sweep = parse(GOOD + "e2e: {deployments: 2, loads: {around: [1]}}\n", "budget.max_gpus=16")
    sweep = replace(sweep, cluster=replace(sweep.cluster, start_minutes=20, load_minutes=5))
    cost = estimate(sweep, expanded(sweep).experiments)
    ctx, gen, e2e = cost.stages
    assert (ctx.experiments, ctx.loads, ctx.minutes) == (1, 2, 30)
    assert ctx.gpu_hours == 4 * 30 / 60
    assert (gen.experiments, gen.loads, gen.minutes, gen.nodes, gen.gpus) == (4, 8, 120, 2, 8)
    assert gen.gpu_hours == (4 + 4 + 8 + 8) * 30 / 60
    assert (e2e.experiments, e2e.loads, e2e.minutes, e2e.gpu_hours) == (2, 2, 50, 50 * 16 / 60)
    assert cost.gpu_hours == ctx.gpu_hours + gen.gpu_hours + e2e.gpu_hours
    assert any("16 GPUs" in assumption for assumption in cost.assumptions)


def test_where_one_will_be_chosen_two_contenders_are_counted_more() -> None:
    text = "e2e: {{deployments: 2, choose_at: {at}, loads: {{around: [0.5, 1]}}}}\n"
    loads = [
        estimate(parse(GOOD + text.format(at=at)), []).stages[-1].loads for at in ("[]", "50", "[50, 20, 50.0, 100]")
    ]
    assert loads == [4, 4 + 2 * 2, 4 + 3 * 2 * 2]
