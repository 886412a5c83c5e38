"""Half characters in YAML: an escape such as ``"\\ud800"`` is valid there, and can be written to no file."""

from __future__ import annotations

from typing import Any

from ratematch.errors import Problem
from ratematch.plan.located import Located, Path


def refuse_half_characters(located: Located) -> None:
    """Note every text of the document, keys included, that holds half of a surrogate pair."""
    _refuse(located, located.data, ())


def _refuse(located: Located, value: Any, path: Path) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _refuse(located, item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse(located, key, path)
            _refuse(located, item, (*path, key))
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        what = f"{_printable(value)!r} holds half a character"
        located.problems.append(Problem(_printable(located.where(path)), what, "write the whole one"))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
