"""Intervals that cover the truth about as often as they claim."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ratematch.match.bootstrap import NoisyProblem, draw_factors, draw_fronts
from ratematch.match.curves import make_curve
from ratematch.match.matching import Ctx, Gen
from ratematch.match.noise import Noise, batch_means, draw, interval, interval_about, noise_of_mean, pool_noise
from ratematch.match.solver import MatchProblem


def test_batch_means_cover_the_true_rate() -> None:
    """Poisson completions at 100/s for 20 s, 400 times: the 95 % interval holds the truth in 92 to 98 %."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        instants = np.sort(rng.uniform(0, 20, rng.poisson(2000)))
        noise = batch_means(instants, np.ones(instants.size), 0.0, 20.0, latency_s=0.5)
        assert noise is not None
        low, high = interval(instants.size / 20 * draw(noise, 500, rng))
        covered += low <= 100 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_batches_that_hang_together_make_wide_intervals() -> None:
    """Rates that drift (AR(1) over seconds, r = 0.8): independent batches would claim far too much."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(300):
        level, amounts = 0.0, []
        for _ in range(400):
            level = 0.8 * level + rng.normal(0, 6)
            amounts.append(max(1.0, 100 + level))
        noise = batch_means(np.arange(400) + 0.5, np.array(amounts), 0.0, 400.0, latency_s=20.0)
        assert noise is not None
        low, high = interval(np.mean(amounts) * draw(noise, 500, rng))
        covered += low <= 100 <= high
    assert 0.88 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ("ctx_rate", "max_gpus"),
    [
        pytest.param(10.0, 20, id="balanced"),  # 4 x 10 = 1 x 40: the smaller of two equal noisy rates counts
        pytest.param(9.0, 20, id="ctx-limited"),
        pytest.param(13.0, 72, id="many-cells"),  # several (x, y) within the noise: the luckiest is taken
    ],
)
def test_repeats_cover_the_true_rate_through_the_whole_solve(ctx_rate: float, max_gpus: int) -> None:
    """ctx and gen rates with 3 % noise, three repeats each: the interval of tok/s/GPU holds the truth about 95 %."""
    rng = np.random.default_rng(7)
    loads, truth, osl = (16.0, 64.0), (1600.0, 4000.0), 101.0

    def pose(ctx: float, *gen: float) -> MatchProblem:
        return MatchProblem(
            Ctx(4, make_curve([(1.0, ctx)]), (ctx,)), Gen(4, make_curve(zip(loads, gen, strict=True)), osl - 1)
        )

    def draw_best(problem: MatchProblem, noise: Noise | None, draws: int, seed: int) -> NDArray[np.float64]:
        factors = draw_factors([NoisyProblem(problem, (noise,), (noise, noise))], draws=draws, seed=seed)
        return np.array([p[0] for _, p in draw_fronts([problem], factors, max_gpus=max_gpus, osl=osl)])

    want, covered, runs = draw_best(pose(ctx_rate, *truth), None, 1, 0)[0], 0, 300
    for k in range(runs):
        measured = [[rate * rng.normal(1, 0.03) for _ in range(3)] for rate in (ctx_rate, *truth)]
        noise = noise_of_mean(3, pool_noise(measured), [None] * 3)
        problem = pose(*(float(np.mean(rates)) for rates in measured))
        low, high = interval_about(draw_best(problem, None, 1, 0)[0], draw_best(problem, noise, 200, k))
        covered += low <= want <= high
    assert 0.90 <= covered / runs <= 0.99


def test_where_draws_lie_evenly_the_interval_is_that_of_the_draws() -> None:
    values = 100 * np.exp(np.random.default_rng(8).normal(0, 0.02, 20_000))
    assert interval_about(100.0, values) == pytest.approx(interval(values), rel=1e-3)
    # All draws on one side (the luckiest of many): the truth may be as far on the other.
    low, high = interval_about(100.0, values * 1.1)
    assert low < 88 < 112 < high


def test_short_runs_tell_nothing() -> None:
    instants = np.linspace(0.1, 9.9, 50)
    assert batch_means(instants, np.ones(50), 0.0, 10.0, latency_s=4.0) is None
    assert batch_means(instants, np.ones(50), 20.0, 30.0, latency_s=0.1) is None


def test_the_larger_of_repeats_and_batches_counts() -> None:
    pooled = pool_noise([[10.0, 12.0], [5.0, 5.0]])
    assert pooled is not None
    assert pooled.rel == pytest.approx(np.sqrt(2 * (1 / 11) ** 2 / 2))
    assert pooled.dof == 2
    mean = noise_of_mean(2, pooled, [Noise(0.001, 9)] * 2)
    assert mean is not None
    assert mean.rel == pytest.approx(pooled.rel / np.sqrt(2))
    assert noise_of_mean(1, None, [Noise(0.02, 9)]) == Noise(0.02, 9)
    assert noise_of_mean(1, None, [None]) is None
    assert pool_noise([[1.0], [2.0]]) is None
