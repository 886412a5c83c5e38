"""YAML text to plain values that remember the line they were written on.

:mod:`ratematch.plan.yamltext` says what is read, and within which limits; what is not, and duplicate keys, of which
YAML would silently let the last one win, are problems like any other. Marks (``!unchecked``, ``!secret``) leave
the value plain and note its path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

import yaml
from pydantic import ValidationError

from ratematch.errors import Problem
from ratematch.plan.numbers import brief, shorten
from ratematch.plan.yamltext import SECRET, UNCHECKED, Unreadable, compose, mark_of, read_key, read_scalar, unmarked

__all__ = ["SECRET", "UNCHECKED", "Located", "Path", "read_located"]

Path = tuple[str | int, ...]


@dataclass
class Located:
    """``data``: the document. ``lines``: line (from 1) of the value at each path. ``source``: name for messages.

    ``marks``: by mark (``!unchecked``), the paths of the values (or whole maps and lists) that carry it. ``given``:
    paths that do not stand in the file, with what they were given by (``--set seed=1``). ``as_written``: see
    :func:`read_located`.
    """

    data: Any
    source: str
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    marks: dict[str, list[Path]] = field(default_factory=dict)
    given: dict[Path, str] = field(default_factory=dict)
    as_written: frozenset[Path] = frozenset()

    @property
    def unchecked(self) -> list[Path]:
        """Paths tagged ``!unchecked``."""
        return self.marks.get(UNCHECKED, [])

    @property
    def secret(self) -> list[Path]:
        """Paths tagged ``!secret``."""
        return self.marks.get(SECRET, [])

    def replace_marks(self, change: Callable[[Path], Path | None]) -> None:
        """Moves every mark to the path that ``change`` says, or drops it."""
        for mark, paths in self.marks.items():
            self.marks[mark] = [new for path in paths if (new := change(path)) is not None]

    def unchecked_below(self, *place: str | int) -> tuple[str, ...]:
        """Dotted paths, from ``place`` on, of the values tagged ``!unchecked`` below it; a tag on ``place`` itself
        covers every key of it."""
        if place in self.unchecked:
            return tuple(str(path[-1]) for path in self.lines if path[:-1] == place)
        below = (path[len(place) :] for path in self.unchecked if path[: len(place)] == place)
        return tuple(".".join(str(part) for part in path if not isinstance(part, int)) for path in below)

    def where(self, path: Sequence[str | int] = ()) -> str:
        """``gen.axes.tp (deepseek-r1.yaml:31)`` for the longest part of ``path`` that stands in the file."""
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in path).removeprefix(
            "."
        )
        place = f"{self.source}:1"
        for length in range(len(path), -1, -1):
            part = tuple(path[:length])
            if part in self.given:
                place = self.given[part]
                break
            if part in self.lines:
                place = f"{self.source}:{self.lines[part]}"
                break
        return place + (f": {dotted}" if dotted else "")

    def add(self, path: Sequence[str | int], what: str, fix: str = "") -> None:
        """Note one problem of the file."""
        self.problems.append(Problem(self.where(path), what, fix))

    def add_validation(
        self, error: ValidationError, valid_keys: Mapping[str, Sequence[str]], unions: Sequence[str] = ()
    ) -> None:
        """Note every problem pydantic found.

        ``valid_keys``: by section (``""`` is the top, ``gen.loads`` a deeper one; list indices left out), for the
        message on an unknown key. ``unions``: pydantic's names of union branches, which stand in no file.
        """
        for item in error.errors(include_url=False):
            path = tuple(part for part in item["loc"] if part not in unions)
            section = ".".join(str(part) for part in path[:-1] if not isinstance(part, int))
            what, fix = _say(item["type"], item["msg"], item["input"], path, valid_keys.get(section, ()))
            if fix == IN_QUOTES and path in self.given:
                override = f'{".".join(map(str, path))}="{brief(item["input"])}"'
                fix = f"{fix} that the shell leaves there: {quote(override)}"
            self.add(path, what, fix)


IN_QUOTES = "put it in quotes"


def _say(kind: str, message: str, given: Any, path: Path, valid: Sequence[str]) -> tuple[str, str]:
    """What is wrong and what would be right, in words."""
    match kind:
        case "extra_forbidden":
            return f"unknown key {brief(path[-1])}", f"valid keys: {', '.join(valid)}"
        case "missing":
            return f"required key {path[-1]!r} is missing", ""
        case "model_type" | "dict_type" | "list_type":
            wanted = "a list" if kind == "list_type" else "a map of keys"
            return f"must be {wanted}, not {brief(given)}", ""
        case "finite_number":
            return f"must be a finite number, not {brief(given)}", ""
        case "too_short":
            return "is empty", "list at least one value"
        case "string_type" if isinstance(given, (bool, int, float)):
            return f"must be text, not {brief(given)}", IN_QUOTES
        case "string_pattern_mismatch":
            return f"{brief(given)} is no file name", "letters, digits, dot, dash and underscore"
        case _:
            wanted = message.removeprefix("Value error, ").removeprefix("Input should be ")
            return f"must be {wanted}, not {brief(given)}", ""


def read_located(text: str, source: str, as_written: Collection[Path] = ()) -> Located:
    """Parse ``text``. What keeps it from being read at all becomes the only problem, with ``data`` None.

    ``as_written``: paths of values that are text even where they look like numbers: a version 0.30 is not 0.3.
    """
    located = Located(data=None, source=source, as_written=frozenset(as_written))
    try:
        node = compose(text)
    except Unreadable as error:
        located.problems.append(Problem(f"{source}:{error.line}", error.what, error.fix))
        return located
    if node is None:
        located.problems.append(Problem(f"{source}:1", "the file is empty"))
        return located
    located.data = _build(node, (), located)
    return located


def _build(node: yaml.Node, path: Path, located: Located) -> Any:
    """The value of ``node``; a part that is not read is a problem, and None."""
    located.lines[path] = node.start_mark.line + 1
    try:
        tag = node.tag
        if mark := mark_of(node):
            located.marks.setdefault(mark, []).append(path)
            tag = unmarked(node)
        match node:
            case yaml.MappingNode():
                return _build_map(node, path, located)
            case yaml.SequenceNode():
                return [_build(item, (*path, index), located) for index, item in enumerate(node.value)]
            case _:
                plain = isinstance(node, yaml.ScalarNode) and node.style is None
                if plain and path in located.as_written and node.value[:1].isdigit():
                    return str(node.value)
                return read_scalar(node, tag)
    except Unreadable as error:
        _add(located, path, error)
        return None


def _build_map(node: yaml.MappingNode, path: Path, located: Located) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        try:
            key = read_key(key_node)
        except Unreadable as error:
            _add(located, path, error)
            continue
        here = (*path, key)
        if key in result:
            located.lines[here] = key_node.start_mark.line + 1
            located.add(here, f"key {brief(key)} is given twice")
        result[key] = _build(value_node, here, located)
        located.lines[here] = key_node.start_mark.line + 1
    return result


def _add(located: Located, path: Path, error: Unreadable) -> None:
    """Notes what was not read. Values of an environment, which may be secrets, are not shown."""
    located.lines[path] = error.line
    if "environment" in path and error.shows:
        located.add(path, "is no text to YAML", "put it in quotes")
    else:
        located.add(path, error.what, error.fix)
