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

from ratematch.match.curves import Curve, Reading, latency_at, throttle, throttle_all
from ratematch.match.matching import Gen, Limit, match_rates
from ratematch.match.noise import Floats
from ratematch.match.pairs import Pair, before_gen_s
from ratematch.match.waves import find_wave

STEPS = 40
"""Bisections: the rate is then good to 1e-12 of the limit."""

FEW_STEPS = 12
"""The same where three digits do."""


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


def held_up_by_others(pair: Pair, x: float, y: float, concurrency: float) -> HeldUp:
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
        decoding = _decoding(found, n, before_s + wave.wait_s)
        if decoding <= wave.postings:  # ctx holds most of them: no wave is left
            return HeldUp(even)
        found = replace(gen, extra_s=gen.extra_s * min(1 - 1 / n, wave.postings / decoding))
    return HeldUp(found, wave.wait_s)


def _decoding(gen: Gen[float], in_flight: float, before_s: float) -> float:
    """How many of the requests of an instance decode, where each is ``before_s`` elsewhere."""
    low, high = 0.0, gen.max_req_s
    for _ in range(FEW_STEPS):
        middle = (low + high) / 2
        held = middle * before_s + gen.read(middle).load
        low, high = (middle, high) if held < in_flight else (low, middle)
    return in_flight - low * before_s


@dataclass(frozen=True)
class Loaded:
    """Deployments of one pair at their concurrencies, columns of equal length: ``x`` ctx and ``y`` gen instances with
    ``concurrency`` requests in flight, and the factor ``gen`` on the rates of gen (:func:`derate`)."""

    x: Floats
    y: Floats
    concurrency: Floats
    gen: Floats


def settle_all(pair: Pair, loaded: Loaded, *, ctx: Floats, bunching: Floats) -> Floats:
    """The rates of :func:`operate` for every deployment, ctx factor (:func:`derate`) and bunching, requests/s:
    (deployments, ctx factors, bunchings).

    A prompt is in ctx for as long as the curve says at the rate of its server, or for as long as its bunch takes, the
    longer of both. So the rate is the smaller of two: that with even arrivals, which no bunching changes, and that
    with bunches alone, where the time in ctx is known and the loop is solved piece by piece of the gen curve.
    """
    x, y, concurrency, factor = (column[:, None] for column in (loaded.x, loaded.y, loaded.concurrency, loaded.gen))
    own, gen = pair.ctx.rates.curve, pair.gen.rates
    extra_s, wait_s = _held_up(pair, loaded, ctx)
    most = gen.curve.max_rate * factor
    top = np.minimum(x * own.max_rate * ctx, y * most / (gen.tokens_per_request + most * extra_s))
    even = _settle_even(pair, loaded, ctx, (extra_s, wait_s), top)
    loads = bunching * concurrency / x
    within = np.clip(loads, own.loads[0], own.loads[-1])
    bunch_s = np.maximum(loads, own.loads[0]) / np.interp(within, own.loads, own.rates)
    before_s = bunch_s[:, None, :] / ctx[:, None] + wait_s[:, :, None]
    if extra_s.shape[1] == 1:
        bunched = _settle_bunched(pair, loaded, extra_s, before_s)
    else:
        each = (_settle_bunched(pair, loaded, extra_s[:, k : k + 1], before_s[:, k : k + 1]) for k in range(ctx.size))
        bunched = np.concatenate(list(each), axis=1)
    return np.minimum(bunched, np.minimum(even, top)[:, :, None])


def _held_up(pair: Pair, loaded: Loaded, ctx: Floats) -> tuple[Floats, Floats]:
    """``extra_s`` and ``wait_s`` of :func:`held_up_by_others`: (deployments, ctx factors), or (deployments, 1) where
    ctx has no part in them."""
    if not pair.gen.rates.extra_s:
        nothing = np.zeros((loaded.x.size, 1))
        return nothing, nothing
    factors = ctx if pair.in_step else ctx[:1]
    columns = list(zip(loaded.x, loaded.y, loaded.concurrency, loaded.gen, strict=True))
    each = [[held_up_by_others(derate(pair, c, gen), x, y, n) for c in factors] for x, y, n, gen in columns]
    extra_s = np.array([[held.gen.extra_s for held in row] for row in each])
    return extra_s, np.array([[held.wait_s for held in row] for row in each])


def _settle_even(pair: Pair, loaded: Loaded, ctx: Floats, held_up: tuple[Floats, Floats], top: Floats) -> Floats:
    """Rates with arrivals as even as when ctx was measured: (deployments, ctx factors), up to ``top``."""
    x, y, concurrency, factor = (column[:, None] for column in (loaded.x, loaded.y, loaded.concurrency, loaded.gen))
    own, gen, extra_s = pair.ctx.rates.curve, pair.gen.rates, held_up[0]
    handover_s = before_gen_s(pair) + held_up[1]
    ctx_loads, ctx_rates = np.array(own.loads), np.array(own.rates)
    gen_loads, gen_rates = np.array(gen.curve.loads), np.array(gen.curve.rates)

    def held(req_s: Floats) -> Floats:
        at_ctx = np.minimum(req_s / x / ctx, own.max_rate)
        at_gen = req_s / y
        alone = at_gen * gen.tokens_per_request / (1 - at_gen * extra_s) / factor
        ctx_load, _ = throttle_all(ctx_loads, ctx_rates, at_ctx)
        gen_load, _ = throttle_all(gen_loads, gen_rates, np.minimum(alone, gen.curve.max_rate))
        return np.asarray(req_s * handover_s + x * ctx_load + y * gen_load)

    low, high = np.full_like(top, 1e-12), top.copy()
    for _ in range(STEPS):
        middle = (low + high) / 2
        below = held(middle) < concurrency
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(held(top) <= concurrency, top, high)


def _settle_bunched(pair: Pair, loaded: Loaded, extra_s: Floats, in_ctx_s: Floats) -> Floats:
    """Rates where every prompt is in ctx for ``in_ctx_s`` (deployments first), up to what gen sustains.

    With r = lambda / y, W the time before gen and l + s T the load of a piece of the gen curve at T tokens/s,
    N = y (r W + l + s T) with T = r t / (1 - r e): linear in r, and with ``extra_s`` (e) quadratic.
    """
    gen = pair.gen.rates
    y, concurrency, factor = (column[:, None] for column in (loaded.y, loaded.concurrency, loaded.gen))
    tokens, before_s = gen.tokens_per_request, in_ctx_s.reshape(loaded.y.size, -1) + before_gen_s(pair)
    # Below the lowest load measured TPOT is that of this load: a line from nothing to there.
    loads = np.array([0.0, *gen.curve.loads])
    alone = np.array([0.0, *gen.curve.rates]) * factor
    req_s = alone / (tokens + alone * extra_s)
    more = np.diff(alone, axis=1)
    slope = np.divide(np.diff(loads), more, out=np.zeros_like(more), where=more > 0)
    start = loads[:-1] - slope * alone[:, :-1]
    # The time before gen with which the loop settles at each measured point; it is longer where the rate is lower.
    borders = (concurrency / y - loads[1:]) / req_s[:, 1:]
    piece = np.zeros(before_s.shape, dtype=np.int64)
    for k in range(borders.shape[1]):
        piece += before_s < borders[:, k : k + 1]
    beyond = piece == borders.shape[1]
    piece = np.minimum(piece, borders.shape[1] - 1)
    first, rise = (np.take_along_axis(values, piece, axis=1) for values in (start, slope))
    left = concurrency / y - first
    half = before_s + left * extra_s + rise * tokens
    root = np.sqrt(np.maximum(0.0, half**2 - 4 * before_s * extra_s * left))
    low, high = (np.take_along_axis(req_s, at, axis=1) for at in (piece, piece + 1))
    each = np.clip(2 * left / (half + root), low, high)
    return np.asarray(y * np.where(beyond, req_s[:, -1:], each)).reshape(in_ctx_s.shape)


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
