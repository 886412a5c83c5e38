"""How far the arrivals of a stream may lie from the instants at which its tokens were generated. Pure.

A token has no instant of its own: it came with a chunk, and chunks came together where something held them back, or
carry more tokens than one. What is sure all the same, of an answer with OSL tokens that was sent at s:

* The first token was generated when the first chunk was there: **TTFT is at most** what that gives. By the other
  reading of chunks without text, where it is later, it is at most that.
* The last token was not there when the arrival before the last one left, and the first was when the first came:
  **TPOT is at least** (last - first) / (OSL - 1), with the arrival before the last one in place of the last where
  chunks arrive together.

How far off they may be is estimated with the answer's own pace (time between first and last arrival over the tokens
after the first), which is enough to decide whether a bound has to be given with a figure.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.metrics import Floats, Since
from ratematch.measure.records import RequestRecord

SAME_NS = 50_000
"""Chunks less apart than this arrived together: what is written at once comes in packets some microseconds apart."""

_HELD = 0.25
"""Share of chunks that arrived together with the one before, of one answer, from which on its others may have been
held back too."""

_INSTANT = 0.05
"""An answer whose tokens all came within this share of its TTFT, most of them together, came at once."""

_FASTEST_NS = 100_000
"""A pace below this (10,000 tok/s for a user) is that of a wire, not of a model."""

_FEW = 4
"""Arrivals below which they say nothing of a pace."""

_UNEVEN = 2
"""Single tokens may take so many times as long as the mean one."""

_DRAFTS = 2
"""The first chunk of a server that sends a chunk an iteration holds at most so many times the mean tokens of one."""


class Arrivals(NamedTuple):
    """Of one answer. ``chunks`` of which ``together`` came with the one before; ``first``: tokens that came with the
    first arrival, ``None`` = not known.

    ns: ``ttft_off``, by how much TTFT may be too high; ``ttft_other``, by how much it may be too low; ``span_off``,
    by how much the time from first to last token may be too long or too short; ``ttft_most`` and ``span_least`` are
    sure. ``tokens_off``: share by which the tokens after the first may be too many or too few. ``held_*``: the parts
    of ``ttft_off`` and ``span_off`` that come from chunks that arrived together. ``at_once``: all of several tokens
    did.
    """

    chunks: int
    together: int
    first: int | None
    ttft_ns: float
    span_ns: float
    ttft_off: float
    ttft_other: float
    span_off: float
    ttft_most: float
    span_least: float
    tokens_off: float
    held_ttft: float
    held_span: float
    at_once: bool


def look_at(record: RequestRecord, since: Since = "sent") -> Arrivals | None:
    """What is known of a full answer's arrivals; ``None`` where its chunks are not known."""
    start_ns = record.sent_ns if since == "sent" else record.intended_ns
    if not record.chunk_ns or start_ns is None or not record.osl:
        return None
    assert record.first_token_ns is not None and record.last_token_ns is not None
    first_ns, last_ns, total = record.first_token_ns, record.last_token_ns, record.osl
    stamps = np.asarray(record.chunk_ns, dtype=np.int64)
    # Where each arrival begins.
    begins = np.concatenate([[0], np.flatnonzero(np.diff(stamps) >= SAME_NS) + 1])
    chunks, arrivals = len(stamps), len(begins)
    chunks_first = int(begins[1]) if arrivals > 1 else chunks
    ttft, span = float(first_ns - start_ns), float(last_ns - first_ns)
    least, most = _first_tokens(record, chunks, chunks_first)
    pace = span / max(1, total - least)
    slowest = span / max(1, total - most) if most < total else ttft
    at_once = total > 1 and _came_at_once(chunks, arrivals, ttft, span, pace)
    held_ttft, held_span = (ttft, ttft) if at_once else _held(stamps, begins, chunks_first, ttft, pace)
    # Tokens of one iteration do not wait for one another.
    hidden = 0.0 if most == 1 or _is_chunk_an_iteration(record, chunks) else min(ttft, _UNEVEN * (most - 1) * slowest)
    other_first = record.other_first_ns if record.other_first_ns is not None else first_ns
    other_last = record.other_last_ns if record.other_last_ns is not None else last_ns
    before_last = float(stamps[begins[-1] - 1]) if held_span and arrivals > 1 else float(last_ns)
    return Arrivals(
        chunks=chunks,
        together=chunks - arrivals,
        first=least if least == most else None,
        ttft_ns=ttft,
        span_ns=span,
        ttft_off=max(held_ttft, hidden, float(first_ns - other_first)),
        ttft_other=max(0.0, float(other_first - first_ns)),
        span_off=max(held_span, float(abs(other_last - last_ns)), float(max(0, other_first - first_ns))),
        ttft_most=float(max(first_ns, other_first) - start_ns),
        span_least=max(0.0, min(before_last, float(other_last)) - max(first_ns, other_first)),
        tokens_off=_tokens_off(total, least, most),
        held_ttft=held_ttft,
        held_span=held_span,
        at_once=at_once,
    )


def _tokens_off(total: int, least: int, most: int) -> float:
    """Where the number is known, it is the pace of the tokens in the first arrival that is not."""
    if total < 2:
        return 0.0
    return (total - least) / max(1, total - most) - 1 if most > least else (least - 1) / (total - 1)


def _first_tokens(record: RequestRecord, chunks: int, chunks_first: int) -> tuple[int, int]:
    """Fewest and most tokens that may have come with the first arrival."""
    total = record.osl or 1
    if record.later_tokens is not None:
        known = max(1, total - record.later_tokens)
        return known, known
    # A last chunk that may carry no token leaves one more to the others.
    sure = chunks if record.other_last_ns is None else chunks - 1
    if sure >= total:  # a token a chunk, or less
        return 1, 1
    most = total - (sure - chunks_first)
    if record.decoded_per_iter and _is_chunk_an_iteration(record, chunks):
        most = min(most, max(chunks_first, round(_DRAFTS * record.decoded_per_iter)))
    return 1, max(1, most)


def _is_chunk_an_iteration(record: RequestRecord, chunks: int) -> bool:
    """Are there as many chunks as the server counts iterations of this request?"""
    if not record.decoded_per_iter or not record.osl:
        return False
    iterations = record.osl / record.decoded_per_iter
    return abs(chunks - iterations) <= 1 + 0.03 * iterations


def _came_at_once(chunks: int, arrivals: int, ttft: float, span: float, pace: float) -> bool:
    if arrivals == 1:
        return True
    most_together = chunks - arrivals > chunks / 2
    return most_together and span < _INSTANT * ttft and (arrivals < _FEW or pace < _FASTEST_NS)


def _held(
    stamps: NDArray[np.int64], begins: NDArray[np.intp], chunks_first: int, ttft: float, pace: float
) -> tuple[float, float]:
    """How much too late the first, and the first or the last, token may have come (ns), by what came together."""
    share = 1 - len(begins) / len(stamps)
    many = share > _HELD
    first = chunks_first * pace if chunks_first > 1 else pace if many else 0.0
    between = float(np.median(np.diff(stamps[begins]))) if many and len(begins) > 1 else 0.0
    return min(ttft, first), max(min(ttft, first), between)


class Bounds(NamedTuple):
    """Over all answers, means in ms: ``ttft`` and ``tpot`` as they stand, ``ttft_most`` and ``tpot_least`` that are
    sure, ``ttft_off`` and ``tpot_off`` by how much they may be off; of these ``held_ttft`` and ``held_tpot`` by
    chunks that arrived together, whose share is ``together``; ``at_once``: share of answers that came at once.
    ``first``: mean tokens of the first arrival, where known of all. ``tpot_*`` are ``None`` without an answer of two
    tokens or more."""

    ttft: float
    ttft_most: float
    ttft_off: float
    held_ttft: float
    tpot: float | None
    tpot_least: float | None
    tpot_off: float | None
    held_tpot: float | None
    together: float
    at_once: float
    first: float | None


def bound(records: Sequence[RequestRecord], since: Since = "sent") -> Bounds | None:
    """The bounds of the answers among ``records`` whose chunks are known; ``None`` without one."""
    seen = array("d")  # not one object an answer: there may be millions
    for record in records:
        if (look := look_at(record, since)) is not None:
            seen.extend((record.osl or 1, *(np.nan if value is None else value for value in look)))
    if not seen:
        return None
    table = np.frombuffer(seen).reshape(-1, 1 + len(Arrivals._fields)).T
    osl, looks = table[0], _Looks(*table[1:])
    tpot = tpot_least = tpot_off = held_tpot = None
    if (several := osl > 1).any():
        steps, spans = osl[several] - 1, looks.span_ns[several]
        later = np.maximum(1, osl[several] - np.nan_to_num(looks.first[several], nan=1.0))
        tpot = _ms(spans / later)
        tpot_least = _ms(looks.span_least[several] / steps)
        tpot_off = _ms(looks.span_off[several] / steps + spans / later * looks.tokens_off[several])
        held_tpot = _ms(looks.held_span[several] / steps)
    return Bounds(
        ttft=_ms(looks.ttft_ns),
        ttft_most=_ms(looks.ttft_most),
        ttft_off=_ms(looks.ttft_off + looks.ttft_other),
        held_ttft=_ms(looks.held_ttft),
        tpot=tpot,
        tpot_least=tpot_least,
        tpot_off=tpot_off,
        held_tpot=held_tpot,
        together=float(looks.together.sum() / looks.chunks.sum()),
        at_once=float(looks.at_once.sum() / len(osl)),
        first=None if np.isnan(looks.first).any() else float(looks.first.mean()),
    )


class _Looks(NamedTuple):
    """:class:`Arrivals` of many answers; NaN = ``None``."""

    chunks: Floats
    together: Floats
    first: Floats
    ttft_ns: Floats
    span_ns: Floats
    ttft_off: Floats
    ttft_other: Floats
    span_off: Floats
    ttft_most: Floats
    span_least: Floats
    tokens_off: Floats
    held_ttft: Floats
    held_span: Floats
    at_once: Floats


def _ms(values: NDArray[np.float64]) -> float:
    return float(np.mean(np.ascontiguousarray(values))) / 1e6
