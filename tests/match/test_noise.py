"""Intervals that cover the truth about as often as they claim."""

from __future__ import annotations

import numpy as np
import pytest

from ratematch.match.bootstrap import NoisyProblem, draw_factors, draw_fronts
from ratematch.match.curves import make_curve
from ratematch.match.matching import Ctx, Gen
from ratematch.match.noise import Noise, batch_means, draw, interval, noise_of_mean, pool_noise
from ratematch.match.solver import Problem


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


def test_repeats_cover_the_true_rate_through_the_whole_solve() -> None:
    """ctx and gen rates with 3 % noise, three repeats each: the interval of tok/s/GPU holds the truth about 95 %."""
    rng = np.random.default_rng(7)
    loads, truth, ctx_rate, osl = (16.0, 64.0), (1600.0, 4000.0), 10.0, 101.0

    def best(ctx: float, gen: tuple[float, ...]) -> float:
        problem = Problem(
            Ctx(4, make_curve([(1.0, ctx)]), (ctx,)), Gen(4, make_curve(zip(loads, gen, strict=True)), osl - 1)
        )
        ((_, p),) = draw_fronts(
            [problem], draw_factors([NoisyProblem(problem)], draws=1, seed=0), max_gpus=20, osl=osl
        )
        return float(p[0])

    want, covered, runs = best(ctx_rate, truth), 0, 300
    for k in range(runs):
        measured = [[rate * rng.normal(1, 0.03) for _ in range(3)] for rate in (ctx_rate, *truth)]
        pooled = pool_noise(measured)
        noise = noise_of_mean(3, pooled, [None] * 3)
        ctx, *gen = (float(np.mean(rates)) for rates in measured)
        problem = Problem(
            Ctx(4, make_curve([(1.0, ctx)]), (ctx,)), Gen(4, make_curve(zip(loads, gen, strict=True)), osl - 1)
        )
        factors = draw_factors([NoisyProblem(problem, (noise,), (noise, noise))], draws=200, seed=k)
        fronts = draw_fronts([problem], factors, max_gpus=20, osl=osl)
        low, high = interval(np.array([p[0] for _, p in fronts]))
        covered += low <= want <= high
    assert 0.90 <= covered / runs <= 0.99


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
