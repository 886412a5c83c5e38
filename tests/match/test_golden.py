"""Hand-computed cases (tests/golden/rate_matching.json), held exactly in Fractions."""

from __future__ import annotations

import json
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest

from ratematch.match.curves import make_curve, throttle
from ratematch.match.matching import (
    Ctx,
    Gen,
    Plan,
    bound_tok_s_gpu,
    list_cells,
    plan_curve,
    show_ratio,
    solve_ratio,
)
from ratematch.match.packing import Packing, count_nodes
from ratematch.match.pareto import extract_front, hypervolume, overlap_area_ratio, speed_up
from ratematch.match.servicetime import erlang_c, wait_mgc_s, wait_mmc_s

CASES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "rate_matching.json").read_text())


def plan_whole(case: dict[str, Any], budget: int, packing: Packing | None = None) -> list[Plan[F]]:
    """Every whole deployment of a case's ctx and gen at its limit, exactly. Each side has one measured point."""
    ctx, gen, osl = case["ctx"], case["gen"], F(case["osl"])
    tok_s = F(gen["T"]) if "T" in gen else F(gen["R"]) * osl
    ctx_side = Ctx(ctx["G"], make_curve([(F(1), F(ctx["R"]))]), (F(ctx["R"]),))
    gen_side = Gen(gen["G"], make_curve([(F(gen.get("C", 1)), tok_s)]), osl)
    cells = list_cells(ctx["G"], gen["G"], budget, packing)
    return [plan_curve(ctx_side, gen_side, x, y)[-1] for x, y in cells]


def test_g1_ratio_and_bound() -> None:
    case = CASES["G1"]
    ctx, gen, expect, osl = case["ctx"], case["gen"], case["expect"], F(case["osl"])
    rate = F(gen["T"]) / osl
    assert F(gen["T"], gen["C"]) == F(expect["u"])
    assert rate == F(expect["R_gen"])
    assert solve_ratio(F(ctx["R"]), rate) == F(expect["ratio"])
    assert show_ratio(solve_ratio(float(ctx["R"]), float(rate))) == expect["ratio"]
    assert bound_tok_s_gpu(osl, ctx["G"], F(ctx["R"]), gen["G"], rate) == F(expect["P_sol"])


@pytest.mark.parametrize("budget", ["20", "24", "44", "72"])
def test_g1_best_whole_plan_per_used_gpu(budget: str) -> None:
    case = CASES["G1"]
    osl, want = F(case["osl"]), case["expect"]["best_per_used_gpu"][budget]
    plans = plan_whole(case, int(budget))
    assert len(plans) == case["expect"]["cells"][budget]
    best = max(plans, key=lambda plan: (plan.req_s / plan.gpus, -plan.gpus))
    assert (best.x, best.y, best.gpus, best.limit) == (want["x"], want["y"], want["gpus"], want["limit"])
    assert best.req_s == F(want["lambda"])
    assert best.req_s * osl / best.gpus == F(want["P"])


def test_g1_most_tokens_in_a_budget_is_another_plan() -> None:
    case = CASES["G1"]
    osl, want = F(case["osl"]), case["expect"]["best_tokens_per_s_with_24_gpus"]
    best = max(plan_whole(case, 24), key=lambda plan: (plan.req_s, -plan.gpus, -plan.x))
    assert (best.x, best.y) == (want["x"], want["y"])
    assert best.req_s * osl == F(want["tok_s"])
    assert best.req_s * osl / best.gpus == F(want["P_used"])


def test_g2_a_ctx_limited_plan_runs_at_the_throttled_point() -> None:
    case = CASES["G2"]
    osl, expect = F(case["osl"]), case["expect"]
    curve = make_curve([(F(row["C"]), F(row["T"])) for row in case["gen"]["curve"]])
    gen = Gen(case["gen"]["G"], curve, osl)
    ctx = Ctx(case["ctx"]["G"], make_curve([(F(1), F(case["ctx"]["R"]))]), (F(case["ctx"]["R"]),))
    assert [gen.req_s(rate) for rate in curve.rates] == [F(value) for value in expect["R_gen"]]
    assert [rate / load for load, rate in zip(curve.loads, curve.rates, strict=True)] == [F(u) for u in expect["u"]]

    plan = plan_curve(ctx, gen, case["plan"]["x"], case["plan"]["y"])[-1]
    assert (plan.req_s, plan.limit, plan.gpus) == (F(expect["lambda"]), expect["limit"], expect["gpus"])
    assert plan.req_s * osl / plan.gpus == F(expect["P"])
    assert (plan.gen.rate, plan.gen.load) == (F(expect["T_throttled"]), F(expect["C_throttled"]))
    assert plan.tpot_s * 1000 == F(expect["tpot_ms"])
    assert 1 / plan.tpot_s == F(expect["u_throttled"])
    assert throttle(curve, curve.max_rate).rate / curve.loads[-1] == F(expect["u_if_not_throttled"])


def test_g3_whole_nodes_are_paid_for() -> None:
    case = CASES["G3"]
    ctx, gen, osl, expect = case["ctx"], case["gen"], F(case["osl"]), case["expect"]
    packing = Packing(case["gpus_per_node"], case["nodes"], case["ctx_and_gen_share_nodes"])
    budget = case["gpus_per_node"] * case["nodes"]
    assert solve_ratio(F(ctx["R"]), F(gen["R"])) == F(expect["ratio"])
    assert bound_tok_s_gpu(osl, ctx["G"], F(ctx["R"]), gen["G"], F(gen["R"])) == F(expect["P_sol"])
    assert len(list_cells(ctx["G"], gen["G"], budget, packing)) == expect["feasible_cells"]
    plans = {(plan.x, plan.y): plan for plan in plan_whole(case, budget, packing)}
    for row in expect["rows"]:
        plan = plans[row["x"], row["y"]]
        nodes = count_nodes(ctx["G"], plan.x, gen["G"], plan.y, packing)
        assert (nodes, plan.limit, plan.req_s) == (row["nodes"], row["limit"], F(row["lambda"]))
        assert plan.req_s * osl / plan.gpus == F(row["P_used"])
        assert plan.req_s * osl / (nodes * packing.gpus_per_node) == F(row["P_allocated"])
    best = max(plans.values(), key=lambda plan: (plan.req_s, -plan.gpus, -plan.x))
    assert (best.x, best.y) == (expect["max_tok_s"]["x"], expect["max_tok_s"]["y"])
    assert best.req_s * osl == F(expect["max_tok_s"]["tok_s"])


@pytest.mark.parametrize("limit", ["0.5", "1.0", "3.0"])
def test_g4_the_ttft_limit_moves_the_front(limit: str) -> None:
    case = CASES["G4"]
    osl, expect = F(case["osl"]), case["expect"]
    want = expect[f"ttft_{limit}"]
    allowed = [row for row in case["ctx"] if row["ttft_s"] <= float(limit)]
    best = max(allowed, key=lambda row: F(row["R"], row["G"]))
    assert best["label"] == want["ctx"]
    rows = []
    for k, gen in enumerate(case["gen"]):
        u = F(gen["acceptance_length"]) / F(gen["step_ms"]) * 1000
        rate = gen["C"] * u / osl
        assert (u, rate) == (F(expect["u"][k]), F(expect["R_gen"][k]))
        bound = bound_tok_s_gpu(osl, best["G"], F(best["R"]), gen["G"], rate)
        assert bound == F(want["P"][k])
        if "ratio" in want:
            assert solve_ratio(F(best["R"]), rate) == F(want["ratio"][k])
        rows.append((gen["label"], u, bound))
    front = extract_front(rows, lambda row: (float(row[1]), float(row[2])))
    assert [row[0] for row in front] == want["front"]


def test_g5_fronts_compared() -> None:
    """The case that the published figures of G5 determine: step, linear, hypervolume and overlap area."""
    a = [(20.0, 800.0), (60.0, 600.0), (100.0, 200.0)]
    b = [(20.0, 700.0), (50.0, 400.0), (100.0, 100.0)]
    assert speed_up(a, b, 40) == (pytest.approx(1.5), pytest.approx(1.4))
    assert speed_up(a, b, 80) == (pytest.approx(2.0), pytest.approx(20 / 11))
    assert hypervolume(a) / hypervolume(b) == pytest.approx(48 / 31)
    assert overlap_area_ratio(a, b) == pytest.approx(44 / 29)


def test_g6_queueing() -> None:
    one, two = CASES["G6"]["expect"]["md1"], CASES["G6"]["expect"]["two_servers"]
    wait_s = wait_mgc_s(F(one["lambda"]), F(one["service_s"]), 1, cv_service=F(0), cv_arrival=F(1))
    assert wait_s == F(one["wait_s"])
    assert wait_s + F(one["service_s"]) == F(one["ttft_s"])
    rate, service = F(two["lambda"]), F(two["service_s"])
    assert erlang_c(rate * service, 2) == F(two["erlang_c"])
    assert wait_mmc_s(rate, service, 2) == F(two["mm2_wait_s"])
    assert wait_mgc_s(rate, service, 2, cv_service=F(0), cv_arrival=F(1)) == F(two["md2_wait_s_approx"])
