"""The lines of a log that may tell of a failure, or that the server works, picked out of any number of others.

Lines that differ in digits only are alike, and one of them is looked at for all. In those every literal is looked for
at once, and a pattern is tried only where its literal stands. What is bounded is bounded from the middle: beginnings
and ends of logs tell most.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

from ratematch.engines.knownfailure import KnownFailure
from ratematch.engines.literals import split_pattern
from ratematch.engines.loglines import shorten

MOST_LINES = 1_000_000
"""Lines of a log that are read: of a longer one the first and the last half of these."""

MOST_BYTES = 3_000_000
"""Bytes of different lines that are looked at, of those with a word of trouble in them; a third of it of the others.
Of more the first and the last half of that."""

MOST_OF_A_LITERAL = 4_000
"""Different lines with one literal in them that its patterns are tried on, bounded likewise."""

MOST_ALIKE = 20
"""Lines alike but for digits that patterns are tried on: of more the first and the last half of these."""

MOST_TRIED = 6_000
"""Lines that patterns are tried on, where that leaves the first and the last of each kind."""

_DIGITS = b"0123456789"

_TROUBLE = (
    b"rror",
    b"ail",
    b"atal",
    b"bort",
    b"ancel",
    b"illed",
    b"xception",
    b"raceback",
    b"not ",
    b"NVRM",
    b"WARN",
)
"""Words of trouble, without the letters that may be capitals."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Table:
    """The alternatives of all patterns by their literals (lower case), one of which stands in every line they match.

    ``order``: where a failure stands among those known: of two that fit one line the first is meant. ``marks``:
    further literals whose lines are wanted.
    """

    alternatives: Mapping[bytes, Sequence[tuple[re.Pattern[str], KnownFailure]]]
    order: Mapping[KnownFailure, int]
    marks: tuple[bytes, ...]


@dataclass(frozen=True)
class Alike:
    """Lines that differ in digits only. ``places``: the numbers of all; ``matches``: what some of them tell."""

    line: str
    places: Sequence[int]
    matches: Sequence[tuple[int, Sequence[KnownFailure]]]


@lru_cache(maxsize=8)
def prepare(known: tuple[KnownFailure, ...], marks: tuple[str, ...]) -> Table:
    """``known`` and ``marks`` as a :class:`Table`, made once for each engine."""
    alternatives: dict[bytes, list[tuple[re.Pattern[str], KnownFailure]]] = {}
    for failure in known:
        for literal, pattern in split_pattern(failure.pattern):
            alternatives.setdefault(literal.encode(), []).append((pattern, failure))
    order = {failure: at for at, failure in enumerate(known)}
    return Table(alternatives, order, tuple(mark.encode() for mark in marks))


def split_lines(text: str) -> list[str]:
    """The lines of ``text``, progress bars (which go back to the beginning of their line) apart."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    half = MOST_LINES // 2
    head = text.split("\n", half)
    if len(head) <= half:
        return head
    tail = head.pop().rsplit("\n", half)
    return head + (tail[1:] if len(tail) > half else tail)


def scan(lines: Sequence[str], table: Table) -> Iterator[Alike]:
    """Every kind of line that may matter."""
    shapes = "\n".join(lines).encode("utf-8", "replace").translate(None, _DIGITS).split(b"\n")
    first = dict(zip(reversed(shapes), range(len(shapes) - 1, -1, -1), strict=True))
    wanted = _find_wanted(_bound(sorted(first, key=first.__getitem__)), table)
    places: dict[bytes, list[int]] = {shape: [] for shape in wanted}
    for at, shape in enumerate(shapes):
        if shape in places:
            places[shape].append(at)
    telling = sum(bool(alternatives) for alternatives in wanted.values())
    most = min(MOST_ALIKE, MOST_TRIED // max(1, telling))
    for shape, alternatives in wanted.items():
        matches = []
        for at in _ends(places[shape], most) if alternatives else ():
            line = shorten(lines[at])
            if failures := {failure for pattern, failure in alternatives if pattern.search(line)}:
                matches.append((at, sorted(failures, key=table.order.__getitem__)))
        yield Alike(shorten(lines[first[shape]]), places[shape], matches)


def _find_wanted(shapes: Sequence[bytes], table: Table) -> dict[bytes, list[tuple[re.Pattern[str], KnownFailure]]]:
    """The shapes in which a literal or mark stands, with the alternatives to try on them."""
    short = [_shorten(shape) for shape in shapes]
    ends = list(accumulate(len(shape) + 1 for shape in short))
    page = b"\n".join(short).lower()
    wanted: dict[bytes, list[tuple[re.Pattern[str], KnownFailure]]] = {}
    for literal, alternatives in (*table.alternatives.items(), *((mark, ()) for mark in table.marks)):
        for number in _ends(list(_lines_with(literal, page, ends)), MOST_OF_A_LITERAL):
            wanted.setdefault(shapes[number], []).extend(alternatives)
    return wanted


def _lines_with(literal: bytes, page: bytes, ends: Sequence[int]) -> Iterator[int]:
    """The numbers of the lines of ``page`` that hold ``literal``; ``ends``: where the next line begins."""
    at = page.find(literal)
    while at >= 0:
        number = bisect(ends, at)
        yield number
        at = page.find(literal, ends[number])


def _shorten(shape: bytes) -> bytes:
    return shorten(shape.decode("utf-8", "replace")).encode() if len(shape) > 2000 or b"\x1b" in shape else shape


def _bound(shapes: list[bytes]) -> list[bytes]:
    """``shapes`` where they are few enough, else the first and last of those with and without words of trouble."""
    ends = list(accumulate(len(shape) + 1 for shape in shapes))
    if not ends or ends[-1] <= MOST_BYTES:
        return shapes
    page = b"\n".join(shapes)
    loud = bytearray(len(shapes))
    for word in _TROUBLE:
        for number in _lines_with(word, page, ends):
            loud[number] = 1
    most = max(1, len(shapes) * MOST_BYTES // ends[-1])
    troubled = _ends([at for at, is_loud in enumerate(loud) if is_loud], most)
    others = _ends([at for at, is_loud in enumerate(loud) if not is_loud], most // 3)
    return [shapes[at] for at in sorted([*troubled, *others])]


def _ends(items: Sequence[_T], most: int) -> Sequence[_T]:
    """``items``, of more than ``most`` the first and the last half of that many."""
    half = max(1, most // 2)
    return items if len(items) <= 2 * half else [*items[:half], *items[-half:]]
