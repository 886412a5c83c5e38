"""What a server's own log says of the time of one load, in words that every engine can fill in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LogSpan:
    """One generating worker during one load.

    ``step_ms``: median time of a generation step at the largest batch, over ``iterations`` steps. ``in_flight``:
    requests in that batch: under attention DP the log shows one rank, and the others are taken to be as full.
    """

    step_ms: float
    iterations: int
    in_flight: int
