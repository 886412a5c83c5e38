"""A TPOT limit between two measured loads: deployments run at the limit, not at the next lower load."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.match.curves import make_curve, read_rate_at
from ratematch.match.frontier import find_frontier
from ratematch.match.matching import Ctx, Gen
from ratematch.match.noise import Noise
from ratematch.match.options import CtxOption, GenOption
from ratematch.match.pairs import Pair, meet_tpot_limit, predict_deployment
from ratematch.match.question import Question
from ratematch.plan.load import Constraints

CTX = CtxOption("ctx", "TP1", 0, Ctx(1, make_curve([(1.0, 10.0)]), (10.0,)))


def gen_of(*points: tuple[float, float], extra_s: float = 0.0, noise: Noise | None = None) -> GenOption:
    curve = make_curve(points)
    size = len(curve.loads)
    return GenOption(
        "gen", "TP1", 0, Gen(1, curve, 100.0, extra_s), curve.loads, (1.0,) * size, noise=(noise,) * size
    )


def limited(gen: GenOption, tpot_ms: float) -> Pair:
    return meet_tpot_limit([Pair(CTX, gen, ())], Constraints(tpot_ms=tpot_ms))[0]


def test_the_point_at_the_limit_is_on_the_line_between_measured_loads():
    """T = 100 + (C - 1) 400 / 9 and C / T = 15 ms meet at C = 2.5."""
    gen = limited(gen_of((1.0, 100.0), (10.0, 500.0)), 15).gen
    assert gen.at_limit == 1
    assert gen.rates.curve.loads[1] == pytest.approx(2.5, rel=1e-4)
    assert gen.rates.curve.rates[1] == pytest.approx(500 / 3, rel=1e-4)
    assert len(gen.noise) == 3


def test_a_deployment_is_planned_at_the_limit():
    """One ctx server feeds three at 1.67 requests/s each; at the measured load below they would be given 1."""
    pair = limited(gen_of((1.0, 100.0), (10.0, 500.0)), 15)
    plans = predict_deployment(pair, 1, 3, workload="x", constraints=Constraints(tpot_ms=15))
    assert plans[-1].req_s == pytest.approx(5, rel=1e-4)
    assert plans[-1].tpot_ms == pytest.approx(15, rel=1e-4)
    question = Question(tpot_ms=15, max_gpus=4, draws=0)
    (best,) = [point for point in find_frontier([pair], question, workload="x").front if point.tok_s_user < 67]
    assert (best.ctx, best.gen, best.limit) == (1, 3, "gen")
    assert best.tok_s_gpu == pytest.approx(5 * 101 / 4, rel=1e-4)


@pytest.mark.parametrize("tpot_ms", [None, 9.0, 25.0])
def test_without_a_limit_between_measured_loads_nothing_changes(tpot_ms):
    pair = Pair(CTX, gen_of((1.0, 100.0), (10.0, 500.0)), ())
    assert meet_tpot_limit([pair], Constraints(tpot_ms=tpot_ms)) == [pair]


@given(
    loads=st.lists(st.floats(1, 500), min_size=2, max_size=5, unique=True),
    steps=st.lists(st.floats(0.1, 50), min_size=5, max_size=5),
    limit=st.floats(5, 200),
    extra_s=st.sampled_from([0.0, 0.002]),
)
def test_the_curve_reads_as_before_and_the_point_keeps_the_limit(loads, steps, limit, extra_s):
    loads = sorted(loads)
    gen = gen_of(*((load, 10 * sum(steps[: k + 1])) for k, load in enumerate(loads)), extra_s=extra_s)
    new = limited(gen, limit).gen
    for load in (loads[0], *((a + b) / 2 for a, b in pairwise(loads)), loads[-1]):
        assert read_rate_at(new.rates.curve, load) == pytest.approx(read_rate_at(gen.rates.curve, load), rel=1e-6)
    if new.at_limit is not None:
        at = new.at_limit
        curve = new.rates.curve
        rate = new.rates.req_s(curve.rates[at]) * 100
        assert limit * 0.999 <= curve.loads[at] / rate * 1000 <= limit


def test_the_point_has_its_neighbours_noise_and_an_interval():
    pair = limited(gen_of((1.0, 100.0), (10.0, 500.0), noise=Noise(0.02, 20, "repeats")), 15)
    frontier = find_frontier([pair], Question(tpot_ms=15, max_gpus=4), workload="x")
    best = max(frontier.front, key=lambda point: point.tok_s_gpu)
    assert best.tpot_ms == pytest.approx(15, rel=1e-4)
    assert best.tok_s_gpu_low is not None and best.tok_s_gpu_high is not None
    assert best.tok_s_gpu_low < best.tok_s_gpu < best.tok_s_gpu_high
    assert best.front_chance is not None and best.front_chance > 0.9
    assert all(max(p for _, p in front) > 0.9 * best.tok_s_gpu for front in frontier.draws)
