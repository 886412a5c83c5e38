"""What a deployment does at a fixed number of requests in flight: the closed loop of a benchmark run.

N = lambda x (TTFT(lambda) + (OSL-1) x TPOT(lambda)), both latencies from the measured curves, has one solution while
N is below what the deployment holds at its limit. Above it the rate stays and the surplus waits: TTFT grows 1:1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratematch.match.curves import Curve, throttle
from ratematch.match.matching import Limit, match_rates
from ratematch.match.predict import Pair

STEPS = 40
"""Bisections: the rate is then good to 1e-12 of the limit."""


@dataclass(frozen=True)
class Operating:
    """``x`` ctx and ``y`` gen instances with ``concurrency`` requests in flight. ``ttft_s`` holds what waits.

    ``limit``: what bounds the rate, ``None`` below the deployment's limit.
    """

    concurrency: float
    req_s: float
    ttft_s: float
    tpot_s: float
    limit: Limit | None
    clamped: bool


def operate(pair: Pair, x: int, y: int, concurrency: float) -> Operating:
    """Where the deployment settles.

    Raises:
        ValueError: ``concurrency`` is not positive.
    """
    if concurrency <= 0:
        raise ValueError(f"{concurrency} requests in flight is not positive")
    gen = pair.gen.rates
    top, limit = match_rates(x * pair.ctx.rates.curve.max_rate, y * gen.req_s(gen.curve.max_rate))
    if _held(pair, x, y, top) <= concurrency:
        req_s, side = top, limit
    else:
        low, high = 0.0, top
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if _held(pair, x, y, middle) < concurrency else (low, middle)
        req_s, side = high, None
    tokens = gen.tokens_per_request
    point = throttle(gen.curve, min(req_s * tokens / y, gen.curve.max_rate))
    ttft_s = concurrency / req_s - tokens * point.latency_s
    return Operating(concurrency, req_s, ttft_s, point.latency_s, side, point.clamped)


def _held(pair: Pair, x: int, y: int, req_s: float) -> float:
    """Requests in flight in all instances, and between them, at ``req_s``."""
    ctx, gen = pair.ctx.rates.curve, pair.gen.rates
    rate = min(req_s * gen.tokens_per_request / y, gen.curve.max_rate)
    on_the_way = req_s * pair.handover_s
    return on_the_way + x * throttle(ctx, min(req_s / x, ctx.max_rate)).load + y * throttle(gen.curve, rate).load


def derate(pair: Pair, ctx: float, gen: float) -> Pair:
    """The pair with all rates of a side multiplied by a factor: at equal loads, so latencies grow by 1 / factor."""
    return replace(
        pair,
        ctx=replace(
            pair.ctx,
            rates=replace(
                pair.ctx.rates,
                curve=_scale(pair.ctx.rates.curve, ctx),
                capacities=tuple(rate * ctx for rate in pair.ctx.rates.capacities),
            ),
        ),
        gen=replace(pair.gen, rates=replace(pair.gen.rates, curve=_scale(pair.gen.rates.curve, gen))),
    )


def _scale(curve: Curve[float], factor: float) -> Curve[float]:
    return replace(curve, rates=tuple(rate * factor for rate in curve.rates))
