"""The literal text that a line must hold before a pattern can match it, so that most lines need no pattern at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

SHORTEST = 3
"""Characters that a literal must have to be worth looking for."""

_OPTIONAL = "?*{"
_ANY_CASE = "(?i)"


def split_pattern(pattern: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each alternative of ``pattern``, compiled, with a literal (lower case, without digits) that its matches hold.

    What lies in groups and classes is passed over. ``(?i)`` at the beginning holds for all alternatives.
    ``ValueError`` for an alternative that has no literal outside groups and classes.
    """
    flags = re.IGNORECASE if pattern.startswith(_ANY_CASE) else re.RegexFlag(0)
    parts = []
    for alternative in _alternatives(pattern.removeprefix(_ANY_CASE)):
        literal = max(_runs(alternative), key=len, default="").lower()
        if len(literal) < SHORTEST:
            raise ValueError(f"no literal of {SHORTEST} characters stands in {alternative!r} (of {pattern!r})")
        parts.append((literal, re.compile(alternative, flags)))
    return tuple(parts)


def _alternatives(pattern: str) -> Iterator[str]:
    depth, start, at = 0, 0, 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
        elif sign == "[":
            at = _end_of_class(pattern, at)
        elif sign in "()":
            depth += 1 if sign == "(" else -1
        elif sign == "|" and depth == 0:
            yield pattern[start:at]
            start = at + 1
        at += 1
    yield pattern[start:]


def _runs(alternative: str) -> Iterator[str]:
    """Stretches of plain characters outside groups and classes."""
    run, depth, at = "", 0, 0
    while at < len(alternative):
        sign, step = alternative[at], 1
        plain = sign
        if sign == "\\":
            step = 2
            plain = "" if alternative[at + 1].isalnum() else alternative[at + 1]
        elif sign == "[":
            step, plain = _end_of_class(alternative, at) + 1 - at, ""
        elif sign in "()":
            depth, plain = depth + (1 if sign == "(" else -1), ""
        elif sign in ".^$+?*{}|" or sign.isdigit():
            plain = ""
            if sign == "{":
                step = alternative.index("}", at) + 1 - at
        after = alternative[at + step : at + step + 1]
        if plain and depth == 0 and not (after and after in _OPTIONAL):
            run += plain
        else:
            if run:
                yield run
            run = ""
        at += step
    if run:
        yield run


def _end_of_class(pattern: str, at: int) -> int:
    """Where the class that begins at ``at`` ends."""
    end = at + 1
    while pattern[end] != "]" or end == at + 1:
        end += 2 if pattern[end] == "\\" else 1
    return end
