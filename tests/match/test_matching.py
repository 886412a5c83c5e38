from __future__ import annotations

from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.match.curves import Curve, make_curve, read_rate_at, throttle
from ratematch.match.matching import (
    Ctx,
    Gen,
    bound_tok_s_gpu,
    keep_undominated,
    plan_curve,
    show_ratio,
)
from ratematch.match.packing import Packing, count_nodes
from ratematch.match.servicetime import erlang_c, wait_mgc_s
from ratematch.match.solver import MatchProblem, solve_rows

gpus = st.sampled_from([1, 2, 4, 8])
rates = st.fractions(min_value=F(1, 10), max_value=50, max_denominator=20)
curves = st.lists(st.tuples(st.integers(1, 64).map(F), rates.map(lambda r: r * 100)), min_size=1, max_size=6).map(
    lambda points: make_curve(points)
)
floats = st.floats(min_value=0.1, max_value=1e4)


def one_point(g_ctx: int, r_ctx: F, g_gen: int, r_gen: F) -> MatchProblem:
    """A ctx and a gen configuration of one measured point each, requests/s."""
    ctx = Ctx(g_ctx, make_curve([(1.0, float(r_ctx))]), (float(r_ctx),))
    return MatchProblem(ctx, Gen(g_gen, make_curve([(1.0, float(r_gen))]), 1.0))


@given(gpus, rates, gpus, rates, st.integers(16, 48))
def test_no_whole_plan_beats_the_fractional_bound(g_ctx: int, r_ctx: F, g_gen: int, r_gen: F, budget: int) -> None:
    bound = bound_tok_s_gpu(100.0, g_ctx, float(r_ctx), g_gen, float(r_gen))
    rows = solve_rows([one_point(g_ctx, r_ctx, g_gen, r_gen)], max_gpus=budget)
    assert rows.size
    assert np.all(rows.score(100.0, "per_used_gpu") <= bound * (1 + 1e-12))


@given(gpus, rates, gpus, rates, st.integers(16, 40), st.booleans())
def test_the_solver_equals_brute_force(g_ctx: int, r_ctx: F, g_gen: int, r_gen: F, budget: int, share: bool) -> None:
    packing = Packing(8, budget // 8, share)
    rows = solve_rows([one_point(g_ctx, r_ctx, g_gen, r_gen)], max_gpus=budget, packing=packing)
    best = max(
        min(x * r_ctx, y * r_gen) / (x * g_ctx + y * g_gen)
        for x, y in product(range(1, 41), repeat=2)
        if x * g_ctx + y * g_gen <= budget and _nodes_by_search(g_ctx, x, g_gen, y, share) <= budget // 8
    )
    chosen = int(np.argmax(rows.score(1.0, "per_used_gpu")))
    # The best row again in fractions: what the solver chose is exactly as good as what all were searched for.
    x, y = int(rows.x[chosen]), int(rows.y[chosen])
    assert min(x * r_ctx, y * r_gen) / (x * g_ctx + y * g_gen) == best


def _nodes_by_search(g_ctx: int, x: int, g_gen: int, y: int, share: bool) -> int:
    """First fit decreasing on nodes of 8: the optimum for sizes that divide one another."""
    sizes = [("gen" if not share else "", g_gen)] * y + [("ctx" if not share else "", g_ctx)] * x
    nodes: list[tuple[str, int]] = []
    for kind, size in sorted(sizes, key=lambda item: -item[1]):
        for k, (owner, free) in enumerate(nodes):
            if owner == kind and free >= size:
                nodes[k] = (owner, free - size)
                break
        else:
            nodes.append((kind, 8 - size))
    return len(nodes)


@given(gpus, curves, gpus, curves, st.integers(1, 6), st.integers(1, 6), st.integers(2, 500).map(F))
def test_every_row_of_a_plan_obeys_littles_law(
    g_ctx: int, ctx_curve: Curve[F], g_gen: int, gen_curve: Curve[F], x: int, y: int, osl: F
) -> None:
    ctx = Ctx(g_ctx, ctx_curve, tuple(sorted(set(ctx_curve.rates))))
    gen = Gen(g_gen, gen_curve, osl - 1)
    rows = plan_curve(ctx, gen, x, y)
    assert [row.req_s for row in rows] == sorted({row.req_s for row in rows})
    assert rows[-1].req_s == min(x * ctx_curve.max_rate, y * gen.req_s(gen_curve.max_rate))
    for row in rows:
        assert y * row.gen.load == row.req_s * (osl - 1) * row.tpot_s
        assert x * row.ctx.load == row.req_s * row.ttft_s
        in_flight = row.req_s * (row.ttft_s + (osl - 1) * row.tpot_s)
        assert in_flight == x * row.ctx.load + y * row.gen.load
        assert row.req_s * osl / row.gpus <= bound_tok_s_gpu(
            osl, g_ctx, ctx_curve.max_rate, g_gen, gen.req_s(row.gen.rate)
        )


@given(curves, st.fractions(min_value=F(1, 50), max_value=1, max_denominator=50))
def test_a_throttled_point_lies_on_the_curve_or_is_clamped(curve: Curve[F], part: F) -> None:
    rate = curve.max_rate * part
    reading = throttle(curve, rate)
    assert reading.load == reading.rate * reading.latency_s
    if reading.clamped:
        assert rate < curve.rates[0]
        assert reading.latency_s == curve.loads[0] / curve.rates[0]
    else:
        assert read_rate_at(curve, reading.load) == rate


@given(st.lists(st.tuples(st.integers(1, 40).map(F), rates), min_size=1, max_size=8))
def test_a_curve_never_falls_and_keeps_what_did_not(points: list[tuple[F, F]]) -> None:
    curve = make_curve(points)
    assert list(curve.rates) == sorted(curve.rates)
    assert list(curve.loads) == sorted({load for load, _ in points})
    assert min(rate for _, rate in points) <= curve.rates[0]
    assert curve.max_rate <= max(rate for _, rate in points)
    assert make_curve(reversed(points)) == curve
    assert make_curve(zip(curve.loads, curve.rates, strict=True)) == Curve(curve.loads, curve.rates, False)


def test_a_falling_rate_is_pooled_and_said() -> None:
    curve = make_curve([(1.0, 10.0), (2.0, 20.0), (4.0, 18.0), (8.0, 30.0)])
    assert curve == Curve((1.0, 2.0, 4.0, 8.0), (10.0, 19.0, 19.0, 30.0), smoothed=True)
    assert throttle(curve, 19.0).load == 2.0


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(1.0, 0.0)], [(1.0, float("nan"))]])
def test_a_curve_refuses_what_is_not_positive(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="curve needs"):
        make_curve(points)


def test_nothing_is_read_beyond_the_measured_range() -> None:
    curve = make_curve([(2.0, 10.0), (4.0, 16.0)])
    with pytest.raises(ValueError, match="not measured"):
        throttle(curve, 17.0)
    with pytest.raises(ValueError, match="not measured"):
        read_rate_at(curve, 5.0)
    assert throttle(curve, 5.0).clamped


def test_demands_between_measured_points_are_rows_too() -> None:
    ctx = Ctx(4, make_curve([(1.0, 8.0), (4.0, 12.0)]), (8.0, 12.0))
    gen = Gen(8, make_curve([(32.0, 4000.0), (64.0, 6400.0), (128.0, 8000.0)]), 200.0)
    rows = plan_curve(ctx, gen, 3, 1)
    assert [(row.req_s, row.limit) for row in rows] == [(20.0, "gen"), (24.0, "ctx"), (32.0, "gen"), (36.0, "ctx")]


def test_a_row_beaten_in_all_three_is_left_out_and_small_instances_stay() -> None:
    rows = [(8, 16.0, 2.5), (4, 6.0, 0.6), (8, 10.0, 0.4), (8, 9.0, 0.5), (4, 6.0, 0.6)]
    assert keep_undominated(rows) == [0, 1, 2]


@pytest.mark.parametrize(
    ("ctx_gpus", "x", "gen_gpus", "y", "share", "nodes"),
    [
        (4, 3, 16, 2, False, 6),
        (3, 4, 5, 2, True, 3),
        (3, 2, 2, 1, True, 1),
        (1, 1, 1, 1, False, 2),
        (6, 2, 2, 2, True, 2),
    ],
)
def test_nodes_are_counted_exactly(ctx_gpus: int, x: int, gen_gpus: int, y: int, share: bool, nodes: int) -> None:
    assert count_nodes(ctx_gpus, x, gen_gpus, y, Packing(8, None, share)) == nodes


def test_measured_ratios_are_shown_as_short_fractions() -> None:
    assert show_ratio(4.5) == "9/2"
    assert show_ratio(1 / 3 + 1e-9) == "1/3"
    assert show_ratio(1.92) == "48/25"
    assert show_ratio(2.1974) == "11/5"
    assert show_ratio(0.00301) == "1/331"


def test_queues_that_only_grow_are_refused() -> None:
    with pytest.raises(ValueError, match="no steady state"):
        wait_mgc_s(2.0, 0.5, 1, cv_service=0.0, cv_arrival=1.0)
    with pytest.raises(ValueError, match="no steady state"):
        erlang_c(2.0, 2)


@given(st.fractions(min_value=F(1, 10), max_value=F(9, 10), max_denominator=30))
def test_allen_cunneen_is_exact_for_one_server_with_constant_service(load: F) -> None:
    # Pollaczek-Khinchine, M/D/1: lambda S^2 / (2 (1 - rho)).
    assert wait_mgc_s(load, F(1), 1, cv_service=F(0), cv_arrival=F(1)) == load / (2 * (1 - load))
