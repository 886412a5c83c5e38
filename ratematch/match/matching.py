"""ctx:gen rate matching: the fractional bound, every whole-number deployment, and where each of them runs.

Notation: x ctx instances of G_c GPUs that each sustain R_c requests/s, y gen instances of G_g GPUs. One gen instance
emits T(C) tokens/s with C requests decoding, and a request asks ``tokens_per_request`` of it, so it absorbs
R_g = T / tokens_per_request. lambda = min(x R_c, y R_g) is the request rate of the deployment, and
P = lambda x OSL / (x G_c + y G_g) its output tok/s per used GPU.

Convention, decided here once: the context server sends the first token and generation the other OSL - 1, so
``tokens_per_request`` is OSL - 1 where T counts decoded tokens (:func:`gen_tokens_per_request`; measured sweeps).
Tables that state T as output tok/s and R_g = T / OSL pass OSL. The two differ by OSL / (OSL - 1): 0.4 % at 256.
With OSL - 1 the requests in flight add up: N = lambda x (TTFT + (OSL-1) x TPOT), y C = lambda x (OSL-1) x TPOT.

A request may take time of a gen instance in service that it did not take alone, ``extra_s``: posting its KV transfer,
during which nobody decodes. A share lambda x extra_s of the time is gone then, and with C decoding an instance gives
T(C) x (1 - lambda x extra_s) tokens/s; with lambda = tokens/s over tokens a request that is
R_g = 1 / (tokens_per_request / T(C) + extra_s) requests/s.

All arithmetic works in floats and, for exact cases, in Fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isclose
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ratematch.match.curves import Curve, Number, Reading, throttle
from ratematch.match.packing import Packing, count_nodes

Limit = Literal["ctx", "gen", "both"]
Objective = Literal["per_used_gpu", "per_allocated_gpu", "tok_s_in_budget"]

Value = TypeVar("Value", float, Fraction, NDArray[np.float64])
"""A rate, or many."""

RATIO_TOLERANCE = Fraction(1, 200)
"""Measured ratios are shown as the simplest fraction within 0.5 %, which is below the repeatability of a rate."""


def gen_tokens_per_request(osl: float) -> float:
    """Tokens that generation emits for a request: all but the first, which comes from the context server."""
    return osl - 1


def solve_ratio(ctx_req_s: Number, gen_req_s: Number) -> Number:
    """Ideal ctx:gen instance ratio rho = R_g / R_c, from requests/s of one instance each."""
    return gen_req_s / ctx_req_s


@lru_cache(maxsize=4096)
def show_ratio(ratio: float | Fraction) -> str:
    """``"9/2"``, ``"3/1"``: exact up to a denominator of 100, else the simplest fraction within the tolerance."""
    exact = Fraction(ratio)
    short = exact.limit_denominator(100)
    if not _same(float(short), float(exact)):
        reach = RATIO_TOLERANCE * exact
        simplest = _simplest_between(exact - reach, exact + reach)
        short = Fraction(round(exact * simplest.denominator), simplest.denominator)
        short = short if short.denominator < 10_000 else exact
    return f"{short.numerator}/{short.denominator}"


def _simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """The fraction with the smallest denominator in [low, high], 0 < low <= high: where the continued fractions of
    the two ends part."""
    whole = low.numerator // low.denominator
    if whole == low:
        return Fraction(whole)
    if whole + 1 <= high:
        return Fraction(whole + 1)
    return whole + 1 / _simplest_between(1 / (high - whole), 1 / (low - whole))


def bound_tok_s_gpu(osl: Number, ctx_gpus: int, ctx_req_s: Number, gen_gpus: int, gen_req_s: Number) -> Number:
    """Output tok/s per GPU at the ideal fractional ratio: OSL / (G_c/R_c + G_g/R_g). No whole deployment beats it."""
    return osl / (ctx_gpus / ctx_req_s + gen_gpus / gen_req_s)


def list_cells(ctx_gpus: int, gen_gpus: int, max_gpus: int, packing: Packing | None = None) -> list[tuple[int, int]]:
    """Every (x, y) with at least one instance a side that fits ``max_gpus`` and the nodes, ordered by y then x."""
    return [
        (x, y)
        for y in range(1, max_gpus // gen_gpus + 1)
        for x in range(1, (max_gpus - y * gen_gpus) // ctx_gpus + 1)
        if packing is None or packing.nodes is None or count_nodes(ctx_gpus, x, gen_gpus, y, packing) <= packing.nodes
    ]


def match_rates(ctx_req_s: Number, gen_req_s: Number) -> tuple[Number, Limit]:
    """lambda and the limiting side, from what all ctx and all gen instances sustain. Floats tie within 1e-9."""
    if _same(ctx_req_s, gen_req_s):
        return min(ctx_req_s, gen_req_s), "both"
    return (ctx_req_s, "ctx") if ctx_req_s < gen_req_s else (gen_req_s, "gen")


def _same(a: float | Fraction, b: float | Fraction) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return isclose(a, b, rel_tol=1e-9)


@dataclass(frozen=True)
class Ctx(Generic[Number]):
    """One ctx configuration: requests/s of one instance over the prompts in it, up to ``capacities``.

    ``capacities``: requests/s of one instance (the measured rows within the TTFT limit), ascending.
    """

    gpus: int
    curve: Curve[Number]
    capacities: tuple[Number, ...]


@dataclass(frozen=True)
class Gen(Generic[Number]):
    """One gen configuration: tokens/s of one instance over the requests decoding in it, measured alone.

    ``extra_s``: what a request takes of an instance in service beyond what it took alone, s.
    """

    gpus: int
    curve: Curve[Number]
    tokens_per_request: Number
    extra_s: float = 0.0

    def req_s(self, tok_s: Value) -> Value:
        """R_g: requests/s one instance absorbs in service where alone it gives ``tok_s``."""
        tokens: Any = self.tokens_per_request
        result: Value = tok_s / (tokens + tok_s * self.extra_s if self.extra_s else tokens)
        return result

    @property
    def max_req_s(self) -> Number:
        """R_g at the highest rate measured."""
        return self.req_s(self.curve.max_rate)

    def alone_tok_s(self, req_s: Value) -> Value:
        """Tokens/s that an instance gives alone where it absorbs ``req_s``: the inverse of :meth:`req_s`."""
        tokens: Any = self.tokens_per_request
        result: Value = req_s * tokens
        if self.extra_s:
            left: Any = 1 - req_s * self.extra_s
            result = result / left
        return result

    def in_service(self, alone: Reading[Number]) -> Reading[Number]:
        """A point of the curve as it is in service: as many decode, at a lower rate."""
        if not self.extra_s:
            return alone
        rate: Number = self.req_s(alone.rate) * self.tokens_per_request
        return Reading(alone.load, rate, alone.load / rate, alone.clamped)

    def read(self, req_s: Number) -> Reading[Number]:
        """Where an instance settles in service that is given ``req_s``.

        Raises:
            ValueError: ``req_s`` is not positive, or above :attr:`max_req_s`.
        """
        return self.in_service(throttle(self.curve, _snap(self.alone_tok_s(req_s), self.curve)))


@dataclass(frozen=True)
class Plan(Generic[Number]):
    """A whole deployment at one demand. ``ctx`` and ``gen`` are the operating points of one instance each."""

    x: int
    y: int
    gpus: int
    req_s: Number
    limit: Limit
    ctx: Reading[Number]
    gen: Reading[Number]

    @property
    def ttft_s(self) -> Number:
        return self.ctx.latency_s

    @property
    def tpot_s(self) -> Number:
        return self.gen.latency_s

    @property
    def clamped(self) -> bool:
        return self.gen.clamped


def plan_curve(ctx: Ctx[Number], gen: Gen[Number], x: int, y: int) -> list[Plan[Number]]:
    """One deployment over demand, ascending: every measured gen point it can feed and every measured ctx capacity.

    Its last row is lambda = min(x R_c, y R_g). Lower rows are the same deployment with fewer requests in flight, and
    may be on the front too. Both sides are read at the demand they really get: a gen instance that ctx cannot fill
    runs at C* with T(C*) = demand, so its TPOT is better than at the measured full batch.
    """
    top, limit = match_rates(x * ctx.capacities[-1], y * gen.req_s(gen.curve.max_rate))
    demands: list[tuple[Number, Limit]] = [(x * rate, "ctx") for rate in ctx.capacities[:-1]]
    demands += [(y * gen.req_s(rate), "gen") for rate in gen.curve.rates]
    demands = [pair for pair in demands if pair[0] < top and not _same(pair[0], top)]
    demands.sort(key=lambda pair: pair[0])
    demands.append((top, limit))
    return [
        _plan(ctx, gen, x, y, demand, side)
        for k, (demand, side) in enumerate(demands)
        if k == 0 or not _same(demand, demands[k - 1][0])
    ]


def _plan(ctx: Ctx[Number], gen: Gen[Number], x: int, y: int, req_s: Number, limit: Limit) -> Plan[Number]:
    ctx_rate = _snap(req_s / x, ctx.curve)
    return Plan(
        x=x,
        y=y,
        gpus=x * ctx.gpus + y * gen.gpus,
        req_s=req_s,
        limit=limit,
        ctx=throttle(ctx.curve, ctx_rate),
        gen=gen.read(req_s / y),
    )


def _snap(rate: Number, curve: Curve[Number]) -> Number:
    """``rate``, or the measured rate it differs from by the last digits of (y * rate) / y in floats."""
    return next((known for known in curve.rates if _same(known, rate)), rate)


def keep_undominated(rows: Sequence[tuple[int, float, float]]) -> list[int]:
    """Indices of ctx rows (GPUs, requests/s, TTFT) that no other row matches or beats in all three.

    Small instances with a low rate stay: they make a finer ratio. Of equal rows the first stays.
    """
    return [
        k
        for k, (gpus, rate, ttft) in enumerate(rows)
        if not any(
            other[0] <= gpus and other[1] >= rate and other[2] <= ttft and (other != (gpus, rate, ttft) or j < k)
            for j, other in enumerate(rows)
            if j != k
        )
    ]
