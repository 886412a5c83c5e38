"""How hard the servers are pushed: closed loop at a concurrency, or open loop at a rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Concurrency:
    """Closed loop: ``concurrency`` requests in flight, the next is sent when one ends.

    ``warmup`` requests are sent before, at the same concurrency, and kept apart.
    """

    concurrency: int
    num_requests: int
    warmup: int = 0
    repeat: int = 0

    @property
    def label(self) -> str:
        return f"c{self.concurrency}-n{self.num_requests}" + _tail(self.warmup, self.repeat)


@dataclass(frozen=True, order=True)
class Rate:
    """Open loop: requests are due at instants of a process with ``req_s`` requests/s, whatever the servers do.

    Latency counts from the due instant, so a server (or client) that falls behind shows it.
    """

    req_s: float
    num_requests: int
    arrival: Literal["poisson", "constant"] = "poisson"
    warmup: int = 0
    repeat: int = 0

    @property
    def label(self) -> str:
        return f"{self.arrival}{self.req_s:g}-n{self.num_requests}" + _tail(self.warmup, self.repeat)


Load = Concurrency | Rate


def most_in_flight(loads: tuple[Load, ...], instances: int) -> int:
    """Requests that one of ``instances`` servers holds at the largest closed load, at least 1.

    Where every load is open: 256 shared by all.
    """
    closed = [load.concurrency for load in loads if isinstance(load, Concurrency)]
    return max(1, -(-max(closed, default=256) // instances))


def _tail(warmup: int, repeat: int) -> str:
    return (f"-w{warmup}" if warmup else "") + (f"-r{repeat}" if repeat else "")


def due_times_s(load: Rate, seed: int) -> NDArray[np.float64]:
    """When each of the requests is due, in seconds from the start of the load, ascending.

    Poisson: cumulative sum of exponential gaps with mean 1/req_s. Constant: k / req_s.
    """
    match load.arrival:
        case "constant":
            return np.arange(load.num_requests) / load.req_s
        case "poisson":
            gaps = np.random.default_rng(seed).exponential(1.0 / load.req_s, size=load.num_requests)
            times: NDArray[np.float64] = np.cumsum(gaps) - gaps[0]
            return times
