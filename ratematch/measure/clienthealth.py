"""How well the client kept up with what it was asked to send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientHealth:
    """Was the client able to do what it was asked?

    ``cpu_share``: CPU seconds of this process per second of load (1 = one core full). ``loop_lag_p99_ms`` and
    ``loop_lag_max_ms``: lateness of a timer every 50 ms; about 1 ms is the timer's own grain. ``late_sends``:
    requests sent more than ``late_ms`` after their intended instant. ``mean_in_flight``: from the socket write to the
    end, over the whole measured part, its tail included. ``at_transport``: were bytes stamped when they arrived
    (else: when the task woke up)? ``processes``: how many sent; shares and counts are sums over them, lags the worst.
    ``decode_cpu_s``: CPU seconds spent on decoding the answers after the load. ``kernel_stamped``: share of the reads
    whose instant is the kernel's, which is right however late the read was.
    """

    cpu_share: float
    loop_lag_p99_ms: float
    loop_lag_max_ms: float
    max_in_flight: int
    mean_in_flight: float
    late_sends: int
    late_ms: float
    send_lag_p99_ms: float | None
    at_transport: bool
    event_loop: str
    processes: int = 1
    decode_cpu_s: float = 0.0
    kernel_stamped: float = 0.0
