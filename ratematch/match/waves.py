"""Requests of one length in a closed loop stay the wave that they began as: whom posting a KV transfer holds up.

``n`` requests of a gen instance begin together. Ctx hands them over one after another, ``spacing_s`` apart, and gen
posts each between two decode steps, ``posting_s``, while those before it wait. So the first of a wave is held up by
all that come after it, the last by none of them: they end closer together than they began. Of the next wave a request
is held up by those that are posted before it ends, ``return_s`` after the first of its own wave has ended. With E the
time between the first and the last end of a wave

    E = n spacing - (n - 1) posting + posting max(0, E - return) / spacing

each is held up by (n - 1) / 2 of its own wave and, as ends are spread evenly over E, by (E - return)^2 / (2 E
spacing) of the next; and as they come back in less time than ctx needs for them, they wait there, (n spacing - E) / 2
each.
Nothing in it is fitted. On two H200s (Qwen3-8B, blocks of 16, 16 in flight) the ends of a wave lie 570 to 670 ms
apart, and its time a token falls from 7.9 ms of the first request to 6.7 ms of the last.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wave:
    """``postings``: of other requests during the decoding of one, mean. ``wait_s``: mean, in front of ctx."""

    postings: float
    wait_s: float


def find_wave(n: float, spacing_s: float, posting_s: float, return_s: float) -> Wave | None:
    """What a wave of ``n`` requests of one gen instance does to itself; ``None`` where there is none: of one request
    alone, or where posting takes as long as ctx, so that gen sets the pace.

    Times in s. ``return_s``: from the end of a request to the posting of the one that takes its place.
    """
    if n <= 1 or not 0 < posting_s < spacing_s:
        return None
    apart = n * spacing_s - (n - 1) * posting_s
    later = 0.0
    if apart > return_s:
        apart = (apart - posting_s * return_s / spacing_s) / (1 - posting_s / spacing_s)
        later = (apart - return_s) ** 2 / (2 * apart * spacing_s)
    return Wave(min(n - 1, (n - 1) / 2 + later), max(0.0, (n * spacing_s - apart) / 2))
