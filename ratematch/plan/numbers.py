"""Numbers that people write: in sweep files, cluster profiles, ``--set``, options and tables. Finite and bounded.

A number that no machine of ours could mean (1e308, 5,000 digits, ``.inf``) is a slip of the keyboard. Taken as it is
it would overflow, or keep a loop busy for ever, long after the file was accepted; so it is refused where it is read.
"""

from __future__ import annotations

import math
import re

MOST = 1e18
"""No number of a file is larger, whatever it counts: operations a second of a GPU are the largest."""

LEAST = 1e-12
"""No number but 0 is nearer to 0."""

MOST_DIGITS = 64
"""Characters of a number in decimal."""

_WHOLE = re.compile(r"[+-]?[0-9](_?[0-9])*")
_DECIMAL = re.compile(r"[+-]?([0-9](_?[0-9])*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

MOST_TOKENS, MOST_REQUESTS, MOST_SECONDS, MOST_RATE = 100_000_000, 100_000_000, 10_000_000, 1_000_000
"""Of a prompt or an answer; of a load or in flight; of anything that is waited for; requests/s."""

MOST_GPUS, MOST_SERVERS, MOST_REPEATS = 1_000_000, 100_000, 1000
"""Of a site, an instance or a budget; of instances of one role; of times that one load is run."""

MOST_MS, MOST_HOURS, MOST_MINUTES = 1e9, 1e8, 1e6
"""Of a latency limit, of GPU-hours to spend, of a wait for servers."""


def check_number(value: float) -> str:
    """Why ``value`` is no number that a file may hold, in words that follow "must be"; empty when it is one."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if abs(value) > MOST:
        return f"a number up to {MOST:g}"
    if 0 < abs(value) < LEAST:
        return f"0, or a number from {LEAST:g}"
    return ""


def parse_whole(text: str) -> int:
    """A whole number in decimal, as people write it.

    Raises:
        ValueError: it is none, or out of bounds; the message says what it must be.
    """
    word = text.strip()
    if not _WHOLE.fullmatch(word):
        raise ValueError("a whole number")
    if len(word) > MOST_DIGITS:
        raise ValueError(f"a number up to {MOST:g}")
    value = int(word)
    if wanted := check_number(value):
        raise ValueError(wanted)
    return value


def parse_number(text: str) -> float:
    """A number in decimal, with or without a fraction or an exponent.

    Raises:
        ValueError: it is none, not finite, or out of bounds; the message says what it must be.
    """
    word = text.strip()
    if word.lstrip("+-").lower() in ("inf", "infinity", "nan", ".inf", ".nan"):
        raise ValueError("a finite number")
    if not _DECIMAL.fullmatch(word):
        raise ValueError("a number")
    if len(word) > MOST_DIGITS:
        raise ValueError(f"a number of at most {MOST_DIGITS} characters")
    value = float(word)
    if wanted := check_number(value) or check_underflow(word, value):
        raise ValueError(wanted)
    return value


def check_underflow(text: str, value: float) -> str:
    """Why ``value``, read from ``text``, is not what stands there: 1e-400 is not 0; empty when it is."""
    digits = text.lower().partition("e")[0]
    return f"0, or a number from {LEAST:g}" if value == 0 and any(char in "123456789" for char in digits) else ""


def shorten(text: str) -> str:
    """``text`` as a message may hold it: what cannot be printed as an escape, and not longer than a line."""
    return brief(text)[1:-1]


def brief(value: object, most: int = 80) -> str:
    """``value`` as Python writes it, for messages: not longer than ``most`` characters, whatever it is."""
    if isinstance(value, str):
        shown = repr(value[: most + 1])
    elif isinstance(value, dict):
        return "a map"
    elif isinstance(value, list):
        return "a list"
    else:
        shown = repr(value)
    return (
        shown if len(shown) <= most else f"{shown[: most - 4]}...{shown[0] if shown[0] in chr(34) + chr(39) else ''}"
    )
