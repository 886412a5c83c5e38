"""TTFT under open-loop arrivals: waiting time in front of the context servers.

Exact in Fractions where the inputs are. A closed-loop benchmark has no such queue: see Little's law in ``matching``.
"""

from __future__ import annotations

from ratematch.match.curves import Number


def wait_md1_s(req_s: Number, service_s: Number) -> Number:
    """Mean wait of Poisson arrivals for one server with constant service time (M/D/1): lambda S^2 / (2 (1 - rho)), s.

    Raises:
        ValueError: rho = lambda S >= 1, the queue grows without bound.
    """
    load = _check_load(req_s * service_s, 1)
    return req_s * service_s * service_s / (2 * (1 - load))


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


def ttft_md1_s(req_s: Number, service_s: Number) -> Number:
    """Mean TTFT of one context server that takes prompts one by one: wait + service, s."""
    return wait_md1_s(req_s, service_s) + service_s


def _check_load(load: Number, servers: int) -> Number:
    if not 0 < load < servers:
        raise ValueError(f"a load of {float(load):.3g} on {servers} servers has no steady state")
    return load
