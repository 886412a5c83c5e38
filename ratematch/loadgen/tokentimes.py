"""When the tokens of a streamed answer came, from its chunks and what usage says of them. Pure.

A chunk bears one instant and, of its tokens, only what it says itself: text or none, and in some streams a running
count (``continuous_usage_stats``: usage in every chunk; or ``token_ids``). The total is in the last usage. From
these:

* **With a running count** the first token came with the first chunk whose count is 1 or more, the last with the last
  chunk whose count grew, and :attr:`TokenTimes.later` tokens came after everything that arrived together with the
  first. A count that contradicts itself or the text is not used, and :attr:`TokenTimes.contradiction` says so.
* **Without one**, every chunk with text carries a token or more. Where there are as many of them as tokens, each
  carries one, and chunks without text (an empty text at the beginning, a finish chunk at the end) carry none. Where
  chunks with and without text are together as many as tokens, each of them carries one. Otherwise it is not known
  which chunks without text carry tokens; :attr:`TokenTimes.other_first_ns` and ``other_last_ns`` are the instants by
  the other reading.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

FINISH, EMPTY, TEXT = 1, 2, 3
"""What a chunk holds: an end without text, an empty text, text (or reasoning, tool calls, token ids)."""

_AT_ONCE, _LATE = 0.1, 3
"""Gaps, of the usual ones between chunks, within which a finish chunk without text comes with what was before it, and
after which it is late."""


@dataclass
class Chunks:
    """Chunks of one answer that may carry tokens, in the order in which they came.

    ``stamps``: their instants, ns. ``kinds``: see :data:`TEXT`. ``counts``: running counts, each with the number of
    chunks up to it. ``ids``: numbers of ``token_ids``, 0 where a chunk has none. ``unknown``: names of fields that
    are not known, in chunks that hold nothing else; ``unknown_ns``: when the first and the last of these came;
    ``begun``: a chunk with the role alone has come. ``hidden``: tokens of reasoning by usage, of which ``reasoned``
    says whether any was shown.
    """

    stamps: list[int] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    counts: list[tuple[int, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    unknown_ns: tuple[int, int] | None = None
    begun: bool = False
    hidden: int = 0
    reasoned: bool = False


@dataclass(frozen=True)
class TokenTimes:
    """``stamps``: of the chunks that carry tokens. ``later``: tokens that came after what arrived together with the
    first one, ``None`` = all but the first, or not known. ``other_first_ns``, ``other_last_ns``: first and last token
    if chunks that may carry tokens are read the other way; ``None`` = the same. ``contradiction``: in words."""

    stamps: list[int]
    later: int | None = None
    other_first_ns: int | None = None
    other_last_ns: int | None = None
    contradiction: str | None = None


def time_tokens(chunks: Chunks, total: int | None) -> TokenTimes:
    """``total``: output tokens by the last usage; ``None``: without it nothing can be said beyond the instants."""
    if total is None or not chunks.stamps:
        return TokenTimes(chunks.stamps)
    if total == 0:
        return TokenTimes([])
    if len(chunks.counts) > 1:
        problem = _contradiction(chunks, total)
        if problem is None:
            return _by_count(chunks.stamps, chunks.counts)
        if problem:
            return replace(_by_kind(chunks, total), contradiction=problem)
    if any(chunks.ids) and sum(chunks.ids) == total:
        return _by_count(chunks.stamps, _running(chunks.ids))
    return _by_kind(chunks, total)


def _running(ids: Sequence[int]) -> list[tuple[int, int]]:
    counts, count = [], 0
    for position, number in enumerate(ids, 1):
        count += number
        counts.append((position, count))
    return counts


def _contradiction(chunks: Chunks, total: int) -> str | None:
    """What is wrong with the running count; ``None``: nothing; empty: there is none to speak of."""
    numbers = [count for _, count in chunks.counts]
    if any(after < before for before, after in pairwise(numbers)):
        return "it goes down"
    if numbers[-1] > total:
        return "it goes beyond the total"
    texts = [position for position, kind in enumerate(chunks.kinds, 1) if kind == TEXT]
    if not numbers[-1] or (texts and chunks.counts[-1][0] < texts[-1]):
        return ""  # zeros as a place holder, or only some chunks have it
    if numbers[-1] < total - 1:
        return "it ends below the total"
    if not _known_at(chunks, _arrived_together(chunks.stamps, _first_counted(chunks.counts))):
        return ""
    grown = _grown(chunks.counts)
    if texts and texts[0] < min(grown):
        # Behind by one, or a place holder until the end: with a token a chunk there is no need of it.
        return "" if len(texts) == total or len(grown) == 1 else "it is 0 while text comes"
    if sum(position not in grown for position in texts) > len(texts) // 2:
        return "it does not grow while text comes"
    return None


def _known_at(chunks: Chunks, position: int) -> bool:
    return any(where == position for where, _ in chunks.counts)


def _first_counted(counts: Sequence[tuple[int, int]]) -> int:
    return max(1, next(position for position, count in counts if count))


def _arrived_together(stamps: Sequence[int], position: int) -> int:
    """The last position (from 1) with the instant of ``position``."""
    return bisect_right(stamps, stamps[position - 1])


def _grown(counts: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Positions at which the count grew, with the count there."""
    grown, before = {}, 0
    for position, count in counts:
        if count > before:
            grown[max(1, position)] = count
        before = count
    return grown


def _by_count(stamps: Sequence[int], counts: Sequence[tuple[int, int]]) -> TokenTimes:
    grown = _grown(counts)
    first, last = min(grown), max(grown)
    together = _arrived_together(stamps, first)
    begun = max(count for position, count in counts if position <= together)
    return TokenTimes([stamps[position - 1] for position in grown], later=grown[last] - begun)


def _by_kind(chunks: Chunks, total: int) -> TokenTimes:
    """The reading without a running count."""
    texts = chunks.kinds.count(TEXT)
    if 0 < texts < len(chunks.kinds):
        times = _choose_textless(chunks.stamps, chunks.kinds, texts, total)
    else:
        times = TokenTimes(chunks.stamps)
    together = _arrived_together(times.stamps, 1)
    shown = total - chunks.hidden if not chunks.reasoned else total
    if together == len(times.stamps):
        return replace(times, later=0)  # everything came at once
    if shown < total and shown >= len(times.stamps):
        return replace(times, later=shown - together)  # the others were not shown, and came before
    if len(times.stamps) == total and together > 1:
        return replace(times, later=total - together)  # one token a chunk
    return times


def _choose_textless(stamps: list[int], kinds: bytearray, texts: int, total: int) -> TokenTimes:
    """Which chunks without text carry tokens, at either end: those in the middle change no latency."""
    with_text = [stamp for stamp, kind in zip(stamps, kinds, strict=True) if kind == TEXT]
    if texts >= total:
        return TokenTimes(with_text)
    before, behind = kinds.index(TEXT), len(kinds) - 1 - kinds.rindex(TEXT)
    late = behind > 0 and _is_late(with_text, stamps[-1])
    # A finish chunk that comes with the last text may be the end of it alone.
    alone = texts == 1 or stamps[-1] - with_text[-1] < _AT_ONCE * _usual_gap(with_text)
    doubtful = late or (behind > 0 and alone)
    surplus = len(kinds) - total
    if surplus < 0:  # several tokens a chunk: the instants at which text came are sure
        first, last = before, behind if late else 0
    else:
        last = min(surplus, behind)
        first = min(surplus - last, before)
    return TokenTimes(
        stamps[first : len(stamps) - last],
        other_first_ns=(stamps[0] if first else with_text[0]) if before else None,
        other_last_ns=with_text[-1] if doubtful and not last else stamps[-1] if late else None,
    )


def _is_late(with_text: Sequence[int], stamp: int) -> bool:
    """Does a chunk at ``stamp`` come much later after the last text than texts came after one another?"""
    return stamp - with_text[-1] > max(_LATE * _usual_gap(with_text), 1_000_000)


def _usual_gap(stamps: Sequence[int]) -> float:
    gaps = [after - before for before, after in pairwise(stamps)]
    return median(gaps) if gaps else 0.0
