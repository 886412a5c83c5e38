"""The verdict on how a load's answers were streamed: do their arrivals give TTFT and TPOT, or only bounds of them?

Findings are (severe, text): a severe one forbids the load on a front. Each text says what was seen, what it may be
due to, and where figures are only bounds, the bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.arrivals import Bounds, bound
from ratematch.measure.columns import Columns, columns_of
from ratematch.measure.metrics import Since, tokens_per_chunk
from ratematch.measure.records import UNKNOWN_FIELDS, RequestRecord

SEVERAL_PER_CHUNK = 1.05
"""Tokens a chunk from which on there is a warning: a last chunk without a token makes a few per cent at short OSL."""

EXACT = 0.01
"""Share by which a figure may be off without a bound beside it."""

EXACT_MS, EXACT_TPOT_MS = 1.0, 0.05
"""By how much TTFT and TPOT may be off all the same."""

HELD_BACK = 0.05
"""Share by which a figure may be off where most chunks arrived together, before the load is not valid."""

TOGETHER = 0.7
"""Share of chunks that arrived together with the one before from which on a stream was held back."""

AT_ONCE = 0.05
"""Share of answers that came at once, likewise."""

STRANGE = 0.01
"""Share of answers whose streams contradict themselves, or hold what is not known, before the load is not valid."""

LINGERS, LINGERS_MS = 0.05, 1.0
"""Time from the last token to the end of an answer, as a share of its latency and in ms, up to which it is no matter:
that far Little's law may be off too."""

_MOST_NOTES = 3

_MANY = 1.5
"""Tokens in the first arrival, on average, from which on it is they that make figures unsure."""


def judge_streams(
    answers: Sequence[RequestRecord], counted: Sequence[RequestRecord], *, closed: bool, ttft: bool = True
) -> Iterator[tuple[bool, str]]:
    """(severe, text) of everything that makes TTFT and TPOT of full answers other than they look.

    ``counted``: those of ``answers`` that latencies are taken from. ``closed``: by a closed loop.
    ``ttft``: is TTFT one of the figures; no bound of it is given, nor asked for, where it is none.
    """
    answers, chosen = columns_of(answers), columns_of(counted or answers)
    yield from _judge_notes(answers)
    yield from _judge_ends(chosen, closed)
    clear = np.ones(len(chosen), dtype=bool)
    noted = _noted(chosen)
    clear[noted] = [not _misleads(record) for record in chosen.take(noted)]
    yield from _judge_arrivals(chosen.take(clear), "sent" if closed else "intended", ttft)


def _noted(answers: Columns) -> NDArray[np.intp]:
    """Where those with a note stand; there are few."""
    return np.flatnonzero(~answers.text("stream_note").equal(None))


def _judge_arrivals(answers: Columns, since: Since, ttft: bool) -> Iterator[tuple[bool, str]]:
    bounds = bound(answers, since)
    per_chunk = tokens_per_chunk(answers)
    if bounds is None:
        if per_chunk is not None and per_chunk > SEVERAL_PER_CHUNK:
            yield False, _several(per_chunk)
        return
    unsure = _unsure(bounds, ttft)
    if _is_held_back(bounds):
        why = "a proxy holds the stream back, or the client reads too late"
        yield True, f"{_together(bounds)}: {why}; {_most(bounds, ttft)}"
        return
    if per_chunk is not None and per_chunk > SEVERAL_PER_CHUNK:
        unknown = bounds.first is None and unsure
        yield False, f"{_several(per_chunk)}; {_most(bounds, ttft)}" if unknown else _several(per_chunk)
        unsure = unsure and not unknown
    if unsure:
        yield False, f"{_why_unsure(bounds, answers)}: {_most(bounds, ttft)}"


def _several(per_chunk: float) -> str:
    return f"{per_chunk:.1f} tokens a chunk (stream_interval or drafts): ITL is the chunk gap shared out evenly"


def _unsure(bounds: Bounds, ttft: bool) -> bool:
    """Is a bound needed beside one of the figures?"""
    late = ttft and bounds.ttft_off > max(EXACT_MS, EXACT * bounds.ttft)
    tpot = bounds.tpot is not None and bounds.tpot_off is not None
    return late or (tpot and _off(bounds.tpot_off, bounds.tpot, EXACT))


def _off(off: float | None, figure: float | None, share: float) -> bool:
    return off is not None and figure is not None and off > max(EXACT_TPOT_MS, share * figure)


def _is_held_back(bounds: Bounds) -> bool:
    if bounds.together <= TOGETHER and bounds.at_once <= AT_ONCE:
        return False
    if bounds.held_ttft <= EXACT_MS:  # so fast that it makes no difference
        return False
    return bounds.held_ttft > HELD_BACK * bounds.ttft or _off(bounds.held_tpot, bounds.tpot, HELD_BACK)


def _together(bounds: Bounds) -> str:
    if bounds.at_once > AT_ONCE:
        return f"{bounds.at_once:.0%} of the answers came at once, all tokens together"
    return f"{bounds.together:.1%} of the token chunks arrived together with the one before"


def _most(bounds: Bounds, ttft: bool) -> str:
    text = f"TTFT is at most {bounds.ttft_most:.1f} ms"
    if bounds.tpot_least is None:
        return text
    least = f"at least {bounds.tpot_least:.2f} ms"
    return f"{text}, TPOT {least}" if ttft else f"TPOT is {least}"


def _why_unsure(bounds: Bounds, answers: Columns) -> str:
    if answers.known("other_first_ns").any() or answers.known("other_last_ns").any():
        return "whether the first or last chunks, which have no text, carry tokens is not known"
    first = bounds.first
    if first is not None and first > 1 and (first >= _MANY or not bounds.together):
        return f"the first chunk holds {first:.1f} tokens, which may have waited for one another"
    held = bounds.held_ttft > max(EXACT_MS, EXACT * bounds.ttft) or _off(bounds.held_tpot, bounds.tpot, EXACT)
    if bounds.together > 0 and (held or (tokens_per_chunk(answers) or 1) <= 1):
        return f"{bounds.together:.1%} of the token chunks arrived together with the one before"
    return "chunks are fewer than tokens, and which of them hold several is not known"


def _judge_notes(answers: Columns) -> Iterator[tuple[bool, str]]:
    noted = answers.take(_noted(answers))
    notes = Counter(record.stream_note for record in noted if record.stream_note is not None)
    for note, count in notes.most_common(_MOST_NOTES):
        misleading = sum(record.stream_note == note and _misleads(record) for record in noted)
        text = f"{count} of {len(answers)} answers: {note}"
        if note.startswith(UNKNOWN_FIELDS):
            text += "; whether they carry tokens is not known"
        yield misleading > STRANGE * len(answers), text


def _misleads(record: RequestRecord) -> bool:
    """Do figures hang on what is strange in the stream?"""
    if record.stream_note is None:
        return False
    if not record.stream_note.startswith(UNKNOWN_FIELDS) or record.later_tokens == 0:
        return True
    first_ns, last_ns, sent_ns = record.first_token_ns, record.last_token_ns, record.sent_ns
    assert first_ns is not None and last_ns is not None and sent_ns is not None
    other_first, other_last = record.other_first_ns or first_ns, record.other_last_ns or last_ns
    earlier, longer = first_ns - other_first, max(0, other_last - last_ns) + max(0, first_ns - other_first)
    return _is_more(earlier, first_ns - sent_ns) or _is_more(longer, last_ns - first_ns)


def _is_more(off_ns: float, of_ns: float) -> bool:
    return off_ns > max(EXACT_MS * 1e6, EXACT * of_ns)


def _judge_ends(answers: Columns, closed: bool) -> Iterator[tuple[bool, str]]:
    known = answers.known("end_ns") & answers.known("last_token_ns") & answers.known("sent_ns")
    ends, number = answers.ints("end_ns")[known], int(known.sum())
    behind = int((ends - answers.ints("last_token_ns")[known]).sum())
    whole = int((ends - answers.ints("sent_ns")[known]).sum())
    if behind > max(LINGERS * whole, LINGERS_MS * 1e6 * number):
        text = f"answers ended {behind / number / 1e6:.1f} ms after their last token, on average"
        # Throughput of a closed loop then holds time in which nothing is generated for its requests.
        yield closed, f"{text}: the finish chunk, the usage or the end of the stream comes late"
