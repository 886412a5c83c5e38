"""TTFT limits in service: plans whose requests keep them with the queue in front of ctx, and with what gen adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ratematch.match.analysis import analyze, list_workloads
from ratematch.match.bootstrap import NoisyProblem, draw_factors, draw_fronts
from ratematch.match.choose import Runs, choose_end_to_end
from ratematch.match.ctxqueue import CtxSteps, read_steps
from ratematch.match.curves import make_curve
from ratematch.match.inservice import GEN_STEPS, InService
from ratematch.match.matching import Ctx, Gen, list_cells
from ratematch.match.points import WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.match.sift import Search, sift_best, sift_front
from ratematch.match.solver import MatchProblem, front_indices, solve_rows
from ratematch.match.table import TableRow
from ratematch.match.tablematch import TableOptions, match_table
from tests.support.invented import ctx_rows, gen_rows

CTX_RATES = {1: 8.0, 2: 10.0, 4: 16.0, 8: 20.0, 16: 20.0}
"""Requests/s of a ctx server by prompts in flight: 125 ms for one alone, 100 ms a step of one, 200 ms of four."""
CTX = ctx_rows("TEP4", CTX_RATES)
GEN = gen_rows("DEP8", {1: 100.0, 32: 2500.0, 128: 7000.0, 512: 16000.0})
STEPS = read_steps(make_curve([(float(n), rate) for n, rate in CTX_RATES.items()]))
assert STEPS is not None
OSL = 201
GEN_RATES = Gen(8, make_curve([(1.0, 100.0), (32.0, 2500.0), (128.0, 7000.0), (512.0, 16000.0)]), OSL - 1)


def in_service(limit_ms: float) -> InService:
    assert STEPS is not None
    return InService(STEPS, GEN_RATES, limit_ms / 1000)


def problem(limit_ms: float) -> MatchProblem:
    rates = tuple(sorted(set(CTX_RATES.values())))
    ctx = Ctx(4, make_curve([(float(n), rate) for n, rate in CTX_RATES.items()]), rates)
    return MatchProblem(ctx, GEN_RATES, in_service=in_service(limit_ms))


def planned(ttft_ms: float | None, **more: object) -> WorkloadAnalysis:
    question = Question(ttft_ms, max_gpus=64, ttft_of="deployment", **{"draws": 0, **more})  # type: ignore[arg-type]
    return analyze([*CTX, *GEN], question, sweep="s").workloads[0]


def test_the_steps_are_those_that_the_rates_are_made_of() -> None:
    assert (
        CtxSteps(
            (pytest.approx(0.1), pytest.approx(0.125), pytest.approx(0.15), pytest.approx(0.2)),  # type: ignore[arg-type]
            pytest.approx(0.025),
        )
        == STEPS
    )


def test_ttft_is_ctx_the_hand_over_and_steps_of_gen() -> None:
    """With next to nobody there, each as it is alone: 125 ms, 30 ms, and 2.5 steps of 10 ms with 2 tokens each."""
    served = replace(in_service(1000), before_gen_s=0.03, tokens_per_step=2.0)
    ttft = served.ttft_s(np.array([1e-4]), np.array([1]), np.array([1]))[0]
    assert ttft == pytest.approx(0.125 + 0.03 + GEN_STEPS * 2 * 0.01, rel=1e-3)
    assert served.ttft_s(np.array([1e-4]), np.array([1]), np.array([1]), 99)[0] >= ttft - 1e-9


@pytest.mark.parametrize("limit_ms", [155.0, 200.0, 260.0, 400.0])
def test_the_limit_is_met_where_it_binds_and_never_broken(limit_ms: float) -> None:
    served = in_service(limit_ms)
    x, y = np.array([1, 1, 2, 5, 3]), np.array([1, 4, 1, 7, 2])
    top = np.minimum(x * 20.0, y * 80.0)
    most = served.most_req_s(x, y, top)
    ttft = served.ttft_s(most, x, y)
    assert np.all(ttft <= limit_ms / 1000 * (1 + 1e-9))
    binding = most < top
    assert ttft[binding] == pytest.approx(limit_ms / 1000, rel=1e-6)
    assert np.all(in_service(limit_ms + 20).most_req_s(x, y, top) >= most)


def test_what_no_prompt_alone_keeps_no_deployment_keeps() -> None:
    one = np.array([1])
    assert in_service(130).most_req_s(one, one, np.array([20.0])) == pytest.approx(0)
    assert not solve_rows([problem(130)], max_gpus=64).size
    none = planned(130.0)
    assert not none.plans
    assert any("64 GPUs with TTFT 130 ms in service" in note for note in none.notes)


@pytest.mark.parametrize("limit_ms", [170.0, 250.0])
def test_the_best_plan_is_that_of_trying_every_deployment(limit_ms: float) -> None:
    served, best = in_service(limit_ms), 0.0
    for x, y in list_cells(4, 8, 64):
        req_s = np.linspace(0.01, 1, 300) * min(x * 20.0, y * 80.0)
        within = served.ttft_s(req_s, np.full(300, x), np.full(300, y)) <= limit_ms / 1000
        best = max(best, req_s[within].max(initial=0.0) * OSL / (4 * x + 8 * y))
    plans = planned(limit_ms).rate_matched
    assert max(plan.tok_s_gpu for plan in plans) == pytest.approx(best, rel=0.006)
    assert all(plan.ttft_ms <= limit_ms * (1 + 1e-6) for plan in plans)
    for plan in plans:
        assert plan.concurrency == pytest.approx(plan.req_s * (plan.ttft_ms + (OSL - 1) * plan.tpot_ms) / 1000)


def test_large_budgets_find_the_same_rows_and_so_do_draws() -> None:
    problems = [problem(180.0), problem(260.0)]
    rows = solve_rows(problems, max_gpus=80)
    score = rows.score(OSL, "per_used_gpu")
    front = front_indices(rows.tok_s_user, score)
    search = Search(problems, [OSL, OSL], 80)
    sifted = sift_front(search)
    again = sifted.score(OSL, "per_used_gpu")
    kept = front_indices(sifted.tok_s_user, again)
    assert again[kept].tolist() == pytest.approx(score[front].tolist())
    assert sift_best(search).score(OSL, "per_used_gpu").max() == pytest.approx(score.max())
    factors = draw_factors([NoisyProblem(each) for each in problems], draws=1, seed=0)
    ((u, p),) = draw_fronts(problems, factors, max_gpus=80, osl=OSL)
    assert p.max() == pytest.approx(score.max())
    assert u.max() == pytest.approx(rows.tok_s_user.max())


def test_a_tighter_limit_never_gives_more_and_none_gives_the_ctx_rule_without_one() -> None:
    most = [
        max(plan.tok_s_gpu for plan in planned(limit).rate_matched) for limit in (160.0, 200.0, 300.0, 5000.0, None)
    ]
    assert most == sorted(most)
    free = analyze([*CTX, *GEN], Question(max_gpus=64, draws=0), sweep="s").workloads[0]
    assert planned(None).rate_matched == free.rate_matched


def test_the_rule_of_the_study_stays_where_nobody_asks_for_another() -> None:
    question = Question(260.0, max_gpus=64, draws=0)
    own = analyze([*CTX, *GEN], question, sweep="s").workloads[0]
    # 250 ms with four in flight, 400 with eight: 16 requests/s are the most of one ctx server.
    assert max(plan.req_s / plan.ctx for plan in own.plans) == pytest.approx(16)
    assert any("--ttft-of deployment plans with the queue" in note for note in own.notes)
    assert question.filled_in(Question(ttft_of="deployment")).constraints.in_service
    assert not replace(question, ttft_of="ctx").filled_in(Question(ttft_of="deployment")).constraints.in_service


def test_a_percentile_is_held_to_the_limit_too() -> None:
    mean, p99 = (planned(300.0, percentile=at) for at in ("mean", 99))
    most = [max(plan.req_s / plan.ctx for plan in each.plans) for each in (mean, p99)]
    assert most[1] < most[0]
    best = max(p99.plans, key=lambda plan: plan.req_s / plan.ctx)
    served, at = in_service(300), (np.array([best.req_s]), np.array([best.ctx]), np.array([best.gen]))
    assert served.ttft_s(*at, 99)[0] == pytest.approx(0.3, rel=1e-3)
    assert best.ttft_ms == pytest.approx(served.ttft_s(*at)[0] * 1000)


def test_runs_are_chosen_that_keep_the_limit_in_service() -> None:
    """Alone the same servers keep it at the one rate of a prompt in flight: 8 of 20 requests/s."""
    workload = list_workloads(GEN)[0]
    for limit_ms in (200.0, 300.0):
        question = Question(limit_ms, max_gpus=32, draws=0, ttft_of="deployment")
        chosen = choose_end_to_end([*CTX, *GEN], workload, question, Runs(3))
        assert len(chosen) == 3
        assert all(choice.predicted.ttft_ms <= limit_ms * (1 + 1e-6) for choice in chosen)
        assert any(choice.predicted.req_s / choice.x > 8 for choice in chosen)


def as_table(rates: dict[int, float]) -> list[TableRow]:
    ctx = [
        TableRow(0, "ctx", "TEP4", 4, concurrency=n, req_s=rate, ttft_ms=1000 * n / rate) for n, rate in rates.items()
    ]
    gen = zip(GEN_RATES.curve.loads, GEN_RATES.curve.rates, strict=True)
    rows = [*ctx, *(TableRow(0, "gen", "DEP8", 8, osl=OSL - 1, concurrency=n, tok_s=rate) for n, rate in gen)]
    return [replace(row, row=k + 2, rows=(k + 2,)) for k, row in enumerate(rows)]


def test_tables_are_held_to_the_same_limit() -> None:
    question = Question(200.0, max_gpus=64, draws=0, ttft_of="deployment")
    found = match_table(as_table(CTX_RATES), question, TableOptions(), name="t")
    best, swept = found.plans[0], max(planned(200.0).rate_matched, key=lambda plan: plan.tok_s_gpu)
    assert (best.ctx, best.gen) == (swept.ctx, swept.gen)
    assert best.req_s == pytest.approx(swept.req_s, rel=1e-3)
    assert best.ttft_ms <= 200 * (1 + 1e-6)


def test_one_load_of_ctx_is_held_to_its_own_ttft_and_that_is_said() -> None:
    question = Question(260.0, max_gpus=64, draws=0, ttft_of="deployment")
    found = match_table(as_table({4: 16.0}), question, TableOptions(), name="t")
    own = match_table(as_table({4: 16.0}), replace(question, ttft_of=None), TableOptions(), name="t")
    assert found.plans == own.plans
    assert any("ctx TEP4 was measured at one load" in note for note in found.notes)
