"""Values of other tools' files, with their types checked: what is wrong is told with the file and the field.

A file of another tool may hold anything: a list where an object belongs, Infinity, a number of 400 digits. What is
there and cannot be meant is refused; what is not there is ``None``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ratematch.errors import UserError

LEAST, MOST = 1e-9, 1e15
"""A figure above 0 outside these is none, whatever its unit. Nanoseconds of a duration are below MOST."""
MOST_COUNT = 1_000_000_000
"""Requests, tokens of a run's answer, GPUs: more than this is no count."""
MOST_TEXT = 300
"""Characters of a name, which may become part of a file's name."""

_DECIMAL_COMMA = re.compile(r"\s*[0-9]+,[0-9]+\s*")


def number(content: Mapping[str, Any], key: str, where: str) -> float | None:
    """The number under ``key``, 0 or above; ``None`` when it is not there, null, or not finite (NaN, Infinity).

    Text that says a number counts as one: CSV has nothing else.

    Raises:
        UserError: it is there and no number, below 0, or larger or smaller than any figure could be.
    """
    value = content.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f"{where}: {key} is {describe(value)}, not a number")
    try:
        if isinstance(value, str) and not (value.isascii() and "_" not in value):
            raise ValueError(value)
        figure = float(value)
    except ValueError as error:
        hint = " (write a decimal point)" if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value) else ""
        raise UserError(f"{where}: {key} is {describe(value)}, not a number{hint}") from error
    except OverflowError:  # an integer of hundreds of digits
        figure = MOST * 10
    if math.isinf(figure) and isinstance(value, str) and "n" not in value.lower():
        figure = MOST * 10  # text of thousands of digits, not the word Infinity
    if not math.isfinite(figure):
        return None
    if figure < 0:
        raise UserError(f"{where}: {key} is {describe(value)}, below 0")
    if figure > MOST or 0 < figure < LEAST:
        raise UserError(f"{where}: {key} is {describe(value)}: no such figure can be")
    return figure


def positive(content: Mapping[str, Any], key: str, where: str) -> float | None:
    """As :func:`number`, for files that write 0 where they know nothing."""
    return number(content, key, where) or None


def count(content: Mapping[str, Any], key: str, where: str, most: int = MOST_COUNT) -> int | None:
    """The whole number under ``key``; ``None`` as in :func:`number`.

    Raises:
        UserError: it is there and no whole number between 0 and ``most``.
    """
    value = number(content, key, where)
    if value is None:
        return None
    if value != int(value) or value > most:
        raise UserError(f"{where}: {key} is {describe(content[key])}, not a count")
    return int(value)


def text(content: Mapping[str, Any], key: str, where: str) -> str | None:
    """The text under ``key``; ``None`` when it is not there, null or empty.

    Raises:
        UserError: it is there and no text, or one that could not be a name (unprintable, or without end).
    """
    value = content.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} is {describe(value)}, not text")
    if len(value) > MOST_TEXT or not value.isprintable():
        raise UserError(f"{where}: {key} is no name: {describe(value)}")
    return value.strip() or None


def flag(content: Mapping[str, Any], key: str) -> bool:
    """Is ``key`` true, as JSON or as text ("True", "true")?"""
    return str(content.get(key, "")).strip().lower() == "true"


def section(content: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """The object under ``key``, empty when it is not there or null.

    Raises:
        UserError: it is there and no object.
    """
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {key} is {describe(value)}, not an object")
    return value


def describe(value: object) -> str:
    """``value`` for a message: short, on one line, without control characters."""
    if isinstance(value, list | dict):
        return f"a{'n object' if isinstance(value, dict) else ' list'}"
    try:
        shown = repr(value)
    except ValueError:  # more digits than Python writes out
        return "a number of thousands of digits"
    shown = ascii(value) if not shown.isprintable() else shown
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
