"""YAML text to nodes and plain values, with limits: nothing in a file may keep us busy for ever or surprise anybody.

Only what has one reading for everybody is read. What YAML 1.1 turns into something else behind a person's back is
refused with its line and the way to write it: dates, numbers in base 60, octal numbers with a leading zero, binaries,
merge keys, unknown tags.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.events import AliasEvent

from ratematch.plan.numbers import MOST, MOST_DIGITS, brief, check_number, check_underflow, shorten

MOST_BYTES = 1_000_000
"""Of a file of YAML."""

MOST_DEPTH = 50
"""Levels of maps and lists inside one another."""

MOST_NODES = 100_000
"""Keys, values, maps and lists of a file with every alias written out."""

UNCHECKED, SECRET = "!unchecked", "!secret"
MARKS = (UNCHECKED, SECRET)
"""Tags of our own: each leaves the value as it is and marks its place. Any other is refused."""

AS_TEXT = (SECRET,)
"""Marks whose values are text, whatever they look like: a password may well be a number."""

Scalar = str | int | float | bool | None

_STANDARD = "tag:yaml.org,2002:"
_BOOLS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_NULLS = ("", "~", "null")
_FLOAT = re.compile(r"[+-]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?")
_BASE_60 = "write one number, or put it in quotes"
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)")


class Unreadable(Exception):
    """A part of a file that is not read, on ``line`` (from 1): ``what`` is wrong and how to write it, ``fix``.
    ``shows``: it may show the value."""

    def __init__(self, what: str, fix: str = "", line: int = 1, *, shows: bool = True):
        self.what, self.fix, self.line = what, fix, line
        self.shows = shows
        super().__init__(what)


@dataclass
class _Size:
    """Of a node that is being composed: nodes in it so far; ``None`` for a node that is known whole."""

    nodes: int = 1


class _Loader(yaml.SafeLoader):
    """Composes nodes with a limit on depth, and on nodes with every alias written out."""

    def __init__(self, text: str):
        super().__init__(text)
        self._open: list[_Size] = []
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if len(self._open) >= MOST_DEPTH:
            raise Unreadable(f"maps and lists are nested more than {MOST_DEPTH} deep", line=line)
        if isinstance(event, AliasEvent):
            node = super().compose_node(parent, index)
            if node is not None and id(node) not in self._sizes:
                raise Unreadable(f"*{shorten(str(event.anchor))} stands inside what it names", line=line)
            self._count(self._sizes[id(node)], line)
            return node
        self._open.append(_Size())
        node = super().compose_node(parent, index)
        size = self._open.pop().nodes
        if node is not None:
            self._sizes[id(node)] = size
        self._count(size, line)
        return node

    def _count(self, nodes: int, line: int) -> None:
        """Adds ``nodes`` to the node that is being composed; every one above it gets them when it is whole."""
        if self._open:
            self._open[-1].nodes += nodes
        if nodes > MOST_NODES or (self._open and self._open[-1].nodes > MOST_NODES):
            raise Unreadable(f"more than {MOST_NODES:,} values, with every alias written out", line=line)


def compose(text: str) -> yaml.Node | None:
    """The node of the only document in ``text``; ``None`` when there is none. Aliases are the node they name.

    Raises:
        Unreadable: not YAML, or beyond a limit.
    """
    if len(text) > MOST_BYTES:
        raise Unreadable(f"the file is larger than {MOST_BYTES // 1000} kB")
    loader = None
    try:
        loader = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
        return node
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"character U+{error.character:04X} may not stand in YAML"
        raise Unreadable(f"not valid YAML: {what}", "write it as an escape in double quotes", line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "cannot be read"
        raise Unreadable(f"not valid YAML: {what}", line=mark.line + 1 if mark else 1) from None
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode, a %YAML of 5,000 digits
        line = loader.line + 1 if loader else 1
        raise Unreadable(f"not valid YAML: {shorten(str(error))}", line=line) from None


def mark_of(node: yaml.Node) -> str | None:
    """The tag of :data:`MARKS` that ``node`` carries.

    Raises:
        Unreadable: a tag that is not known, or one that does not go with the value.
    """
    line = node.start_mark.line + 1
    kinds: dict[type[yaml.Node], str] = {yaml.MappingNode: "map", yaml.SequenceNode: "seq"}
    if node.tag in MARKS:
        return str(node.tag)
    name = str(node.tag).removeprefix(_STANDARD)
    kind = kinds.get(type(node))
    scalar = name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
    if (kind is not None and name == kind) or (kind is None and scalar and node.tag != name):
        return None
    if name == "binary":
        raise Unreadable("binary values are not read", "write text", line)
    shown = shorten(node.tag if node.tag == name else f"!!{name}")
    raise Unreadable(f"the tag {shown} is not known here", f"known: {', '.join(MARKS)}", line)


def unmarked(node: yaml.Node) -> str:
    """The tag that ``node`` has without a mark: scalars are numbers, booleans and so on as ever."""
    if node.tag in AS_TEXT and isinstance(node, yaml.ScalarNode):
        return f"{_STANDARD}str"
    # Quotes make a scalar a string whatever it looks like.
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    resolver: Any = yaml.SafeLoader("")
    return str(resolver.resolve(type(node), node.value if plain else None, (plain, not plain)))


def read_scalar(node: yaml.Node, tag: str) -> Scalar:
    """The value of a scalar with a standard ``tag``.

    Raises:
        Unreadable: a date, a number that is not finite, out of bounds or ambiguous, a control character.
    """
    line, text = node.start_mark.line + 1, node.value
    name = tag.removeprefix(_STANDARD)
    if name == "str":
        return _text(text, line)
    if name == "null" and text.lower() in _NULLS:
        return None
    if name == "bool" and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if name == "int":
        return _whole(text, line)
    if name == "float":
        return _number(text, line)
    quoted = "put it in quotes where text is meant"
    if name == "timestamp":
        raise Unreadable(f"{brief(text)} is a date to YAML", quoted, line)
    if name in ("merge", "value"):
        raise Unreadable(f"{text} alone has a meaning of its own in YAML", quoted, line)
    raise Unreadable(f"{brief(text)} is no {name}", quoted, line)


def read_key(node: yaml.Node) -> str:
    """The text of a key, as it is written.

    Raises:
        Unreadable: maps, lists, nothing, and merge keys.
    """
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode):
        raise Unreadable("a key must be text, not a map or a list", line=line)
    name = str(node.tag).removeprefix(_STANDARD)
    if name == "merge":
        raise Unreadable("merge keys (<<) are not read", "write the keys out", line)
    if name == "null":
        raise Unreadable("a key is empty", "write its name before the colon", line)
    if node.tag in MARKS:
        raise Unreadable(f"{node.tag} goes with a value, not with a key", line=line)
    mark_of(node)
    return _text(node.value, line)


def _text(text: str, line: int) -> str:
    for char in text:
        if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs"):
            raise Unreadable(f"holds the control character U+{ord(char):04X}", "leave it out", line, shows=False)
    return text


def _whole(text: str, line: int) -> int:
    word = text.strip()
    if ":" in word:
        raise Unreadable(f"{brief(text)} is a number in base 60 to YAML", _BASE_60, line)
    if re.fullmatch(r"[+-]?0[0-9_]+", word):
        raise Unreadable(
            f"{brief(text)} is an octal number to YAML", "without the leading zero, or put it in quotes", line
        )
    if not _WHOLE.fullmatch(word):
        raise Unreadable(f"{brief(text)} is no whole number", "put it in quotes where text is meant", line)
    if len(word) > MOST_DIGITS:
        raise Unreadable(f"must be a number up to {MOST:g}, not one of {len(word):,} digits", line=line)
    value = int(word.replace("_", ""), 0)
    _refuse(value, text, line)
    return value


def _number(text: str, line: int) -> float:
    word = text.strip()
    if word.lstrip("+-").lower() in (".inf", ".nan"):
        raise Unreadable(f"must be a finite number, not {word}", line=line)
    if ":" in word:
        raise Unreadable(f"{brief(text)} is a number in base 60 to YAML", _BASE_60, line)
    if not _FLOAT.fullmatch(word):
        raise Unreadable(f"{brief(text)} is no number", "put it in quotes where text is meant", line)
    if len(word) > MOST_DIGITS:
        raise Unreadable(f"must be a number of at most {MOST_DIGITS} characters, not {len(word):,}", line=line)
    value = float(word.replace("_", ""))
    if wanted := check_underflow(word, value):
        raise Unreadable(f"must be {wanted}, not {word}", line=line)
    _refuse(value, text, line)
    return value


def _refuse(value: float, text: str, line: int) -> None:
    if wanted := check_number(value):
        raise Unreadable(f"must be {wanted}, not {shorten(text)}", line=line)
