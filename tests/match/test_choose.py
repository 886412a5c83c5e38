from __future__ import annotations

from ratematch.match.analysis import analyze_workload
from ratematch.match.choose import choose_end_to_end
from ratematch.match.points import Measured
from ratematch.plan.constraints import Constraints

from .invented import WORKLOAD, ctx_rows, gen_rows

OPTIONS = {"kv_cache_config": {"free_gpu_memory_fraction": 0.8}}
ROWS: list[Measured] = [
    *ctx_rows("TEP4", {1: 8.0, 4: 12.0}),
    *gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0}, max_batch_size=16, options=OPTIONS),
    *gen_rows("TEP8", {8: 1600.0, 32: 4200.0}, mtp=1),
]


def choose(deployments: int, **kwargs: object):  # type: ignore[no-untyped-def]
    return choose_end_to_end(
        ROWS, WORKLOAD, constraints=Constraints(), max_gpus=32, deployments=deployments, **kwargs
    )


def test_the_choice_runs_the_servers_that_were_measured() -> None:
    choice = next(c for c in choose(20) if c.predicted.gen_mapping == "DEP8")
    gen = choice.deployment.gen
    assert gen is not None
    assert (gen.max_batch_size, gen.options, gen.instances) == (16, OPTIONS, choice.y)
    assert choice.deployment.ctx is not None
    assert choice.deployment.ctx.instances == choice.x
    assert choice.deployment.label == choice.predicted.label


def test_ctx_servers_take_the_mtp_of_gen() -> None:
    choice = next(c for c in choose(20) if c.predicted.mtp == 1)
    assert choice.deployment.ctx is not None
    assert choice.deployment.ctx.mtp == 1
    assert "ctx measured with mtp=0, not 1" in choice.why


def test_choices_spread_over_the_front_then_go_beside_it() -> None:
    front = analyze_workload(ROWS, WORKLOAD, constraints=Constraints(), max_gpus=32).rate_matched
    on_front = {point.label for point in front}
    two = choose(2)
    assert {choice.predicted.label for choice in two} == {front[0].label, front[-1].label}
    many = choose(len(on_front) + 3)
    labels = [choice.deployment.label for choice in many]
    assert len(labels) == len(set(labels)) == len(on_front) + 3
    assert [choice.why for choice in many[-3:]] == [choice.why for choice in many if choice.why[:6] == "beside"]
    assert on_front == set(labels[: len(on_front)])


def test_concurrencies_are_around_that_of_littles_law() -> None:
    for choice in choose(3, around=(0.5, 1.0, 1.25)):
        n = choice.predicted.concurrency
        assert choice.concurrencies == (round(0.5 * n), round(n), round(1.25 * n))
    assert all(min(choice.concurrencies) >= 1 for choice in choose(3, around=(0.0001,)))


def test_nothing_to_match_is_no_choice() -> None:
    assert choose(0) == []
    assert choose_end_to_end(ROWS[:2], WORKLOAD, constraints=Constraints(), max_gpus=32, deployments=3) == []
