"""TTFT of whole deployments in service: the queue in front of ctx, the hand-over, and the first step of gen.

    TTFT = ctx, with its queue (:mod:`ratematch.match.ctxqueue`) + KV transfer and posting + 2.5 steps of gen

A gen server looks for new requests, and for KV caches that have come, once a step: a request waits for half a step
until it is seen and for one more while its KV cache is fetched, and its first token beyond ctx comes with a step of
its own. A step takes TPOT times the tokens that it gives a request.

The deployment holds N requests, each followed by another when it ends: N = lambda x (TTFT + (OSL - 1) x TPOT). No
request waits for a slot of gen: N is never more than fills its slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ratematch.match.cells import Ints
from ratematch.match.ctxqueue import CtxSteps, solve_queue
from ratematch.match.curves import Floats, throttle_all
from ratematch.match.matching import Gen
from ratematch.plan.load import Percentile

GEN_STEPS = 2.5
"""Steps of gen before a request's first token comes out of it: half a step, the fetch, and its own."""

HALVINGS = 40
"""Of the search for the rate at a limit."""


@dataclass(frozen=True)
class InService:
    """TTFT of the deployments of a ctx and a gen configuration, and its limit ``limit_s`` at ``percentile``.

    ``before_gen_s``: KV transfer and posting of one request. ``tokens_per_step``: of gen, for one request.
    ``spread_s``: TTFT at the percentile over its mean where a prompt is alone, for prompts differ.
    """

    ctx: CtxSteps
    gen: Gen[float]
    limit_s: float
    percentile: Percentile = "mean"
    before_gen_s: float = 0.0
    tokens_per_step: float = 1.0
    spread_s: float = 0.0

    def ttft_s(self, req_s: Floats, x: Ints, y: Ints, percentile: Percentile = "mean") -> Floats:
        """TTFT of ``x`` ctx and ``y`` gen instances at ``req_s`` requests/s, s. Equal shapes; ``req_s`` is above 0
        and no more than either side sustains."""
        gen, queue = self.gen, solve_queue(self.ctx, percentile)
        alone = np.minimum(gen.alone_tok_s(req_s / y), gen.curve.max_rate)
        load, _ = throttle_all(np.array(gen.curve.loads), np.array(gen.curve.rates), alone)
        tokens_s = req_s / y * gen.tokens_per_request
        tpot_s = load / tokens_s
        rest_s = self.before_gen_s + GEN_STEPS * self.tokens_per_step * tpot_s
        decode_s = gen.tokens_per_request * tpot_s
        ctx_s: Floats = np.full_like(req_s, queue.alone_s)
        for _ in range(2):  # how long the queue is depends little on N, and N little on the queue
            ctx_s = queue.ttft_s(req_s, x.astype(np.float64), req_s * (ctx_s + rest_s + decode_s))
        return np.asarray(ctx_s + rest_s + (0.0 if percentile == "mean" else self.spread_s))

    def most_req_s(self, x: Ints, y: Ints, top: Floats) -> Floats:
        """Requests/s, up to ``top``, at which deployments keep the limit; 0 where one never does. Equal shapes."""
        low, high = np.zeros_like(top), top.copy()
        late = self.ttft_s(top, x, y, self.percentile) > self.limit_s
        if not late.any():
            return top
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            within = self.ttft_s(middle, x, y, self.percentile) <= self.limit_s
            low, high = np.where(within, middle, low), np.where(within, high, middle)
        return np.where(late, low, top)
