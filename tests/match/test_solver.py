"""The array solver against the scalar one and brute force; the bootstrap's front against the solver's."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.match.bootstrap import Factors, NoisyProblem, draw_factors, draw_fronts, draw_solved, pool_rising
from ratematch.match.curves import make_curve
from ratematch.match.matching import Ctx, Gen, list_cells, plan_curve
from ratematch.match.noise import Noise
from ratematch.match.packing import Packing
from ratematch.match.pareto import extract_front
from ratematch.match.solver import MatchProblem, front_indices, near_front, solve_rows

gpus = st.sampled_from([1, 2, 4, 8])
floats = st.floats(0.1, 100.0)
curves = st.lists(st.tuples(st.integers(1, 64).map(float), floats.map(lambda v: 50 * v)), min_size=1, max_size=6).map(
    make_curve
)
OSL = 100.0


@st.composite
def problems(draw: st.DrawFn, posted: bool = False) -> MatchProblem:
    rates = sorted(draw(st.lists(floats, min_size=1, max_size=3, unique=True)))
    ctx = Ctx(draw(gpus), make_curve([(2.0**k, rate) for k, rate in enumerate(rates)]), tuple(rates))
    extra_s = draw(st.sampled_from([0.0, 0.0, 0.001, 0.05, 1.0])) if posted else 0.0
    return MatchProblem(ctx, Gen(draw(gpus), draw(curves), OSL - 1, extra_s))


spaces = st.lists(problems(), min_size=1, max_size=3)
posted_spaces = st.lists(problems(posted=True), min_size=1, max_size=3)


@given(posted_spaces, st.integers(8, 24), st.booleans())
def test_every_row_is_that_of_the_scalar_solver(space: list[MatchProblem], budget: int, packed: bool) -> None:
    packing = Packing(8, budget // 8) if packed else None
    rows = solve_rows(space, max_gpus=budget, packing=packing)
    plans = rows.plans(np.arange(rows.size))
    k = 0
    for problem in space:
        for x, y in list_cells(problem.ctx.gpus, problem.gen.gpus, budget, packing):
            for want in plan_curve(problem.ctx, problem.gen, x, y):
                got = next(plans)
                assert (got.x, got.y, got.gpus, got.limit) == (x, y, want.gpus, want.limit)
                assert (got.gen.clamped, got.ctx.clamped) == (want.gen.clamped, want.ctx.clamped)
                assert got.req_s == pytest.approx(want.req_s)
                assert got.tpot_s == pytest.approx(want.tpot_s)
                assert got.ttft_s == pytest.approx(want.ttft_s)
                # Little's law at the throttled point.
                assert y * got.gen.load == pytest.approx(got.req_s * (OSL - 1) * got.tpot_s)
                k += 1
    assert k == rows.size


@given(spaces, st.integers(8, 24))
def test_the_front_equals_brute_force(space: list[MatchProblem], budget: int) -> None:
    points = []
    for problem in space:
        ctx, gen = problem.ctx, problem.gen
        for x, y in product(range(1, budget), repeat=2):
            n = x * ctx.gpus + y * gen.gpus
            if n > budget:
                continue
            demands = [x * rate for rate in ctx.capacities] + [y * rate / (OSL - 1) for rate in gen.curve.rates]
            top = min(x * ctx.capacities[-1], y * gen.curve.rates[-1] / (OSL - 1))
            for demand in demands:
                if demand > top * (1 + 1e-12):
                    continue
                want = min(demand * (OSL - 1) / y, gen.curve.rates[-1])
                loads, rates = gen.curve.loads, gen.curve.rates
                u = rates[0] / loads[0]
                for k in range(1, len(loads)):
                    if rates[k - 1] * (1 + 1e-9) < want <= rates[k] * (1 + 1e-9):
                        u = want / (
                            loads[k - 1]
                            + (loads[k] - loads[k - 1]) * (want - rates[k - 1]) / (rates[k] - rates[k - 1])
                        )
                points.append((float(f"{u:.9g}"), float(f"{demand * OSL / n:.9g}")))
    want_front = extract_front(points, lambda point: point)
    rows = solve_rows(space, max_gpus=budget)
    score = rows.score(OSL, "per_used_gpu")
    got = [
        (float(f"{rows.tok_s_user[k]:.9g}"), float(f"{score[k]:.9g}")) for k in front_indices(rows.tok_s_user, score)
    ]
    # Points equal to the last digits may stand on either side of the rounding.
    for u, p in got:
        assert any(a == pytest.approx(u, rel=1e-7) and b == pytest.approx(p, rel=1e-7) for a, b in want_front)
    for a, b in want_front:
        assert any(u >= a * (1 - 1e-7) and p >= b * (1 - 1e-7) for u, p in got)


@given(posted_spaces, st.integers(8, 24), st.sampled_from(["per_used_gpu", "per_allocated_gpu", "tok_s_in_budget"]))
@settings(deadline=None)
def test_a_draw_without_noise_has_the_solvers_front(space: list[MatchProblem], budget: int, objective: str) -> None:
    packing = Packing(8, budget // 8)
    kwargs = {"max_gpus": budget, "packing": packing, "tpot_limit_s": 0.05}
    rows = solve_rows(space, **kwargs)  # type: ignore[arg-type]
    score = rows.score(OSL, objective)  # type: ignore[arg-type]
    front = front_indices(rows.tok_s_user, score)
    ones = draw_factors([NoisyProblem(problem) for problem in space], draws=1, seed=0)
    ((u, p),) = draw_fronts(space, ones, osl=OSL, objective=objective, **kwargs)  # type: ignore[arg-type]
    for k in front:
        assert any(
            a == pytest.approx(rows.tok_s_user[k]) and b == pytest.approx(score[k]) for a, b in zip(u, p, strict=True)
        )
    assert bool(u.size) == bool(front.size)
    if u.size:
        assert u[-1] == pytest.approx(rows.tok_s_user[front[-1]])
        assert p[0] == pytest.approx(score[front[0]])


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=40))
def test_near_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    u, p = (np.array(values) for values in zip(*points, strict=True))
    near = near_front(u, p)
    for k, (a, b) in enumerate(points):
        beaten = any(c >= a * (1 + 1e-6) and d >= b * (1 + 1e-6) for c, d in points)
        assert not (beaten and near[k])
    assert near[np.argmax(u)] or near[np.argmax(p)]


@given(st.lists(st.floats(1, 100), min_size=1, max_size=8))
def test_pooled_rates_are_those_of_the_curve(rates: list[float]) -> None:
    want = make_curve([(float(k + 1), rate) for k, rate in enumerate(rates)]).rates
    assert pool_rising(np.array([rates]))[0] == pytest.approx(want)


def two_configurations(better: float) -> list[MatchProblem]:
    """Two gen configurations whose rates differ by the factor ``better``."""
    ctx = Ctx(4, make_curve([(1.0, 40.0)]), (40.0,))
    curves = [make_curve([(64.0, 6400.0 * f)]) for f in (1.0, better)]
    return [MatchProblem(ctx, Gen(4, curve, OSL - 1)) for curve in curves]


def chance(better: float, rel: float) -> float:
    space = two_configurations(better)
    noisy = [NoisyProblem(problem, (), (Noise(rel, 30),)) for problem in space]
    factors = draw_factors(noisy, draws=400, seed=1)
    fronts = draw_fronts(space, factors, max_gpus=16, osl=OSL)
    rows = solve_rows(space, max_gpus=16)
    score = rows.score(OSL, "per_used_gpu")
    k = int(np.flatnonzero(rows.pair == 0)[np.argmax(score[rows.pair == 0])])
    drawn = draw_solved(space[0], factors, rows, k, score=float(score[k]), osl=OSL, fronts=fronts)
    return drawn.on_front


def test_the_chance_of_being_on_the_front_follows_the_noise() -> None:
    assert chance(1.02, rel=0.001) == 0
    assert 0.2 < chance(1.02, rel=0.05) < 0.5  # within the noise: a tie
    assert chance(0.9, rel=0.001) == 1


def test_one_ctx_measurement_moves_every_pair_it_is_in() -> None:
    space = two_configurations(1.1)
    factors = draw_factors([NoisyProblem(p, (Noise(0.1, 9),), (None,)) for p in space], draws=5, seed=3)
    assert isinstance(factors, Factors)
    assert factors.ctx[0] is factors.ctx[1]
    assert np.ptp(factors.ctx[0]) > 0
    assert np.ptp(factors.gen[0]) == 0
