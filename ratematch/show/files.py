"""Files for people and other tools: safe names, safe text, written aside and renamed."""

from __future__ import annotations

import re
import unicodedata

_UNSAFE = re.compile(r"[^A-Za-z0-9._~]+")


def name_part(text: str) -> str:
    """``text`` as part of a file name: ``1024/64`` becomes ``1024-64``; never empty, never a path."""
    return _UNSAFE.sub("-", text).strip("-.") or "unnamed"


def one_line(text: str) -> str:
    """``text`` on one line without control characters.

    Labels come from files. A control character would break an SVG (XML forbids most of them) or move the cursor of
    a terminal; each becomes a space or U+FFFD.
    """
    if text.isprintable():  # nothing of what is replaced
        return text
    return "".join(_printable(char) for char in text)


def _printable(char: str) -> str:
    if char in "\n\r\t":
        return " "
    # Cc control, Cf invisible direction marks, Cs lone surrogates, Cn unassigned (holds U+FFFE, U+FFFF).
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Cn"} else char
