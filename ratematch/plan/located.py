"""YAML text to plain values that remember the line they were written on.

Only plain YAML is built (``yaml.SafeLoader``); duplicate keys, which YAML would silently let the last one win, are
problems like any other. Two tags are known: ``!unchecked`` leaves the value plain and notes its path, ``!secret``
reads it as text and notes its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from ratematch.errors import Problem

Path = tuple[str | int, ...]
UNCHECKED = "!unchecked"
SECRET = "!secret"
TEXT = "tag:yaml.org,2002:str"


@dataclass
class Located:
    """``data``: the document. ``lines``: line (from 1) of the value at each path. ``source``: name for messages.

    ``unchecked``, ``secret``: paths of values (or whole maps and lists) tagged ``!unchecked`` and ``!secret``.
    """

    data: Any
    source: str
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unchecked: list[Path] = field(default_factory=list)
    secret: list[Path] = field(default_factory=list)

    def unchecked_below(self, *place: str | int) -> tuple[str, ...]:
        """Dotted paths, from ``place`` on, of the values tagged ``!unchecked`` below it; a tag on ``place`` itself
        covers every key of it."""
        if place in self.unchecked:
            return tuple(str(path[-1]) for path in self.lines if path[:-1] == place)
        below = (path[len(place) :] for path in self.unchecked if path[: len(place)] == place)
        return tuple(".".join(str(part) for part in path if not isinstance(part, int)) for path in below)

    def where(self, path: Sequence[str | int] = ()) -> str:
        """``gen.axes.tp (deepseek-r1.yaml:31)`` for the longest part of ``path`` that stands in the file."""
        for length in range(len(path), -1, -1):
            line = self.lines.get(tuple(path[:length]))
            if line is not None:
                break
        else:
            line = 1
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        return f"{self.source}:{line}" + (f": {dotted}" if dotted else "")

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
            self.add(path, *_say(item["type"], item["msg"], item["input"], path, valid_keys.get(section, ())))


def _say(kind: str, message: str, given: Any, path: Path, valid: Sequence[str]) -> tuple[str, str]:
    """What is wrong and what would be right, in words."""
    match kind:
        case "extra_forbidden":
            return f"unknown key {path[-1]!r}", f"valid keys: {', '.join(valid)}"
        case "missing":
            return f"required key {path[-1]!r} is missing", ""
        case "too_short":
            return "is empty", "list at least one value"
        case "string_pattern_mismatch":
            return f"{given!r} is no file name", "letters, digits, dot, dash and underscore"
        case _:
            wanted = message.removeprefix("Value error, ").removeprefix("Input should be ")
            shown = "a map" if isinstance(given, dict) else "a list" if isinstance(given, list) else repr(given)
            return f"must be {wanted}, not {shown}", ""


def read_located(text: str, source: str) -> Located:
    """Parse ``text``. A syntax error becomes the only problem of the result, with ``data`` None."""
    located = Located(data=None, source=source)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        located.problems.append(Problem(f"{source}:{line}", f"not valid YAML: {what}"))
        return located
    if node is None:
        located.problems.append(Problem(f"{source}:1", "the file is empty"))
        return located
    located.data = _build(node, (), located)
    return located


def _build(node: yaml.Node, path: Path, located: Located) -> Any:
    located.lines[path] = node.start_mark.line + 1
    if node.tag == UNCHECKED:
        located.unchecked.append(path)
        node.tag = _plain_tag(node)
    if node.tag == SECRET:
        located.secret.append(path)
        # Text, whatever it looks like: a password may well be a number.
        node.tag = TEXT if isinstance(node, yaml.ScalarNode) else _plain_tag(node)
    match node:
        case yaml.MappingNode():
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(_build_scalar(key_node))
                here = (*path, key)
                if key in result:
                    located.lines[here] = key_node.start_mark.line + 1
                    located.add(here, f"key {key!r} is given twice")
                result[key] = _build(value_node, here, located)
                located.lines[here] = key_node.start_mark.line + 1
            return result
        case yaml.SequenceNode():
            return [_build(item, (*path, index), located) for index, item in enumerate(node.value)]
        case _:
            return _build_scalar(node)


def _plain_tag(node: yaml.Node) -> str:
    """The tag that ``node`` has without ``!unchecked``: scalars are numbers, booleans and so on as ever."""
    # Quotes make a scalar a string whatever it looks like.
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    loader: Any = yaml.SafeLoader("")
    return str(loader.resolve(type(node), node.value if plain else None, (plain, not plain)))


def _build_scalar(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)
