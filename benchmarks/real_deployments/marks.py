"""Generated tables inside pages that people write: they stand between two marks."""

from __future__ import annotations

from pathlib import Path


def write_between(path: Path, begin: str, end: str, tables: str) -> None:
    """Put ``tables`` between the marks ``begin`` and ``end`` of the page at ``path``.

    Raises:
        SystemExit: the page has no such marks.
    """
    head, found, rest = path.read_text().partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{path}: no place for the tables: write {begin} and {end} where they belong")
    path.write_text(f"{head}{begin}\n{tables}{end}{rest.partition(end)[2]}")
