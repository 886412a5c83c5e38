"""Waiting in front of context servers that serve open-loop arrivals, with its whole distribution.

Poisson arrivals, constant service time D, c servers that share a queue (M/D/c): exact, by Franx (2001), "A simple
solution for the M/D/c waiting time distribution". Only positive terms are added, so nothing cancels. How a router
spreads arrivals decides what c is:

``shared``      one queue for all instances, the next free one takes a request: c = instances.
``random``      each instance has its own queue and Poisson arrivals: c = 1 at the rate of one instance.
``round_robin`` its own queue, every x-th arrival: the gaps are Erlang-x, cv^2 = 1/x. Allen-Cunneen scales the M/D/1
                wait by (cv^2 + cs^2) / (1 + cs^2), an approximation.

A spread of service times (cs) scales waits by 1 + cs^2, as in Allen-Cunneen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from ratematch.match.curves import Number
from ratematch.match.noise import Floats

Routing = Literal["shared", "random", "round_robin"]

BUSIEST = 0.98
"""Above this load the queue is so long that its length depends on how long one measures; nothing is planned there."""


@dataclass(frozen=True)
class Wait:
    """Wait before service of one of ``servers``. ``scale``: what routing and spread of service multiply it by."""

    load: float
    servers: int
    service_s: float
    scale: float

    @property
    def mean_s(self) -> float:
        """Mean wait, s: Allen-Cunneen over the M/M/c wait, exact for one server with constant service."""
        req_s = self.load / self.service_s
        waiting: float = wait_mgc_s(req_s, self.service_s, self.servers, cv_service=0.0, cv_arrival=1.0)
        return self.scale * waiting

    def at(self, percentile: float | Literal["mean"]) -> float:
        """Wait that ``percentile`` of the requests stay below, s."""
        if percentile == "mean":
            return self.mean_s
        return self.scale * self.service_s * _quantile(round(self.load, 6), self.servers, percentile / 100)


def open_loop_wait(
    req_s: float, service_s: float, instances: int, routing: Routing, *, cv_service: float = 0.0
) -> Wait | None:
    """The wait of ``req_s`` Poisson arrivals at ``instances`` servers of ``service_s`` each; ``None`` when they are
    busier than ``BUSIEST``: no steady state, or none that could be measured."""
    load = req_s * service_s / instances
    if load > BUSIEST:
        return None
    spread = 1 + cv_service**2
    if routing == "shared":
        return Wait(req_s * service_s, instances, service_s, spread)
    scale = spread if routing == "random" else 1 / instances + cv_service**2
    return Wait(load, 1, service_s, scale)


@lru_cache(maxsize=4096)
def _quantile(load: float, servers: int, share: float) -> float:
    """Smallest wait, in service times, that ``share`` of arrivals do not exceed (M/D/c)."""
    queue = _queue_shares(load, servers)
    if wait_share(0.0, load, servers, queue) >= share:
        return 0.0
    high = 1.0
    while wait_share(high, load, servers, queue) < share:
        high *= 2
    low = 0.0
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if wait_share(middle, load, servers, queue) < share else (low, middle)
    return high


def wait_share(wait: float, load: float, servers: int, queue: Floats | None = None) -> float:
    """P(W <= wait) of M/D/c, ``wait`` in service times, ``load`` in Erlang over all servers.

    With k - 1 <= wait < k: sum over j < k c of Poisson(j; load (k - wait)) x P(queue <= k c - j - 1).
    """
    queue = _queue_shares(load, servers) if queue is None else queue
    k = math.floor(wait) + 1
    terms = k * servers
    mean = load * (k - wait)
    poisson = _poisson(mean, terms)
    below = queue[np.minimum(np.arange(terms - 1, -1, -1), queue.size - 1)]
    share: float = np.dot(poisson, below)
    return min(1.0, share)


@lru_cache(maxsize=256)
def _queue_shares(load: float, servers: int) -> Floats:
    """P(at most n wait), n = 0, 1, ...: from the state one service time later (exact embedding of M/D/c).

    p(j) = P(at most c in the system) Poisson(j) + sum over i > c of p(i) Poisson(j - i + c), solved on states beyond
    which less than 1e-12 is left.
    """
    rho = load / servers
    # The tail falls like rho-ish per place; for constant service twice as fast as for exponential.
    states = servers + int(min(4000, max(60, 30 / (1 - rho))))
    arrivals = _poisson(load, states)
    move = np.zeros((states, states))
    move[: servers + 1] = arrivals
    for i in range(servers + 1, states):
        start = i - servers
        move[i, start:] = arrivals[: states - start]
    move[:, -1] += 1 - move.sum(axis=1)
    system = move.T - np.eye(states)
    system[0] = 1.0
    right = np.zeros(states)
    right[0] = 1.0
    shares = np.linalg.solve(system, right)
    return np.asarray(np.cumsum(shares)[servers:])


def _poisson(mean: float, num: int) -> Floats:
    """Probabilities of 0 ... num - 1 events."""
    counts = np.arange(num)
    if mean <= 0:
        return np.asarray((counts == 0).astype(np.float64))
    logs = counts * math.log(mean) - mean - np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    return np.asarray(np.exp(logs))


def erlang_c(load: Number, servers: int) -> Number:
    """Probability that an arrival must wait for one of ``servers``, offered load a = lambda S in Erlang (M/M/c).

    Raises:
        ValueError: load >= servers.
    """
    _check_load(load, servers)
    term = load / load
    below = term
    for k in range(1, servers):
        term = term * load / k
        below = below + term
    waiting = term * load / servers * servers / (servers - load)
    return waiting / (below + waiting)


def wait_mmc_s(req_s: Number, service_s: Number, servers: int) -> Number:
    """Mean wait for one of ``servers`` with exponential service times (M/M/c): ErlangC / (c/S - lambda), s."""
    return erlang_c(req_s * service_s, servers) * service_s / (servers - req_s * service_s)


def wait_mgc_s(req_s: Number, service_s: Number, servers: int, *, cv_service: Number, cv_arrival: Number) -> Number:
    """Allen-Cunneen: M/M/c wait x (cv_a^2 + cv_s^2) / 2, s. An approximation; exact for M/M/c and M/D/1.

    ``cv_service``: standard deviation over mean of the service time (0: constant). ``cv_arrival``: the same of the
    gaps between arrivals (1: Poisson).
    """
    spread = (cv_arrival * cv_arrival + cv_service * cv_service) / 2
    return wait_mmc_s(req_s, service_s, servers) * spread


def _check_load(load: Number, servers: int) -> Number:
    if not 0 < load < servers:
        raise ValueError(f"a load of {float(load):.3g} on {servers} servers has no steady state")
    return load
