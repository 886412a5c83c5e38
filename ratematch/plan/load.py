"""How hard the servers are pushed: closed loop at a concurrency, open loop at a rate, or a trace replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrival = Literal["poisson", "constant", "gamma"]


@dataclass(frozen=True, order=True)
class Concurrency:
    """Closed loop: ``concurrency`` requests in flight, the next is sent when one ends.

    ``warmup`` requests are sent before, at the same concurrency, and kept apart. ``seconds``: no request is begun
    later than this after the start (0: ``num_requests`` alone decides). ``stagger_s``: the slots start spread evenly
    over this time, not all at once, so that requests of equal length do not end in step. ``breakdown``: it collects
    where the time of its requests goes, on servers that are slower for it; its figures are on no front and no curve.
    """

    concurrency: int
    num_requests: int
    warmup: int = 0
    repeat: int = 0
    seconds: float = 0.0
    stagger_s: float = 0.0
    target_ci: float = 0.0
    breakdown: bool = False

    @property
    def label(self) -> str:
        spread = f"-stagger{self.stagger_s:g}s" if self.stagger_s else ""
        number = f"-t{self.seconds:g}s" if self.seconds else f"-n{self.num_requests}"
        return f"c{self.concurrency}{number}{spread}" + _tail(self)


@dataclass(frozen=True, order=True)
class Rate:
    """Open loop: requests are due at instants of a process with ``req_s`` requests/s, whatever the servers do.

    Latency counts from the due instant, so a server (or client) that falls behind shows it. ``burstiness``: shape of
    the gamma distribution of gaps, 1 = Poisson, smaller = burstier; only with arrival ``gamma``. ``end_req_s``: the
    rate grows (or falls) linearly to this (0: it does not). ``max_in_flight``: a request that is due while so many
    are in flight waits, and its wait counts (0: no limit). ``breakdown``: as in :class:`Concurrency`.
    """

    req_s: float
    num_requests: int
    arrival: Arrival = "poisson"
    warmup: int = 0
    repeat: int = 0
    burstiness: float = 1.0
    end_req_s: float = 0.0
    max_in_flight: int = 0
    target_ci: float = 0.0
    breakdown: bool = False

    @property
    def label(self) -> str:
        process = f"{self.arrival}{self.req_s:g}"
        if self.arrival == "gamma":
            process = f"gamma{self.burstiness:g}-{self.req_s:g}"
        ramp = f"to{self.end_req_s:g}" if self.end_req_s else ""
        most = f"-m{self.max_in_flight}" if self.max_in_flight else ""
        return f"{process}{ramp}-n{self.num_requests}{most}" + _tail(self)


@dataclass(frozen=True, order=True)
class Trace:
    """Open loop: requests are due when the workload's file says, ``speed`` times as fast."""

    num_requests: int
    speed: float = 1.0
    warmup: int = 0
    repeat: int = 0
    max_in_flight: int = 0
    breakdown: bool = False

    @property
    def label(self) -> str:
        most = f"-m{self.max_in_flight}" if self.max_in_flight else ""
        return f"trace{self.speed:g}x-n{self.num_requests}{most}" + _tail(self)


Load = Concurrency | Rate | Trace


Percentile = Literal["mean", 50, 90, 95, 99]


TtftOf = Literal["ctx", "deployment"]


@dataclass(frozen=True)
class Constraints:
    """Limits in ms at ``percentile`` of the requests; ``None`` = no limit.

    ``ttft_of``: what the TTFT limit of a plan is held against: ``ctx``, the TTFT of its ctx server measured alone;
    ``deployment``, that of its requests in service, with the queue in front of ctx and what gen adds.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    percentile: Percentile = "mean"
    ttft_of: TtftOf = "ctx"

    @property
    def in_service(self) -> bool:
        """Whether plans are held to a TTFT limit in service."""
        return self.ttft_ms is not None and self.ttft_of == "deployment"


def most_in_flight(loads: tuple[Load, ...], instances: int) -> int:
    """Requests that one of ``instances`` servers holds at the largest closed load, at least 1.

    Where every load is open: 256 shared by all.
    """
    closed = [load.concurrency for load in loads if isinstance(load, Concurrency)]
    return max(1, -(-max(closed, default=256) // instances))


def _tail(load: Load) -> str:
    warmup, repeat = f"-w{load.warmup}" if load.warmup else "", f"-r{load.repeat}" if load.repeat else ""
    return warmup + repeat + ("-breakdown" if load.breakdown else "")


BREAKDOWN_WAVES = 8
"""Waves of a closed breakdown load at most, as many as measured loads have unless set. The first and the last are
left out of its means; with few others, slots that began in step would still queue in step."""

BREAKDOWN_FEWEST = 16


def breakdown_loads(loads: Sequence[Load]) -> tuple[Load, ...]:
    """For each pressure in ``loads`` a short load, which only collects where the time of its requests goes."""
    short: dict[Load, None] = {}
    for load in loads:
        if isinstance(load, Concurrency):
            number = max(BREAKDOWN_FEWEST, BREAKDOWN_WAVES * load.concurrency)
            if not load.seconds:
                number = min(number, load.num_requests)
            load = replace(load, seconds=0.0, num_requests=number)
        elif not (isinstance(load, Rate) and load.end_req_s):
            load = replace(load, num_requests=min(load.num_requests, max(BREAKDOWN_FEWEST, load.num_requests // 4)))
        load = replace(load, repeat=0, breakdown=True)
        short[load if isinstance(load, Trace) else replace(load, target_ci=0.0)] = None
    return tuple(short)


def pressure_of(load: Load) -> Load:
    """What a load and its breakdown load have in common: the pressure, not how long it was kept up."""
    if isinstance(load, Concurrency):
        load = replace(load, seconds=0.0)
    if not isinstance(load, Trace):
        load = replace(load, target_ci=0.0)
    return replace(load, num_requests=0, warmup=0, repeat=0, breakdown=False)


def only_breakdown(loads: Sequence[Load]) -> bool:
    """Are there loads, and all of them such that only collect where time goes?"""
    return bool(loads) and all(load.breakdown for load in loads)


def due_times_s(load: Rate, seed: int) -> NDArray[np.float64]:
    """When each of the requests is due, in seconds from the start of the load, ascending; the first at 0.

    Poisson: cumulative sum of exponential gaps with mean 1/req_s. Gamma: the same with gaps of shape ``burstiness``.
    Constant: k / req_s. On a ramp the same process runs on a clock that goes with the rate: request k is due when the
    integral of the rate, r0 t + (r1 - r0) t^2 / 2T, reaches the k-th arrival of the process at rate 1, with
    T = 2 n / (r0 + r1). The same seed gives the same instants, bit for bit.
    """
    if load.end_req_s:
        return _ramp(_arrivals(load, seed, 1.0), load.req_s, load.end_req_s)
    return _arrivals(load, seed, load.req_s)


def _arrivals(load: Rate, seed: int, req_s: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    match load.arrival:
        case "constant":
            return np.arange(load.num_requests) / req_s
        case "poisson":
            gaps = rng.exponential(1.0 / req_s, size=load.num_requests)
        case "gamma":
            gaps = rng.gamma(load.burstiness, 1.0 / (load.burstiness * req_s), size=load.num_requests)
    times: NDArray[np.float64] = np.cumsum(gaps) - gaps[0]
    return times


def _ramp(unit: NDArray[np.float64], first: float, last: float) -> NDArray[np.float64]:
    """Instants at which the integral of a rate from ``first`` to ``last`` passes the values of ``unit``.

    A process at random may need longer than T: the rate stays at ``last`` then.
    """
    seconds = 2 * unit.size / (first + last)
    slope = (last - first) / seconds
    inside = np.minimum(unit, float(unit.size))
    root = np.sqrt(np.maximum(first**2 + 2 * slope * inside, 0.0))
    times = 2 * inside / (first + root)  # the root of the quadratic, in the form that is exact at slope 0
    # Arrivals next to one another may change places in the last bit of the root.
    return np.asarray(np.maximum.accumulate(times + (unit - inside) / last))
