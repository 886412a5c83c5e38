"""Text of files that reaches scripts, file names and terminals: one line, printable, of bounded length.

A newline in a value would end the comment or ``#SBATCH`` line it stands in, and what follows would be shell; an
escape sequence would write over what a terminal shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ratematch.plan.located import Located, Path

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (C0, DEL, C1), what turns the direction of text, separators of lines, and lone surrogates."""

LONGEST_NAME = 100
"""Characters of a name: it becomes a part of file names, which most file systems end at 255 bytes."""

LONGEST_TEXT = 100_000
"""Characters of any other value: beyond it a command line cannot hold it."""

PROSE = ("about",)
"""Keys whose text may have several lines."""


def refuse_unprintable(located: Located) -> bool:
    """Note every key and value of a document that cannot stand in one line of a script; are there any? Then nothing
    else should be said of the document, which would show them."""
    before = len(located.problems)
    for path, text in _texts(located.data, ()):
        shown = re.sub(r"[\n\t]", " ", text) if path and path[0] in PROSE else text
        if bad := UNPRINTABLE.search(shown):
            fix = "write it on one line (>- instead of |)" if bad.group() == "\n" else "leave it out"
            located.add(_shown(path), f"holds the control character U+{ord(bad.group()):04X}", fix)
        if len(text) > LONGEST_TEXT:
            located.add(_shown(path), f"is {len(text):,} characters long", f"at most {LONGEST_TEXT:,}")
    data = located.data
    name = data.get("name") if isinstance(data, dict) else None
    if isinstance(name, str) and len(name) > LONGEST_NAME:
        located.add(("name",), f"is {len(name)} characters long", f"at most {LONGEST_NAME}")
    return len(located.problems) > before


def one_line(text: str) -> str:
    """``text`` with a question mark for each character that cannot stand in a line of a script."""
    return UNPRINTABLE.sub("?", text)


def _texts(data: object, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text of a document with its place, keys included."""
    match data:
        case str():
            yield path, data
        case dict():
            for key, value in data.items():
                yield (*path, key), str(key)
                yield from _texts(value, (*path, key))
        case list():
            for index, value in enumerate(data):
                yield from _texts(value, (*path, index))


def _shown(path: Path) -> Path:
    """A place that can itself be shown: up to a key with control characters."""
    for length, part in enumerate(path):
        if isinstance(part, str) and UNPRINTABLE.search(part):
            return path[:length]
    return path
