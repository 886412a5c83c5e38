"""Waves of requests of one length, held against an account that goes through them event by event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ratematch.match.closedloop import operate
from ratematch.match.curves import make_curve
from ratematch.match.matching import Ctx, Gen
from ratematch.match.options import CtxOption, GenOption
from ratematch.match.pairs import Pair, with_posting

BATCH, HANDOVER_S, WAVES = 4, 0.005, 8
LOADS = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


def step_s(decoding: float) -> float:
    return (5.1 + 0.083 * decoding) / 1000


class Account:
    """``slots`` requests of ``osl`` tokens in a closed loop of one ctx server (steps of up to :data:`BATCH` prompts,
    ``prompt_s`` each) and one gen server, which posts each transfer between two steps. TPOT and cycle of each request
    are kept when it ends."""

    def __init__(self, slots: int, osl: int, prompt_s: float, post_s: float) -> None:
        self.slots, self.osl, self.prompt_s, self.post_s = slots, osl, prompt_s, post_s
        self.at_ctx = [(0.0, slot) for slot in range(slots)]
        self.handed: list[tuple[float, int]] = []
        self.moved: list[tuple[float, int]] = []
        self.ends: list[tuple[int, int]] = []
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.now = self.ctx_free = 0.0
        self.steps = 0
        self.tpots: list[float] = []
        self.cycles: list[float] = []

    def run(self) -> tuple[float, float]:
        """Requests/s and mean TPOT (s) of the second half."""
        while len(self.tpots) < WAVES * self.slots:
            self._prefill()
            while self.handed and self.handed[0][0] <= self.now:
                self.now += self.post_s
                slot = heapq.heappop(self.handed)[1]
                heapq.heappush(self.moved, (self.now + HANDOVER_S, slot))
            self._prefill()
            new = []
            while self.moved and self.moved[0][0] <= self.now:
                new.append(heapq.heappop(self.moved)[1])
                heapq.heappush(self.ends, (self.steps + self.osl, new[-1]))
            self._decode(new)
        half = len(self.tpots) // 2
        return self.slots / float(np.mean(self.cycles[half:])), float(np.mean(self.tpots[half:]))

    def _prefill(self) -> None:
        while self.at_ctx and (start := max(self.ctx_free, self.at_ctx[0][0])) <= self.now:
            batch = []
            while self.at_ctx and self.at_ctx[0][0] <= start and len(batch) < BATCH:
                batch.append(heapq.heappop(self.at_ctx)[1])
            self.ctx_free = start + (0.1 + len(batch)) * self.prompt_s
            for slot in batch:
                heapq.heappush(self.handed, (self.ctx_free, slot))

    def _decode(self, new: list[int]) -> None:
        next_s = min([queue[0][0] for queue in (self.handed, self.moved) if queue], default=np.inf)
        if self.at_ctx:
            next_s = min(next_s, max(self.ctx_free, self.at_ctx[0][0]) + 1e-9)
        if not self.ends:
            self.now = max(self.now, next_s)
            return
        one = step_s(len(self.ends))
        until = self.ends[0][0] - self.steps
        steps = 1 if new else int(min(until, max(1, np.ceil((next_s - self.now) / one))))
        self.now, self.steps = self.now + steps * one, self.steps + steps
        self.first |= dict.fromkeys(new, self.now)
        while self.ends and self.ends[0][0] <= self.steps:
            slot = heapq.heappop(self.ends)[1]
            self.tpots.append((self.now - self.first[slot]) / (self.osl - 1))
            self.cycles.append(self.now - self.last.get(slot, 0.0))
            self.last[slot] = self.now
            heapq.heappush(self.at_ctx, (self.now, slot))


def pair_of(osl: int, prompt_s: float, post_s: float) -> Pair:
    rates = make_curve([(1.0, 1 / (1.1 * prompt_s)), (16.0, 1 / prompt_s), (64.0, 1 / prompt_s)])
    ctx = CtxOption("ctx", "TP1", 0, Ctx(1, rates, (1 / prompt_s,)))
    curve = make_curve([(load, load / step_s(load)) for load in LOADS])
    gen = GenOption("gen", "TP1", 0, Gen(1, curve, osl - 1.0), LOADS, (1.0,) * len(LOADS))
    return with_posting(Pair(ctx, gen, (), handover_s=HANDOVER_S), post_s)


def off(measure: Callable[[int, Pair], float], cases: list[tuple[int, Pair, float]]) -> float:
    """Root mean square of the relative differences."""
    return float(np.sqrt(np.mean([(measure(slots, pair) / truth - 1) ** 2 for slots, pair, truth in cases])))


def test_an_account_by_events_is_nearer_to_waves_than_to_even_arrivals() -> None:
    tpots: list[tuple[int, Pair, float]] = []
    rates: list[tuple[int, Pair, float]] = []
    for prompt_s, share, osl, slots in itertools.product((0.02, 0.048), (0.4, 0.65, 0.9), (128, 256), (8, 16, 32)):
        req_s, tpot_s = Account(slots, osl, prompt_s, share * prompt_s).run()
        if req_s * prompt_s < 0.97:  # else ctx is full, and no wave is left
            pair = pair_of(osl, prompt_s, share * prompt_s)
            tpots.append((slots, pair, tpot_s))
            rates.append((slots, pair, req_s))
    assert len(tpots) > 25
    wave = off(lambda slots, pair: operate(pair, 1, 1, slots).tpot_s, tpots)
    even = off(lambda slots, pair: operate(replace(pair, in_step=False), 1, 1, slots).tpot_s, tpots)
    assert wave < 0.06 and wave < 0.7 * even
    assert off(lambda slots, pair: operate(pair, 1, 1, slots).req_s, rates) < 0.06


def test_without_posting_the_account_and_the_prediction_agree() -> None:
    """But for prompts that ctx takes in one step: each is ready when all of them are."""
    req_s, tpot_s = Account(16, 256, 0.048, 0.0).run()
    at = operate(pair_of(256, 0.048, 0.0), 1, 1, 16)
    assert at.tpot_s == pytest.approx(tpot_s, rel=0.03) and at.req_s == pytest.approx(req_s, rel=0.08)
