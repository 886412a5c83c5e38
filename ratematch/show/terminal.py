"""What reaches a terminal: text from files, servers and logs can neither move the cursor nor change what is seen.

Control characters (ESC first of all, C0 and C1), marks that turn the direction of writing, and bytes that were no
UTF-8 are shown as text, ``\\x1b``. Colours of our own come from :mod:`rich`, which writes them apart from text.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, unseen, lines
    "\ud800-\udfff"  # bytes of a file name that is not UTF-8
    "\U000e0000-\U000e007f]"  # tags, which nothing shows
)


def visible(text: str) -> str:
    """``text`` with every character that a terminal would obey, or not show, written as an escape."""
    return _HIDDEN.sub(lambda match: _escape(match[0]), text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as Python keeps it in file names
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


WIDTH = 100
"""Columns where nobody says how many there are: in a file, a pipe, a log of CI."""


class Terminal(Console):
    """A console whose text is :func:`visible`, wherever it comes from."""

    def __init__(self, **options: Any):
        """``options``: of :class:`rich.console.Console`."""
        super().__init__(**options)
        if "width" not in options and not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders it, with the text of every segment made visible."""
        for segment in super().render(renderable, options):
            if segment.control is None and _HIDDEN.search(segment.text):
                yield Segment(visible(segment.text), segment.style)
            else:
                yield segment


def command_line(*words: object) -> str:
    """A command to type again: each word quoted for a shell, no path read as an option."""
    texts = [str(word) for word in words]
    return " ".join(_quote(f"./{text}" if text.startswith("-") else text) for text in texts)


def _quote(word: str) -> str:
    if not _HIDDEN.search(word) and "\n" not in word and "\t" not in word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
    return f"$'{visible(escaped)}'"
