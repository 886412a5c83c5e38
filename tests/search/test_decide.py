"""Decisions: the right thing first, reasons for everything, the same answer for the same results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ratematch.match.curves import Curve
from ratematch.match.matching import Ctx, Gen, plan_curve
from ratematch.search.candidates import Candidate, Deviation, Rate, Space
from ratematch.search.decide import Decision, decide, go_on
from ratematch.search.families import FAMILY_SD, FamilyEffect, estimate_effects
from ratematch.search.fronts import GRID, Side, empty_front, front_of, gain, hypervolume, stretches_of
from ratematch.search.portfolio import compose
from ratematch.search.speeds import SpeedModel
from ratematch.search.view import View
from ratematch.search.workloads import decide_among, plannable_hours, share_deviations, share_hours
from tests.search.invented import LADDER, SERVERS, ctx, gen, measure, space


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
        candidate, starts = of.find(decision.choice.candidate), 1
        while decision.choice is not None:
            spent += of.hours(candidate, (decision.choice.load,), starts)
            starts = 0
            known.setdefault(candidate.id, {}).update(
                measure(candidate, (decision.choice.load,), factors.get(candidate.family, 1.0))
            )
            decision = go_on(of, known, {}, candidate.id, None if hours is None else hours - spent)


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
    assert decision.choice.load in decision.choice.planned
    assert decision.choice.gpu_hours == pytest.approx((0.33 + 0.05 * len(decision.choice.planned)) * 4)


def test_every_server_is_chosen_or_passed_over_for_a_reason():
    decision = decide(space(), {}, {})
    named = {decision.choice.candidate, *(skip.candidate for skip in decision.skips)}
    assert named == {each.id for each in SERVERS}
    assert all(skip.why for skip in decision.skips)


def test_the_same_results_lead_to_the_same_decision():
    known = {"ctx-a": measure(SERVERS[0], (4, 16)), "gen-small": measure(SERVERS[2], (1, 64), 0.9)}
    assert decide(space(), known, {}) == decide(space(), known, {})
    assert decide(space(), known, {"gen-wide": (64,)}) == decide(space(), known, {"gen-wide": (64,)})


def test_a_family_that_ones_own_results_tell_of_is_not_tried_before_its_large_servers():
    small = gen("gen-narrow", "gen DEP", 2, base_s=0.05, per_request_s=1e-3)
    strangers = space()
    strangers = replace(strangers, candidates=(*strangers.candidates, small))
    known = {"ctx-a": measure(SERVERS[0], (4, 16))}
    tried = decide(strangers, known, {}).choice
    assert tried is not None and tried.candidate == "gen-narrow" and "how fast gen DEP is" in tried.why
    told = replace(strangers, family_sds={"gen DEP": 0.05, "gen TEP": 0.05, "gen TP": 0.05})
    first = decide(told, known, {}).choice
    assert first is not None and first.candidate != "gen-narrow" and "must be known" not in first.why


def test_what_is_known_of_a_family_beforehand_narrows_it_alone():
    deviation = Deviation("w", "gen DEP", "DEP8", 0.0, math.log(0.96))
    unknown, known = (SpeedModel([deviation], "w", sds) for sds in (None, {"gen DEP": 0.02}))
    near, far = gen("a", "gen DEP", 16), gen("b", "gen TEP", 8)
    assert known.predict(near)[0].mean() > 0.6 * unknown.predict(near)[0].mean()  # less slow: it was known not to be
    assert known.predict(near)[1].mean() < unknown.predict(near)[1].mean()
    assert known.predict(far)[1] == pytest.approx(unknown.predict(far)[1])


def test_what_runs_already_is_not_chosen_again():
    known = {"ctx-a": measure(SERVERS[0], (4,))}
    first = decide(space(), known, {}).choice
    second = decide(space(), known, {first.candidate: (first.load,)}).choice
    assert second is not None
    assert second.candidate != first.candidate


@pytest.mark.parametrize("seed", range(4))
def test_most_of_the_front_for_a_part_of_the_hours_whatever_the_families_are_worth(seed):
    rng = np.random.default_rng(seed)
    factors = {each.family: 1 / float(rng.uniform(0.7, 1.3)) for each in SERVERS}
    of = space()
    _, known, spent = run_to_the_end(of, factors)
    everything = {each.id: measure(each, LADDER, factors[each.family]) for each in SERVERS}
    grid = of.grid_hours
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
    assert any("are left" in skip.why for skip in decisions[-1].skips)


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


def test_one_server_informs_its_whole_family():
    effects = estimate_effects({"gen DEP": [math.log(0.8)] * 3, "gen TEP": []})
    assert effects["gen DEP"].factor == pytest.approx(0.8, abs=0.01)
    assert effects["gen DEP"].sd < 0.2 * FAMILY_SD
    assert effects["gen TEP"] == FamilyEffect("gen TEP", own_sd=effects["gen TEP"].own_sd)
    low, high = effects["gen TEP"].interval
    assert low < 0.7
    assert high > 1.4


def test_scattered_servers_widen_the_band():
    calm = estimate_effects({"gen DEP": [0.01, -0.01, 0.0, 0.01]})["gen DEP"]
    wild = estimate_effects({"gen DEP": [0.3, -0.3, 0.2, -0.2]})["gen DEP"]
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


def test_a_large_server_that_leads_everywhere_takes_the_place_of_small_ones():
    small = [gen(f"small-{k}", "gen TEP", 4, base_s=0.02, per_request_s=3e-4 + 1e-5 * k) for k in range(3)]
    large = gen("large", "gen DEP", 8, base_s=0.005, per_request_s=1e-5)
    of = replace(space(), candidates=(SERVERS[0], *small, large))
    known = {"ctx-a": measure(SERVERS[0], LADDER), "seen": {}}
    plan = compose(View(of, known, {}), None)
    assert set(plan.parts) == {"large"}


def test_a_portfolio_costs_no_more_than_there_is():
    known = {"ctx-a": measure(SERVERS[0], (4,))}
    of = space()
    values = []
    for hours in (1.0, 2.0, 5.0, 10.0, 20.0):
        view = View(of, known, {})
        plan = compose(view, hours)
        assert plan.hours <= hours
        values.append(view.value(plan.front))
    assert values[-1] > values[0]


def test_a_server_that_is_up_goes_on_without_another_start_and_ends():
    of = replace(space(), candidates=(SERVERS[0], SERVERS[3]))
    known = {"ctx-a": measure(SERVERS[0], LADDER), "gen-wide": measure(SERVERS[3], (64,))}
    measured = {64}
    while choice := go_on(of, known, {}, "gen-wide").choice:
        assert choice.candidate == "gen-wide"
        assert choice.load not in measured
        assert choice.gpu_hours == pytest.approx(16 * 0.05 * len(choice.planned))
        measured.add(choice.load)
        known["gen-wide"] |= measure(SERVERS[3], (choice.load,))
    assert len(measured) > 1


def test_a_deviation_informs_its_server_most_its_family_less_and_others_not_at_all():
    deviations = [Deviation("1k/1k", "gen DEP", "DEP8", at, math.log(0.8)) for at in (-1.0, 0.0, 1.0)]
    model = SpeedModel(deviations, "1k/1k")
    itself, family = gen("a", "gen DEP", 8), gen("b", "gen DEP", 16)
    stranger = gen("c", "gen TEP", 8)
    means = {}
    sds = {}
    for each, kind in ((itself, "DEP8"), (family, "DEP16"), (stranger, "TEP8")):
        mean, sd = model.predict(replace(each, kind=kind))
        means[kind], sds[kind] = float(mean.mean()), float(sd.mean())
    assert means["DEP8"] == pytest.approx(math.log(0.8), abs=0.02)
    assert means["DEP16"] == pytest.approx(math.log(0.8), abs=0.03)
    assert means["TEP8"] == 0
    assert sds["DEP8"] < sds["DEP16"] < 0.5 * sds["TEP8"]


def test_servers_that_scatter_widen_the_prediction():
    def spread(logs: list[float]) -> float:
        deviations = [Deviation("w", "gen DEP", f"server {k}", 0.0, log) for k, log in enumerate(logs)]
        return float(SpeedModel(deviations, "w").predict(gen("new", "gen DEP", 8))[1].mean())

    assert spread([0.2, -0.2, 0.25, -0.15, 0.1]) > 2 * spread([0.01, -0.01, 0.0, 0.01, -0.01])


def test_stretches_put_together_are_the_front_of_the_whole_curve():
    each = SERVERS[3]
    rates = [each.forecasts[load] for load in LADDER]
    side = Side(each.gpus, np.array([r.req_s for r in rates]), np.array([1 / r.tpot_s for r in rates]))
    feeder = Side(4, np.array([10.0]), np.empty(0))
    parts = stretches_of(feeder, side, 100.0, 64)
    joined = np.max([parts[k, k + 1] for k in range(len(LADDER) - 1)], axis=0)
    assert np.array_equal(joined, front_of(feeder, side, 100.0, 64))


def test_one_workload_learns_from_another():
    of = {name: replace(space(), workload=name, candidates=renamed(name)) for name in ("a", "b")}
    known = {"a ctx-a": measure(SERVERS[0], (4,)), "a gen-wide": measure(SERVERS[3], (64,), 0.7)}
    informed = share_deviations(of, known)["b"]
    assert [(one.workload, one.family) for one in informed.elsewhere] == [("a", "ctx DEP"), ("a", "gen DEP")]
    own = of["b"].find("b gen-wide")
    assert View(informed, {}, {}).rates.at(own, 64).req_s < 0.8 * View(of["b"], {}, {}).rates.at(own, 64).req_s
    label, decisions = decide_among(of, known, {}, None, {})
    assert label in of
    assert all(decision.choice for decision in decisions.values())


def renamed(prefix: str) -> tuple[Candidate, ...]:
    return tuple(replace(each, id=f"{prefix} {each.id}", label=f"{prefix} {each.label}") for each in SERVERS)


def test_hours_are_shared_among_workloads_by_what_each_had():
    of = {name: replace(space(), workload=name) for name in ("a", "b")}
    assert share_hours(of, None, {}) == {"a": None, "b": None}
    assert share_hours(of, 10.0, {}) == {"a": pytest.approx(5.0), "b": pytest.approx(5.0)}
    assert share_hours(of, 6.0, {"a": 4.0}) == {"a": pytest.approx(1.0), "b": pytest.approx(5.0)}


def test_the_last_hours_are_for_whoever_needs_them_most():
    """A part of them would buy only small servers."""
    of = {name: replace(space(), workload=name) for name in ("a", "b")}
    largest = max(each.gpus for each in SERVERS) * of["a"].start_h
    assert plannable_hours(of, 2 * largest, {"a": 40.0}) == {"a": 2 * largest, "b": 2 * largest}
    assert plannable_hours(of, 20 * largest, {"a": 40.0}) == share_hours(of, 20 * largest, {"a": 40.0})
    assert plannable_hours(of, None, {}) == {"a": None, "b": None}
