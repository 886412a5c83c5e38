"""What happened inside the window of a load: the rates, latencies and requests in flight that its figures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ratematch.measure import metrics
from ratematch.measure.columns import columns_of
from ratematch.measure.goodput import Goodput, good
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats, describe
from ratematch.measure.window import Window


@dataclass(frozen=True)
class InWindow:
    """``answers``: full ones that ended inside; ``ttft_ms``, ``tpot_ms`` and ``osl``: theirs.

    ``in_flight``: mean requests in flight. ``req_s`` and ``tok_s``: served, ``arrived_req_s``: arrived.
    ``goodput_req_s``: requests/s that kept every limit of the goodput, ``good_share``: their share of ``answers``.
    Everything is ``None`` where there is no window, or nothing in it to take it from.
    """

    answers: Sequence[RequestRecord] = field(default=())
    ttft_ms: Stats | None = None
    tpot_ms: Stats | None = None
    osl: Stats | None = None
    in_flight: float | None = None
    req_s: float | None = None
    tok_s: float | None = None
    arrived_req_s: float | None = None
    goodput_req_s: float | None = None
    good_share: float | None = None

    @property
    def little(self) -> float | None:
        """See :func:`ratematch.measure.metrics.littles_ratio`."""
        ttft, tpot, osl = (stats.mean if stats else None for stats in (self.ttft_ms, self.tpot_ms, self.osl))
        if columns_of(self.answers).known("later_tokens").any():
            osl = 1 + float(np.mean(metrics.later_tokens(self.answers)))
        return metrics.littles_ratio(self.in_flight, self.req_s, ttft, tpot, osl)


def measure_inside(
    records: Sequence[RequestRecord], window: Window | None, since: metrics.Since, goodput: Goodput | None = None
) -> InWindow:
    """What ``records`` did inside ``window``; without one, or in one without length, nothing.

    ``since``: what a request's start is (closed loop: ``sent``, open loop: ``intended``).
    """
    if window is None or window.seconds <= 0:
        return InWindow()
    records = columns_of(records)
    starts, ends = metrics.start_ns(records, since), metrics.end_ns(records)
    complete = metrics.are_complete(records)
    answers = records.take(complete)
    ended = (ends[complete] > window.start_ns) & (ends[complete] <= window.end_ns)
    inside = answers.take(ended)
    ttft, tpot = describe(metrics.ttft_ms(inside, since)), describe(metrics.tpot_ms(inside))
    lives = ends[complete] - starts[complete]
    if window.steady and since == "sent":
        means = (ttft.mean if ttft else None), (tpot.mean if tpot else None)
        lives = metrics.lives_under_load_ns(answers, window.end_ns, *means)
    shares = metrics.shares_inside(starts[complete], ends[complete], lives, window.start_ns, window.end_ns)
    arrived = (starts >= window.start_ns) & (starts < window.end_ns)
    goodput_req_s, good_share = _measure_goodput(answers, shares, ended, window, since, goodput)
    return InWindow(
        answers=inside,
        ttft_ms=ttft,
        tpot_ms=tpot,
        osl=describe(metrics.output_tokens(inside)),
        in_flight=metrics.mean_in_flight(starts, ends, window.start_ns, window.end_ns),
        req_s=float(shares.sum()) / window.seconds or None,
        tok_s=float((shares * metrics.output_tokens(answers)).sum()) / window.seconds or None,
        arrived_req_s=float(arrived.sum()) / window.seconds,
        goodput_req_s=goodput_req_s,
        good_share=good_share,
    )


def _measure_goodput(
    answers: Sequence[RequestRecord],
    shares: NDArray[np.float64],
    ended: NDArray[np.bool_],
    window: Window,
    since: metrics.Since,
    goodput: Goodput | None,
) -> tuple[float | None, float | None]:
    """Requests/s that kept every limit, by ``shares`` inside the window, and their share of what ``ended`` in it."""
    if goodput is None or not answers:
        return None, None
    kept = good(answers, goodput, since)
    req_s = float(shares[kept].sum()) / window.seconds
    return req_s, float(kept[ended].mean()) if ended.any() else None
