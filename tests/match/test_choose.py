from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.match.analysis import analyze_workload, find_pairs
from ratematch.match.choose import Key, RunChoice, Runs, Spending, certain, choose_end_to_end, find_contenders
from ratematch.match.figures import collect_figures
from ratematch.match.gain import DRAWS, Allowance, RunCandidate, Value, like_area, take
from ratematch.match.pareto import extract_front, hypervolume, step_at
from ratematch.match.points import Point
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment
from ratematch.plan.load import Constraints
from tests.support.invented import WORKLOAD, ctx_rows, e2e_rows, gen_rows, group, ifb_rows

OPTIONS = {"kv_cache_config": {"free_gpu_memory_fraction": 0.8}}
ROWS: list[Measured] = [
    *ctx_rows("TEP4", {1: 8.0, 4: 12.0}),
    *gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0}, max_batch_size=16, options=OPTIONS),
    *gen_rows("TEP8", {8: 1600.0, 32: 4200.0}, mtp=1),
]


QUESTION = Question(max_gpus=32)


def choose(
    deployments: int,
    spending: Spending | None = None,
    *,
    rows: Sequence[Measured] = ROWS,
    already: Mapping[Key, bool] | None = None,
    chance: Callable[[Point], float] = certain,
    **runs: Any,
) -> list[RunChoice]:
    how = Runs(deployments, **runs)
    return choose_end_to_end(rows, WORKLOAD, QUESTION, how, spending, already=already, chance=chance)


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


def test_choices_cover_the_front_and_its_neighbours_by_what_they_are_expected_to_add() -> None:
    front = analyze_workload(ROWS, WORKLOAD, QUESTION).rate_matched
    many = choose(30)
    labels = [choice.deployment.label for choice in many]
    assert len(labels) == len(set(labels))
    assert [choice.gain for choice in many] == sorted((choice.gain for choice in many), reverse=True)
    assert all(choice.gain > 0 for choice in many)
    # The first is on the front; a configuration of each kind is among the first, for both ends of it count.
    assert many[0].predicted.label in {point.label for point in front}
    assert {choice.predicted.gen_mapping for choice in many[:4]} == {"DEP8", "TEP8"}
    assert any(choice.why.startswith("beside") for choice in many)
    assert [choice.deployment.label for choice in choose(3)] == labels[:3]


def test_the_budget_of_gpu_hours_holds_and_buys_more_than_the_dearest() -> None:
    def hours(deployment: Deployment, concurrencies: Sequence[int]) -> float:
        return deployment.gpus * 0.1

    for budget in (0.5, 1.7, 4.0, 9.0):
        chosen = choose(30, Spending(gpu_hours=budget), cost=hours)
        assert sum(choice.gpu_hours for choice in chosen) <= budget
        assert [choice.gpu_hours for choice in chosen] == [0.1 * choice.predicted.gpus for choice in chosen]
        worth = [sum(choice.gain for choice in choose(k, cost=hours)) for k in range(4)]
        reached = max(k for k in range(4) if sum(choice.gpu_hours for choice in choose(k, cost=hours)) <= budget)
        assert sum(choice.gain for choice in chosen) >= worth[reached] * (1 - 1e-9)
    assert choose(30, Spending(gpu_hours=0.5), cost=hours) == []


def test_end_to_end_runs_do_not_change_the_choice() -> None:
    again = [*ROWS, *e2e_rows(group("ctx", "TEP4", 2), group("gen", "DEP8"), {32: (20.0, 900.0)})]
    chosen = choose(5, rows=again)
    assert chosen == choose(5)


def test_where_ifb_is_better_everywhere_one_deployment_is_run_to_show_it() -> None:
    better = ifb_rows("TEP8", {1: (1.0, 1.0), 4096: (2.0, 5.0)})
    (only,) = choose(5, rows=[*ROWS, *better])
    assert only.deployment == choose(1)[0].deployment
    assert "without IFB" in only.why
    nothing = choose(0, rows=[*ROWS, *better])
    assert nothing == []


def test_a_price_leaves_out_what_brings_less_per_gpu_hour() -> None:
    def hours(deployment: Deployment, concurrencies: Sequence[int]) -> float:
        return deployment.gpus * 0.1

    free = choose(30, cost=hours)
    sizes = []
    for price in (0.0, 0.003, 0.02, 1.0):
        chosen = choose(30, Spending(price=price), cost=hours)
        assert all(choice.share > price * choice.gpu_hours for choice in chosen)
        sizes.append(len(chosen))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(free) > sizes[2] > 0
    assert sizes[-1] == 0


def test_a_deployment_that_is_likely_to_be_beaten_gains_less() -> None:
    first = choose(1)[0]
    doubted = choose(30, chance=lambda point: 0.1 if point.label == first.deployment.label else 1.0)
    assert doubted[0].deployment != first.deployment
    entry = next(each for each in doubted if each.deployment == first.deployment)
    assert entry.chance == 0.1
    assert entry.share < 0.2 * first.share


def test_further_runs_are_chosen_beside_those_decided_on_before() -> None:
    whole = choose(3)
    first = whole[0]
    further = choose(3, already={first.key: False})
    assert [each.key for each in further] == [each.key for each in whole[1:]]
    assert choose(3, already={each.key: False for each in whole}) == []
    # Measured far below its prediction, a run leaves more to be gained beside it.
    ctx, gen = first.deployment.ctx, first.deployment.gen
    assert ctx is not None and gen is not None
    poor = [*ROWS, *e2e_rows(ctx, gen, {round(first.predicted.concurrency): (3 * first.predicted.tpot_ms, 3000.0)})]
    after = choose(3, rows=poor, already={first.key: True})
    assert len(after) == 2
    assert after[0].share > further[0].share


def test_a_run_that_is_far_off_the_front_by_now_takes_no_place() -> None:
    first = choose(1)[0]
    other = "TEP8" if first.predicted.gen_mapping == "DEP8" else "DEP8"
    faster = [
        *(
            row
            for row in ROWS
            if row.experiment.stage == "ctx" or first.predicted.gen_mapping in row.experiment.label
        ),
        *gen_rows(other, {32: 16000.0, 64: 26000.0, 128: 30000.0}, mtp=first.predicted.mtp),
        *ctx_rows("TEP8", {1: 60.0, 4: 90.0}, mtp=first.predicted.mtp),
    ]
    again = choose(1, rows=faster, already={first.key: False})
    assert [each.predicted.gen_mapping for each in again] == [other]


def test_where_one_will_be_chosen_the_deployments_that_may_be_best_there_run_there() -> None:
    """One of the front is otherwise run where it is fullest, and one just below the front not at all."""
    alike = gen_rows("TEP16", {64: 4000.0 * 1.95, 128: 6400.0 * 1.95, 256: 8000.0 * 1.95})

    def best(**kwargs: Any) -> dict[str, tuple[int, ...]]:
        found = choose(6, rows=[*ROWS, *alike], around=(1.0,), **kwargs)
        return {each.deployment.label: each.concurrencies for each in found}

    front = analyze_workload(ROWS, WORKLOAD, QUESTION).rate_matched
    there = next(row for row in front if row.tok_s_user == pytest.approx(100.0))
    without, asked = best(), best(choose_at=(100.0,))
    assert round(there.concurrency) not in without.get(there.label, ())
    assert round(there.concurrency) in asked[there.label]
    assert not any("TEP16" in label for label in without)
    assert any("TEP16" in label for label in asked)


def test_gains_stay_comparable_with_area_where_one_will_be_chosen() -> None:
    """They compete for hours with servers, whose gains are shares of the area."""
    front = [(20.0, 9.0), (50.0, 5.0), (120.0, 1.0)]
    for choose_at in ((), (20.0,), (20.0, 50.0, 100.0), (500.0,)):
        value = Value((0.0, 0.0), choose_at, like_area(front, choose_at))
        assert value(front) == pytest.approx(hypervolume(front))
    assert sum(choice.share for choice in choose(30, choose_at=(50.0, 100.0))) < 1.5


def test_what_cannot_be_best_there_does_not_contend() -> None:
    analysis = analyze_workload(ROWS, WORKLOAD, QUESTION)
    front = [(row.tok_s_user, row.tok_s_gpu) for row in analysis.rate_matched]
    found = find_contenders(analysis.plans, front, [100.0, 1e6])
    rows = [row for rows in found.values() for row in rows]
    assert max(row.tok_s_gpu for row in rows) == step_at(front, 100.0)
    assert all(row.tok_s_user >= 100.0 and row.tok_s_gpu >= 0.9 * (step_at(front, 100.0) or 0) for row in rows)


@given(
    st.lists(
        st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=3), min_size=1, max_size=6
    ),
    st.integers(1, 3),
    st.lists(st.floats(1, 100), max_size=2).map(tuple),
)
@settings(deadline=None, max_examples=40)
def test_taking_the_best_first_is_close_to_the_best_set(
    outcomes: list[list[tuple[float, float]]], most: int, choose_at: tuple[float, ...]
) -> None:
    """1 - 1/e of the best set, as for every submodular gain; and what bounds spare is never taken wrongly."""
    pair = find_pairs(collect_figures(ROWS, Constraints())[0], Constraints())[0]
    point = choose(1)[0].predicted
    candidates = [RunCandidate(point, pair, (1,), 1.0) for _ in outcomes]
    drawn = [[points] * DRAWS for points in outcomes]
    value = Value((0.0, 0.0), choose_at)
    taken = take(candidates, drawn, [], value, Allowance(most), per_cost=False)

    def area(chosen: Iterable[int]) -> float:
        return value(extract_front([p for k in chosen for p in outcomes[k]], lambda p: p))

    assert sum(gain for _, gain in taken) == pytest.approx(area(k for k, _ in taken))
    best = max(area(chosen) for chosen in combinations(range(len(outcomes)), min(most, len(outcomes))))
    assert area(k for k, _ in taken) >= (1 - 1 / math.e) * best
    so_far: list[int] = []
    for k, gain in taken:
        gains = {j: area([*so_far, j]) - area(so_far) for j in range(len(outcomes)) if j not in so_far}
        assert gain == pytest.approx(max(gains.values()))
        so_far.append(k)


def test_concurrencies_are_around_that_of_littles_law() -> None:
    for choice in choose(3, around=(0.5, 1.0, 1.25)):
        n = choice.predicted.concurrency
        assert choice.concurrencies == (round(0.5 * n), round(n), round(1.25 * n))
    assert all(min(choice.concurrencies) >= 1 for choice in choose(3, around=(0.0001,)))


def test_nothing_to_match_is_no_choice() -> None:
    assert choose(0) == []
    assert choose(3, rows=ROWS[:2]) == []
