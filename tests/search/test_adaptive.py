"""Decisions: the right thing first, reasons for everything, the same answer for the same results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ratematch.match.curves import Curve
from ratematch.match.matching import Ctx, Gen, plan_curve
from ratematch.search.adaptive import Candidate, Decision, Rate, Space, decide
from ratematch.search.belief import FAMILY_SD, Belief, learn
from ratematch.search.fronts import GRID, Side, empty_front, front_of, gain, hypervolume
from tests.search.invented import LADDER, SERVERS, ctx, gen, space


def measure(candidate: Candidate, loads: tuple[int, ...], factor: float = 1.0) -> dict[int, Rate]:
    return {load: candidate.forecasts[load].times(factor) for load in loads}


def run_to_the_end(
    of: Space, factors: dict[str, float], hours: float | None = None
) -> tuple[list[Decision], dict[str, dict[int, Rate]], float]:
    known: dict[str, dict[int, Rate]] = {}
    decisions, spent = [], 0.0
    while True:
        decision = decide(of, known, {}, None if hours is None else hours - spent)
        decisions.append(decision)
        if decision.choice is None:
            return decisions, known, spent
        choice = decision.choice
        spent += choice.gpu_hours
        candidate = of.find(choice.candidate)
        known.setdefault(choice.candidate, {}).update(
            measure(candidate, choice.loads, factors.get(candidate.family, 1.0))
        )


def true_front(of: Space, known: dict[str, dict[int, Rate]]) -> float:
    front = empty_front()
    feeders = [
        Side(c.gpus, np.array([max(r.req_s for r in known[c.id].values())]), np.empty(0))
        for c in of.candidates
        if c.stage == "ctx" and c.id in known
    ]
    for each in of.candidates:
        if each.stage == "gen" and each.id in known:
            rates = [known[each.id][load] for load in sorted(known[each.id])]
            side = Side(each.gpus, np.array([r.req_s for r in rates]), np.array([1 / r.tpot_s for r in rates]))
            for feeder in feeders:
                front = np.maximum(front, front_of(feeder, side, of.osl, of.max_gpus))
    return hypervolume(front)


def test_a_ctx_server_comes_first_because_nothing_runs_without():
    decision = decide(space(), {}, {})
    assert decision.choice is not None
    assert decision.choice.candidate == "ctx-a"
    assert decision.choice.gpu_hours == pytest.approx((0.33 + 0.05 * len(decision.choice.loads)) * 4)


def test_every_server_is_chosen_or_passed_over_for_a_reason():
    decision = decide(space(), {}, {})
    named = {decision.choice.candidate, *(skip.candidate for skip in decision.skips)}
    assert named == {each.id for each in SERVERS}
    assert all(skip.why for skip in decision.skips)


def test_the_same_results_lead_to_the_same_decision():
    known = {"ctx-a": measure(SERVERS[0], (4, 16)), "gen-small": measure(SERVERS[2], (1, 64), 0.9)}
    assert decide(space(), known, {}) == decide(space(), known, {})
    assert decide(space(), known, {"gen-wide": (64,)}) == decide(space(), known, {"gen-wide": (64,)})


def test_what_runs_already_is_not_chosen_again():
    known = {"ctx-a": measure(SERVERS[0], (4,))}
    first = decide(space(), known, {}).choice
    second = decide(space(), known, {first.candidate: first.loads}).choice
    assert second is not None
    assert second.candidate != first.candidate


@pytest.mark.parametrize("seed", range(4))
def test_most_of_the_front_for_a_part_of_the_hours_whatever_the_families_are_worth(seed):
    rng = np.random.default_rng(seed)
    factors = {each.family: 1 / float(rng.uniform(0.7, 1.3)) for each in SERVERS}
    of = space()
    _, known, spent = run_to_the_end(of, factors)
    everything = {each.id: measure(each, LADDER, factors[each.family]) for each in SERVERS}
    grid = sum((of.start_h + len(LADDER) * of.load_h) * each.gpus for each in SERVERS)
    assert true_front(of, known) >= 0.96 * true_front(of, everything)
    assert spent < 0.7 * grid


def test_a_server_that_is_beaten_everywhere_is_never_measured():
    decisions, known, _ = run_to_the_end(space(), {})
    assert "gen-beaten" not in known
    why = next(skip.why for skip in decisions[-1].skips if skip.candidate == "gen-beaten")
    assert "not worth its hours" in why or "beaten" in why


def test_nothing_is_chosen_that_does_not_fit_into_the_hours_left():
    decisions, _, spent = run_to_the_end(space(), {}, hours=6.0)
    assert spent <= 6.0
    assert any("GPU-hours and" in skip.why for skip in decisions[-1].skips)


def test_a_further_draft_that_cannot_pay_is_passed_over():
    poor = gen("gen-wide-mtp1", "gen DEP", 16, mtp=1, base_s=0.03, per_request_s=4e-5)
    of = replace(space(), candidates=(*SERVERS[:4], poor))
    assert poor.forecasts[1].tpot_s > SERVERS[3].forecasts[1].tpot_s
    why = next(skip.why for skip in decide(of, {}, {}).skips if skip.candidate == poor.id)
    assert "MTP 1 cannot pay over MTP 0" in why


def test_a_ctx_server_over_the_ttft_limit_is_passed_over():
    slow = ctx("ctx-slow", "ctx TP", 4, 0.5)
    of = replace(space(ttft_s=2.0), candidates=(*SERVERS, slow))
    skip = next(skip for skip in decide(of, {}, {}).skips if skip.candidate == "ctx-slow")
    assert skip.why == "no load within the TTFT limit"


def test_what_one_server_shows_is_believed_of_its_family():
    beliefs = learn({"gen DEP": [math.log(0.8)] * 3, "gen TEP": []})
    assert beliefs["gen DEP"].factor == pytest.approx(0.8, abs=0.01)
    assert beliefs["gen DEP"].sd < 0.2 * FAMILY_SD
    assert beliefs["gen TEP"] == Belief("gen TEP", own_sd=beliefs["gen TEP"].own_sd)
    low, high = beliefs["gen TEP"].interval
    assert low < 0.7
    assert high > 1.4


def test_scattered_servers_widen_the_band():
    calm = learn({"gen DEP": [0.01, -0.01, 0.0, 0.01]})["gen DEP"]
    wild = learn({"gen DEP": [0.3, -0.3, 0.2, -0.2]})["gen DEP"]
    assert wild.own_sd > 3 * calm.own_sd


def test_fronts_are_near_those_of_the_exact_solver():
    osl, gpus = 101.0, 40
    loads, rates = (1.0, 8.0, 32.0), (90.0, 500.0, 1200.0)
    exact_gen = Gen(8, Curve(loads, rates), osl - 1)
    exact_ctx = Ctx(4, Curve((1.0, 4.0), (2.0, 6.0)), (6.0,))
    tpot = np.array([load / rate for load, rate in zip(loads, rates, strict=True)])
    side = Side(8, np.array(rates) / (osl - 1), 1 / tpot)
    ours = front_of(Side(4, np.array([6.0]), np.empty(0)), side, osl, gpus)
    best = empty_front()
    for x in range(1, 9):
        for y in range(1, (gpus - 4 * x) // 8 + 1):
            for plan in plan_curve(exact_ctx, exact_gen, x, y):
                value = plan.req_s * osl / (4 * x + 8 * y)
                best[1 / plan.tpot_s * (1 + 1e-9) >= GRID] = np.maximum(
                    best[1 / plan.tpot_s * (1 + 1e-9) >= GRID], value
                )
    assert hypervolume(ours) == pytest.approx(hypervolume(best), rel=0.03)


def test_gain_counts_only_what_is_new():
    low, high = np.where(GRID < 50, 10.0, 0.0), np.where(GRID < 50, 8.0, 2.0)
    assert gain(low, low) == 0
    assert gain(low, high) == pytest.approx(hypervolume(np.where(GRID < 50, 0.0, 2.0)))
