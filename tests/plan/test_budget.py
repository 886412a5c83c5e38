"""Minutes and GPU-hours, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.plan.budget import estimate, minutes_of
from ratematch.plan.cluster import Container, StageWeights
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


@pytest.mark.parametrize(
    ("container", "stage", "given", "minutes"),
    [
        (None, None, None, 0),
        (None, None, 7.0, 0),
        (Container("x"), None, None, 2),
        (Container("x", unpack="launch"), None, None, 0),
        (Container("x"), StageWeights("/local"), None, 10),
        (None, StageWeights("/local"), None, 10),
        (Container("x"), StageWeights("/local"), 7.0, 7),
    ],
)
def test_what_nodes_get_first_counts_once_a_job(
    container: Container | None, stage: StageWeights | None, given: float | None, minutes: float
) -> None:
    sweep = parse(GOOD + "e2e: {deployments: 2, loads: {around: [1]}}\n", "budget.max_gpus=16")
    experiments = expanded(sweep).experiments
    before = estimate(sweep, experiments)
    cluster = replace(sweep.cluster, container=container, stage_weights=stage, prepare_minutes=given)
    prepared = replace(sweep, cluster=cluster)
    after = estimate(prepared, experiments)
    jobs = [part.experiments for part in after.stages]
    assert after.minutes - before.minutes == pytest.approx(minutes * sum(jobs))
    assert minutes_of(prepared, experiments[0]) - minutes_of(sweep, experiments[0]) == pytest.approx(minutes)
    words = [line for line in after.assumptions if "once a job" in line]
    assert len(words) == (minutes > 0)
    if minutes:
        learnt = estimate(prepared, experiments, 0.5)
        assert learnt.minutes - before.minutes == pytest.approx(0.5 * sum(jobs))
        assert any("0.5 min once a job" in line and "earlier jobs" in line for line in learnt.assumptions)
