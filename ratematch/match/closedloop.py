"""What a deployment does at a fixed number of requests in flight: the closed loop of a benchmark run.

N = lambda x (TTFT(lambda) + (OSL-1) x TPOT(lambda)), both latencies from the measured curves, has one solution while
N is below what the deployment holds at its limit. Above it the rate stays and the surplus waits: TTFT grows 1:1.

Requests that start together end together when they are equally long, and so arrive together again. ``bunching`` is
the share of all requests in flight that such a bunch is: a ctx server then works on ``bunching`` x N / x prompts at
once, however low the mean rate, and TTFT is what its curve says for so many. 0: arrivals as even as when ctx was
measured. It is fitted to end-to-end runs, never assumed (:mod:`ratematch.match.calibration`).

A request waits for the posting of its own KV transfer before its first token; then it is held up by the others only
(``extra_s`` of :class:`ratematch.match.matching.Gen`). Of n in flight in an instance n - 1 are others, so a request
alone is not held up, and the share of the time that is gone for those who decode is lambda x extra_s x (n - 1) / n;
less where requests of one length run in waves (:mod:`ratematch.match.waves`), which wait for ctx besides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.curves import Curve, Reading, latency_at, throttle
from ratematch.match.matching import Gen, Limit, match_rates
from ratematch.match.noise import Floats
from ratematch.match.pairs import Pair, before_gen_s
from ratematch.match.solver import throttle_all
from ratematch.match.waves import find_wave

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
    """Where ``x`` ctx and ``y`` gen instances of ``pair`` settle.

    Raises:
        ValueError: ``concurrency`` is not positive.
    """
    held_up = held_up_by_others(pair, x, y, concurrency)
    return settle(
        pair.ctx.rates.curve,
        held_up.gen,
        x,
        y,
        concurrency,
        handover_s=before_gen_s(pair) + held_up.wait_s,
        bunching=pair.bunching,
    )


def settle(
    ctx: Curve[float],
    gen: Gen[float],
    x: int,
    y: int,
    concurrency: float,
    *,
    handover_s: float = 0.0,
    bunching: float = 0.0,
) -> Operating:
    """Where ``concurrency`` requests in flight settle; ``handover_s``: between ctx and gen.

    Raises:
        ValueError: ``concurrency`` is not positive.
    """
    if concurrency <= 0:
        raise ValueError(f"{concurrency} requests in flight is not positive")
    tokens = gen.tokens_per_request
    bunch_s = latency_at(ctx, bunching * concurrency / x)

    def decoding(req_s: float) -> Reading[float]:
        return gen.read(min(req_s / y, gen.max_req_s))

    def held(req_s: float) -> float:
        in_ctx_s = max(bunch_s, throttle(ctx, min(req_s / x, ctx.max_rate)).latency_s)
        return req_s * (handover_s + in_ctx_s) + y * decoding(req_s).load

    top, limit = match_rates(x * ctx.max_rate, y * gen.max_req_s)
    if held(top) <= concurrency:
        req_s, side = top, limit
    else:
        low, high = 0.0, top
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if held(middle) < concurrency else (low, middle)
        req_s, side = high, None
    point = decoding(req_s)
    ttft_s = concurrency / req_s - tokens * point.latency_s
    return Operating(concurrency, req_s, ttft_s, point.latency_s, side, point.clamped)


@dataclass(frozen=True)
class HeldUp:
    """``gen`` as one of the requests in flight finds it, which are held up by each other; ``wait_s`` in front of ctx
    that comes of it."""

    gen: Gen[float]
    wait_s: float = 0.0


def held_up_by_others(pair: Pair, x: int, y: int, concurrency: float) -> HeldUp:
    """What the posting of KV transfers takes of those that decode, with ``concurrency`` requests in flight at ``x``
    ctx and ``y`` gen instances.

    Raises:
        ValueError: ``concurrency`` is not positive.
    """
    gen, ctx, n = pair.gen.rates, pair.ctx.rates.curve, concurrency / y
    if not gen.extra_s or concurrency <= 0:
        return HeldUp(gen)
    even = replace(gen, extra_s=gen.extra_s * max(0.0, 1 - 1 / n))
    before_s = latency_at(ctx, 1.0) + before_gen_s(pair)
    wave = find_wave(n, y / (x * ctx.max_rate), gen.extra_s, before_s) if pair.in_step else None
    if wave is None:
        return HeldUp(even)
    # How many decode depends on the rate, and the rate on them: twice is enough, for the rate hardly moves.
    found = even
    for _ in range(2):
        at = settle(ctx, found, x, y, concurrency, handover_s=before_gen_s(pair) + wave.wait_s)
        decoding = n - at.req_s / y * (before_s + wave.wait_s)
        if decoding <= wave.postings:  # ctx holds most of them: no wave is left
            return HeldUp(even)
        found = replace(gen, extra_s=gen.extra_s * min(1 - 1 / n, wave.postings / decoding))
    return HeldUp(found, wave.wait_s)


def settle_all(
    pair: Pair, x: int, y: int, concurrency: float, *, ctx: Floats, gen: float, bunching: Floats
) -> Floats:
    """The rates of :func:`operate` for many ctx factors and bunchings at once (:func:`derate`), requests/s."""
    own = pair.ctx.rates.curve
    held_up = held_up_by_others(derate(pair, 1.0, gen), x, y, concurrency)
    handover_s, decode = before_gen_s(pair) + held_up.wait_s, held_up.gen
    ctx_loads, ctx_rates = np.array(own.loads), np.array(own.rates)
    gen_loads, gen_rates = np.array(decode.curve.loads), np.array(decode.curve.rates)
    bunch_s = np.array([latency_at(own, float(share) * concurrency / x) for share in bunching]) / ctx
    top = np.minimum(x * own.max_rate * ctx, y * decode.max_req_s)

    def held(req_s: Floats) -> Floats:
        at_ctx = np.minimum(req_s / x / ctx, own.max_rate)
        ctx_load, _ = throttle_all(ctx_loads, ctx_rates, at_ctx)
        at_gen = np.minimum(decode.alone_tok_s(req_s / y), decode.curve.max_rate)
        gen_load, _ = throttle_all(gen_loads, gen_rates, at_gen)
        in_ctx_s = np.maximum(bunch_s, ctx_load / (at_ctx * ctx))
        return np.asarray(req_s * (handover_s + in_ctx_s) + y * gen_load)

    low, high = np.full_like(top, 1e-12), top.copy()
    for _ in range(STEPS):
        middle = (low + high) / 2
        below = held(middle) < concurrency
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(held(top) <= concurrency, top, high)


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
