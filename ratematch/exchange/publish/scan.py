"""Looks at every text of what was written for anything that names people, machines or places. The last word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratematch.exchange.publish.cleaner import KEPT_HASHES, KEPT_VERSIONS, VERSION
from ratematch.exchange.publish.known import ENVIRONMENT_KEYS, Known
from ratematch.exchange.publish.patterns import EVERY, LINE_ENDS, PSEUDONYM, VALUES, WHOLE, is_harmless
from ratematch.exchange.publish.texts import strings_of

RARE = 6
"""Characters of a name that compressed bytes do not have by chance."""


@dataclass(frozen=True)
class Leftover:
    """``kind`` of name, in which ``file`` (below the copy). What it is is not shown."""

    file: str
    kind: str


def scan(folder: Path, known: Known) -> list[Leftover]:
    """What is left in the files below ``folder``, each file and kind once."""
    left: dict[Leftover, None] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        parts = (kind for part in Path(name).parts for kind in _of_text("", part, known))
        for kind in (*parts, *_of_file(file, known)):
            left[Leftover(name, kind)] = None
    return list(left)


def _of_file(file: Path, known: Known) -> Iterator[str]:
    for key, text in strings_of(file):
        yield from _of_text(key, text, known)
    if file.suffix == ".parquet":  # in what is not read as a column too
        yield from _known_in(file.read_bytes().decode("latin-1"), known, RARE)


def _of_text(key: str, text: str, known: Known) -> Iterator[str]:
    last = key.rsplit(".", 1)[-1]
    if last in KEPT_HASHES or ".files." in key or last == "measurement":
        text = re.sub("^[0-9a-f]{7,64}(?:-dirty)?$", "", text)
    if KEPT_VERSIONS in key.split(".") and VERSION.fullmatch(text):
        return
    variable = any(part in ENVIRONMENT_KEYS for part in key.split(".")[:-1])
    if variable and not is_harmless(text) and not PSEUDONYM.fullmatch(text):
        yield "value"
    for pattern in WHOLE:
        if next(pattern.find(text), None) is not None:
            yield pattern.kind
    for part in LINE_ENDS.split(text):
        for pattern in (*EVERY, VALUES):
            if next(pattern.find(part), None) is not None:
                yield pattern.kind
    yield from _known_in(text, known)


def _known_in(text: str, known: Known, shortest: int = 0) -> Iterator[str]:
    if known.pattern is None:
        return
    for match in known.pattern.finditer(text):
        if len(match[0]) >= shortest:
            yield known.names[known.lowered[match[0].lower()]]
            return
