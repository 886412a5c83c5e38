"""The queue in front of ctx servers: how long a prompt takes that comes at any moment, not when the one before ended.

Measured alone, in a closed loop, a ctx server is given a prompt whenever it answers one, so prompts fall in step with
its steps: of n that are sent at once the first begins a step alone, the others wait for it, and these two groups take
turns. TTFT with n in flight, F(n) = n / R(n), is one step of each:

    F(n) = S(1) + S(n - 1)        S(1) = F(2) / 2, S(k): how long a step of k prompts keeps the server

What a prompt alone takes beyond S(1) (its way in and out, stages of a pipeline behind the first) is no time that
others wait: ``around_s`` = F(1) - S(1). Steps are full at K prompts, from where on more in flight give no more.

In service prompts come at any moment of a step: independent requests with outputs of many lengths end, and others
take their place, as Poisson arrivals do. A server takes what waits, K at most, into its next step (bulk service,
M/D(k)[1,K]/1). The number of prompts at the start of a step is a Markov chain; from its steady state, what an arrival
finds under way and in front of it, and so its TTFT, with its whole distribution.

Two things make arrivals more even than that. x servers in turn (round robin) are given every x-th arrival each: waits
are linear in the squared coefficient of variation of the gaps, 1 / x (Kingman), and the line goes through x = 1 and
x = 2, both solved as above. And N requests, each of which comes back about a life after it came, cannot bunch as
endlessly many do: the queue beyond even arrivals is that of N periodic sources (Roberts and Virtamo 1991, "The
superposition of periodic cell arrival streams in an ATM multiplexer"; P(Q > q) = exp(-2 q^2 / N - 2 q (1 - load))),
over that of Poisson ones sqrt(pi) z exp(z^2) erfc(z), z = (1 - load) sqrt(N / 2). A request meets N - 1 others.

Nothing is fitted. ``tests/match/test_ctxqueue.py`` holds it to a simulation of prompts one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ratematch.match.curves import Curve, Floats
from ratematch.plan.load import Percentile

FULL = 0.95
"""A step is full that gives this share of the highest rate: a larger one only makes all in it wait for each other."""

LOADS = np.array([0.01, 0.04, 0.08, 0.13, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94])
"""Shares of the highest rate at which the chain is solved; TTFT x (1 - share) is read on lines between them, and
stays beyond the last one, as in heavy traffic."""

SLICES = 8
"""Moments of a step at which arrivals are looked at."""

MOST_PLACES = 64
"""Of a full step with more prompts so many groups are looked at, which come and are computed together: with that many
in a step, chance has little part in it."""

TAIL = 4.0
"""Places of the queue that are looked at, in 1 / (1 - load): a share exp(-2 x this) of arrivals finds more."""


@dataclass(frozen=True)
class CtxSteps:
    """What decides how prompts wait in front of one ctx server. ``seconds[k - 1]``: how long a step of k prompts
    keeps it, up to a full step; it never falls. ``around_s``: what a prompt takes beyond its step."""

    seconds: tuple[float, ...]
    around_s: float

    @property
    def max_rate(self) -> float:
        """Requests/s of full steps."""
        return len(self.seconds) / self.seconds[-1]

    @property
    def alone_s(self) -> float:
        """TTFT of a prompt that finds nobody."""
        return self.seconds[0] + self.around_s


def read_steps(curve: Curve[float]) -> CtxSteps | None:
    """The steps of a ctx server whose ``curve`` (prompts in flight to requests/s) was measured alone; ``None`` where
    it was with one load only, which does not tell how long others keep a prompt waiting.

    S is read on lines between measured loads: a step takes a fixed time and one a prompt.
    """
    if len(curve.loads) < 2:
        return None
    loads, rates = np.array(curve.loads), np.array(curve.rates)
    full = loads[np.argmax(rates >= FULL * rates[-1])]
    most = max(1, round(float(full) / 2))
    latencies = np.maximum.accumulate(loads / rates)  # more in flight are not faster but for noise
    one = float(np.interp(2.0, loads, latencies)) / 2
    known = (loads > 2) & (loads < most + 1)  # with more in flight both steps are nearly full
    prompts, times = [1.0, *(loads[known] - 1), float(most)], [one, *(latencies[known] - one), most / curve.max_rate]
    seconds = np.interp(np.arange(1, most + 1), prompts, times)
    seconds = np.minimum.accumulate(seconds[::-1])[::-1]
    return CtxSteps(tuple(seconds.tolist()), max(0.0, float(latencies[0] - seconds[0])))


@dataclass(frozen=True)
class _Arrivals:
    """Prompts as they come, in the steady state: TTFT without ``around_s``, s, and how many have it (weights)."""

    seconds: Floats
    weights: Floats

    @property
    def mean_s(self) -> float:
        return float(np.average(self.seconds, weights=self.weights))

    def at(self, share: float) -> float:
        """TTFT that ``share`` of the prompts do not exceed."""
        order = np.argsort(self.seconds, kind="stable")
        reached = np.cumsum(self.weights[order])
        return float(self.seconds[order][np.searchsorted(reached, share * reached[-1])])


def find_arrivals(steps: CtxSteps, rate: float, servers: int) -> _Arrivals:
    """The prompts of one of ``servers`` in turn, each given ``rate`` requests/s, below :attr:`CtxSteps.max_rate`.

    The state at the start of a step is the number of requests since the last prompt of this server that is computed:
    of ``servers`` of them one is its own. Poisson arrivals of all of them together.
    """
    turn, most, seconds = servers, len(steps.seconds), np.array(steps.seconds)
    all_s = rate * turn
    size = turn * (2 * most + 4 + int(TAIL / (1 - rate / steps.max_rate)))
    states = np.arange(turn, size)
    taken = np.minimum(states // turn, most)
    left = states - taken * turn
    lasts = seconds[taken - 1]
    came = _poisson(all_s * seconds, size)
    # The next step begins with what is left and came, or with the first own prompt after it.
    needed = states[None, :] - left[:, None]
    move = np.where(needed >= 0, came[taken[:, None] - 1, np.maximum(needed, 0)], 0.0)
    below = np.cumsum(came, axis=1)[taken - 1, np.maximum(turn - left, 0)]
    idle = np.where(left < turn, np.cumsum(came, axis=1)[taken - 1, np.maximum(turn - 1 - left, 0)], 0.0)
    move[:, 0] = np.where(left <= turn, below, 0.0)
    move[:, -1] += np.maximum(0.0, 1 - move.sum(axis=1))
    balance = move.T - np.eye(states.size)
    balance[0] = 1.0
    right = np.zeros(states.size)
    right[0] = 1.0
    shares = np.maximum(np.linalg.solve(balance, right), 0.0)

    times, weights = [np.array([seconds[0]])], [np.array([float(shares @ idle)])]
    widest = all_s * seconds[-1]
    counts = np.arange(min(size, int(widest + 6 * np.sqrt(widest)) + 8))
    for part in (np.arange(SLICES) + 0.5) / SLICES:
        here = _poisson(all_s * seconds * part, counts.size)[taken - 1]
        before = left[:, None] + counts
        own = (before + 1) % turn == 0
        ahead = (before + 1) // turn - 1
        full, place = ahead // most, ahead % most
        until = (1 - part) * lasts[:, None] + full * seconds[-1]
        together = np.minimum(most, place + 1 + rate * until)
        times.append((until + np.interp(together, np.arange(1, most + 1), seconds))[own])
        weights.append((shares[:, None] * here * all_s * lasts[:, None] / SLICES)[own])
    return _Arrivals(np.concatenate(times), np.concatenate(weights))


def _poisson(means: Floats, num: int) -> Floats:
    """Probabilities of 0 ... num - 1 events at each of ``means``, all above 0."""
    counts = np.arange(num)
    logs = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    return np.asarray(np.exp(counts * np.log(means)[:, None] - means[:, None] - logs))


@dataclass(frozen=True)
class CtxQueue:
    """TTFT of a ctx server in service at shares :data:`LOADS` of the highest rate, s. ``even``: where prompts come
    evenly; ``chance``: by how much it is longer, times 1 - share, where one server is given Poisson arrivals.
    ``share``: of the requests that do not exceed it; ``None``: it is the mean."""

    max_rate: float
    alone_s: float
    even: Floats
    chance: Floats
    share: float | None = None

    def ttft_s(self, req_s: Floats, servers: Floats, in_flight: Floats) -> Floats:
        """TTFT where ``servers`` share ``req_s`` requests/s of ``in_flight`` requests in turn, s. Equal shapes."""
        load = np.minimum(req_s / servers / self.max_rate, 1.0) * np.maximum(1 - 1 / in_flight, 0.0)
        even = np.maximum(np.interp(load, LOADS, self.even), self.alone_s)
        few = _of_few(1 - load, np.sqrt(in_flight / 2), self.share)
        return np.asarray(even + np.interp(load, LOADS, self.chance) * few / servers)


def _of_few(left: Floats, root: Floats, share: float | None) -> Floats:
    """What stands for 1 / ``left``, the share of the rate that is not used, where requests are few: ``root`` is
    sqrt(N / 2), z = ``left`` x ``root``. Of the mean, sqrt(pi) exp(z^2) erfc(z) x root, whose asymptote
    1 / z (1 - 1 / (2 z^2)) agrees to 1e-4 beyond :data:`REACH`; of what ``share`` of the requests do not exceed, with
    L = -log(1 - share), 2 / L (sqrt(z^2 + L) - z) x root."""
    z = left * root
    if share is not None:
        log = -math.log(1 - share)
        return np.asarray(2 * root / (np.sqrt(z**2 + log) + z))
    far = np.maximum(z, REACH)
    return np.asarray(np.where(z < REACH, np.interp(z, _Z, _OF_FEW), (1 - 0.5 / far**2) / far) * root)


REACH = 8.0
_Z = np.linspace(0.0, REACH, 1601)
_OF_FEW = np.array([math.sqrt(math.pi) * math.exp(z * z) * math.erfc(z) for z in _Z])


@lru_cache(maxsize=256)
def solve_queue(steps: CtxSteps, percentile: Percentile) -> CtxQueue:
    """The queue of ``steps``, at the mean or at a percentile of the requests."""
    group = -(-len(steps.seconds) // MOST_PLACES)
    grouped = CtxSteps(steps.seconds[group - 1 :: group], steps.around_s)
    columns = []
    for servers in (1, 2):
        each = [find_arrivals(grouped, load * grouped.max_rate, servers) for load in LOADS]
        values = [a.mean_s if percentile == "mean" else a.at(percentile / 100) for a in each]
        columns.append(np.maximum.accumulate(np.array(values)) + steps.around_s)
    one, two = columns
    even = np.minimum(np.maximum(2 * two - one, steps.alone_s), one)
    share = None if percentile == "mean" else percentile / 100
    return CtxQueue(steps.max_rate, steps.alone_s, even, (one - even) * (1 - LOADS), share)
