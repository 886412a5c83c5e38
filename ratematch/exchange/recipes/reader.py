"""Takes values out of a document and lists those that were not taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ratematch.plan.located import Located, Path

SHOWN = 200
"""Characters of a value that are shown to people; ``--json`` has all of it."""

MOST = 10**12
"""No count of a recipe reaches this; larger ones are mistakes, and too long for a line."""

_MISSING = object()


def is_count(text: str) -> bool:
    """Plain digits of a number below :data:`MOST`; ``²`` is a digit to Python, and no number."""
    return text.isascii() and text.isdigit() and len(text) <= 12


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def shown(value: Any) -> str:
    """The value in a message, cut where it is long."""
    if isinstance(value, int) and abs(value) >= MOST:
        return "so large a number"
    return repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}..."


@dataclass(frozen=True)
class Unsupported:
    """One part of a file that has no counterpart: ``where`` is ``file:line: key``, ``why`` may be empty."""

    where: str
    value: Any
    why: str

    def __str__(self) -> str:
        text = yaml.safe_dump(self.value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
        return f"{self.where}: {shown}" + (f" ({self.why})" if self.why else "")


class Reader:
    """``located``, and which of its parts have been taken. Taking a map takes all below it.

    A value of the wrong kind becomes a problem of the file, and the caller gets the default.
    """

    def __init__(self, located: Located):
        self.located = located
        self._taken: set[Path] = set()

    def has(self, *path: str) -> bool:
        return self._find(path) is not _MISSING

    def section(self, *path: str) -> dict[str, Any]:
        """The map at ``path``, nothing taken; empty when it is absent, null or, with a problem, no map."""
        value = self._find(path)
        if value is _MISSING or value is None:
            return {}
        if not isinstance(value, dict):
            self.located.add(path, f"must be a map, not {value!r}")
            return {}
        return value

    def take(self, *path: str, default: Any = None) -> Any:
        """The value at ``path`` as it stands."""
        value = self._find(path)
        if value is _MISSING:
            return default
        self._taken.add(path)
        return value

    def peek_text(self, *path: str) -> str | None:
        """The text at ``path``, which does not count as taken."""
        value = self._find(path)
        return value if isinstance(value, str) else None

    def take_map(self, *path: str) -> dict[str, Any]:
        """The map at ``path``; empty when it is absent or null."""
        value = self.take(*path)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.located.add(path, f"must be a map, not {value!r}")
            return {}
        return value

    def take_text(self, *path: str) -> str | None:
        value = self.take(*path)
        if value is not None and not isinstance(value, str):
            kind = "a map" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""
            self.located.add(path, f"must be text, not {kind or repr(value)}", "" if kind else "put it in quotes")
            return None
        return value

    def take_flag(self, *path: str) -> bool | None:
        """A truth value; ``None`` when it is absent or null."""
        value = self.take(*path)
        if value is not None and not isinstance(value, bool):
            self.located.add(path, f"must be true or false, not {shown(value)}")
            return None
        return value

    def take_count(self, *path: str, least: int = 1, most: int = MOST) -> int | None:
        """A whole number from ``least`` to ``most``; a number in quotes counts."""
        value = self.take(*path)
        if value is None:
            return None
        if isinstance(value, str) and is_count(value.strip()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            wanted = f"a whole number of at least {least}" + (f" and at most {most}" if _is_whole(value) else "")
            self.located.add(path, f"must be {wanted}, not {shown(value)}")
            return None
        return value

    def take_number(self, *path: str, zero: bool = False) -> float | None:
        """A number above zero; ``zero``: or zero itself."""
        value = self.take(*path)
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
            if not (0 < number <= MOST or (zero and number == 0)):
                raise ValueError
            return number
        except (TypeError, ValueError, OverflowError):
            self.located.add(path, f"must be a number {'of at least' if zero else 'above'} 0, not {shown(value)}")
            return None

    def origin(self, *path: str) -> str:
        """Where a value was written, for a comment: ``benchmark.isl (recipe.yaml:12)``."""
        line = self.located.lines.get(path)
        place = f"{self.located.source}:{line}" if line else self.located.source
        return f"{'.'.join(path)} ({place})"

    def unsupported(self, reasons: dict[str, str]) -> tuple[Unsupported, ...]:
        """What was not taken, in file order; an untouched map is one part. ``reasons``: by start of the key."""
        return tuple(
            Unsupported(self.located.where(path), self._find(path), _reason(path, reasons))
            for path in self._untaken(self.located.data, ())
        )

    def _find(self, path: Path) -> Any:
        value = self.located.data
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return _MISSING
            value = value[part]
        return value

    def _untaken(self, value: Any, path: Path) -> Iterator[tuple[str, ...]]:
        if path in self._taken:
            return
        below = any(taken[: len(path)] == path for taken in self._taken)
        if isinstance(value, dict) and (below or not path):
            for key, item in value.items():
                yield from self._untaken(item, (*path, key))
        else:
            yield tuple(str(part) for part in path)


def _reason(path: tuple[str, ...], reasons: dict[str, str]) -> str:
    for length in range(len(path), 0, -1):
        if why := reasons.get(".".join(path[:length])):
            return why
    return ""
