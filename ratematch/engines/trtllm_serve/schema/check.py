"""A value of a file against the schema of an installed package: one line for each thing that is wrong.

What pydantic's own schemas use is checked: types, ``enum`` and ``const``, bounds and sizes, keys and other names of
them, items, references, and unions, which are told apart by the value of their tag, by type, or by which of them
fits best. Not checked: ``pattern`` (it comes out of an image, and may take for ever) and ``format``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ratematch.engines.trtllm_serve.schema.document import BOUNDS, NO_NOTES, Document, Node
from ratematch.plan.printable import UNPRINTABLE

MOST_STEPS = 50_000
MOST_DEPTH = 60
SHOWN = 60
OWN_CODE = "code of the package's own converts it"

WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "array": "list",
    "object": "map",
}


Kind = Literal["refused", "unsure", "warning"]


@dataclass(frozen=True)
class Remark:
    """``where``: the key, dotted. ``kind``: ``refused`` by the server, ``unsure`` where a validator of the package's
    own sees the value first and may take it, ``warning`` where it is taken and yet should be known."""

    where: str
    text: str
    kind: Kind = "refused"

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


@dataclass(frozen=True)
class Place:
    """Where a value stands: its dotted key, whether a validator sees it first (``loose``), and the names that such
    validators on the way to it read."""

    key: str = ""
    depth: int = 0
    loose: bool = False
    reads: frozenset[str] = frozenset()

    def at(self, name: object) -> Place:
        shown = UNPRINTABLE.sub(" ", str(name))
        return replace(self, key=f"{self.key}.{shown}" if self.key else shown, depth=self.depth + 1)


class TooComplex(ValueError):
    """The schema and the value together take more steps than any real ones do."""


@dataclass
class Checker:
    """Checks values against the schemas of ``document``; ``label``: whose they are, for people."""

    document: Document
    label: str
    steps: int = field(default=0, init=False)

    def check(self, value: Any, node: Node, place: Place | None = None) -> list[Remark]:
        """What is to be said of ``value``.

        Raises:
            TooComplex: no real schema takes so long.
        """
        self.steps = 0
        return list(self._check(value, node, place or Place()))

    def _check(self, value: Any, node: Node, place: Place) -> Iterator[Remark]:
        self.steps += 1
        if self.steps > MOST_STEPS or place.depth > MOST_DEPTH:
            raise TooComplex(f"{place.key[:80]}: the schema of {self.label} is too large to be checked")
        if node.ref is not None:
            yield from self._check(value, self.document.resolve(node), place)
            return
        for part in node.all_of:
            yield from self._check(value, part, place)
        if node.either:
            yield from self._check_either(value, node.either, place)
        if not _is_any(value, node.types):
            yield _remark(place, _wrong_type(value, node.types))
            return
        if node.choices is not None and not _among(value, node.choices):
            yield _remark(place, self._wrong_choice(value, node.choices))
            return
        yield from (_remark(place, text) for text in _out_of_bounds(value, node.bounds))
        if isinstance(value, dict):
            yield from self._check_map(value, node, place)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                below = node.prefix[index] if index < len(node.prefix) else node.items
                if below is not None:
                    yield from self._check(item, below, replace(place.at(index), reads=place.reads))

    # ------------------------------------------------------------------------------------------------------- maps

    def _check_map(self, value: Mapping[Any, Any], node: Node, place: Place) -> Iterator[Remark]:
        if not node.keys and not node.required and not isinstance(node.extra, (bool, Node)):
            return
        notes = self.document.notes.get(node.name or "", NO_NOTES)
        reads = place.reads | notes.reads
        spelled = self.document.spellings(node)
        for name, below in value.items():
            key = spelled.get(str(name))
            if key is not None:
                yield from self._check_key(str(name), below, node.keys[key], key in notes.before, reads, place)
            elif isinstance(node.extra, Node):
                yield from self._check(below, node.extra, place.at(name))
            elif node.extra is not True:
                yield self._unknown(str(name), node, spelled, reads, place)
        if place.key:  # at the top the command line gives what the file does not
            given = {spelled.get(str(name)) for name in value}
            for key in node.required:
                if key not in given:
                    spellings = " or ".join(notes.keys.get(key, (key,)))
                    loose = place.loose or key in notes.before
                    yield _remark(replace(place, loose=loose), f"{spellings} is required in {self.label}")

    def _check_key(
        self, name: str, value: Any, node: Node, before: bool, reads: frozenset[str], place: Place
    ) -> Iterator[Remark]:
        here = replace(place.at(name), loose=before, reads=reads)
        why = node.deprecated if node.deprecated is not None else self.document.resolve(node).deprecated
        if why is not None:
            yield Remark(here.key, f"is deprecated in {self.label}" + (f": {why}" if why else ""), "warning")
        yield from self._check(value, node, here)

    def _unknown(
        self, name: str, node: Node, spelled: Mapping[str, str], reads: frozenset[str], place: Place
    ) -> Remark:
        """What to say of a key that the schema does not have."""
        where = place.at(name).key
        if name in reads:
            return Remark(where, f"is no key of {self.label} and refused, unless {OWN_CODE}", "unsure")
        kind: Kind = "refused" if node.extra is False else "warning"
        text = f"unknown key in {self.label}" + ("" if kind == "refused" else ", which ignores it")
        close = difflib.get_close_matches(name, list(spelled), n=1)
        homes = self._homes()
        exact = homes.get(name, {})
        if exact and where in exact:
            return Remark(where, f"{text} here; it belongs to {' and '.join(exact[where][:3])}", kind)
        if exact:
            return Remark(where, f"{text}; it belongs at {' or '.join(list(exact)[:3])}", kind)
        if close:
            return Remark(where, f"{text}; did you mean {place.at(close[0]).key}?", kind)
        if elsewhere := difflib.get_close_matches(name, list(homes), n=1, cutoff=0.75):
            return Remark(where, f"{text}; did you mean {next(iter(homes[elsewhere[0]]))}?", kind)
        if place.key:
            return Remark(where, f"{text}; {place.key} takes {_listed(sorted(spelled)) or 'no keys'}", kind)
        return Remark(where, text, kind)

    def _homes(self) -> dict[str, dict[str, list[str]]]:
        """Every key of the worker's file, two levels deep, with the places where it lives and the models there."""
        homes: dict[str, dict[str, list[str]]] = {}
        root = self.document.worker
        for name, node in self.document.resolve(root).keys.items() if root else ():
            homes.setdefault(name, {}).setdefault(name, [])
            for branch in self._branches(node):
                for below in branch.keys:
                    homes.setdefault(below, {}).setdefault(f"{name}.{below}", []).append(branch.name or name)
        return homes

    def _branches(self, node: Node, depth: int = 0) -> list[Node]:
        """The schemas that a value may be of, unions taken apart."""
        node = self.document.resolve(node)
        if len(node.all_of) == 1 and not node.keys:  # how older pydantic writes a reference with a default
            return self._branches(node.all_of[0], depth + 1) if depth <= 8 else [node]
        if not node.either or depth > 8:
            return [node]
        return [branch for part in node.either for branch in self._branches(part, depth + 1)]

    # ----------------------------------------------------------------------------------------------------- unions

    def _check_either(self, value: Any, parts: Sequence[Node], place: Place) -> Iterator[Remark]:
        branches = [branch for part in parts for branch in self._branches(part)]
        self.steps += len(branches)
        if isinstance(value, dict) and (tag := _tag_of(value, branches)) is not None:
            same = [branch for branch in branches if _has_tag(branch, tag, value[tag])]
            if not same:
                choices = [choice for branch in branches for choice in _tags(branch, tag)]
                yield _remark(place.at(tag), self._wrong_choice(value[tag], tuple(choices)))
                return
            branches = same
        tried = [(branch, list(self._check(value, branch, place))) for branch in branches]
        if taken := [remarks for _, remarks in tried if all(remark.kind == "warning" for remark in remarks)]:
            yield from min(taken, key=len)
            return
        # What is of another type explains nothing where something is of the same.
        alike = [each for each in tried if _is_any(value, each[0].types)] or tried
        open_still = [each for each in alike if all(remark.kind != "refused" for remark in each[1])]
        here = replace(place, loose=place.loose or bool(open_still))
        yield from self._explain_none(value, open_still or alike, here)

    def _explain_none(self, value: Any, tried: Sequence[tuple[Node, list[Remark]]], place: Place) -> Iterator[Remark]:
        """None of a union fits: what is wrong with those of the value's own type, or that it is of none of them."""
        if not any(_is_any(value, branch.types) for branch, _ in tried):
            types = frozenset(name for branch, _ in tried for name in branch.types)
            yield _remark(place, _wrong_type(value, types))
            return
        best = min((remarks for _, remarks in tried), key=len)
        choices = tuple(choice for branch, _ in tried for choice in branch.choices or ())
        if isinstance(value, (dict, list)) or len(tried) == 1 or not choices:
            yield from best
        else:
            yield _remark(place, self._wrong_choice(value, choices))

    def _wrong_choice(self, value: Any, choices: Sequence[Any]) -> str:
        text = f"{_shown(value)} is not valid in {self.label}; choose from {_listed([_plain(c) for c in choices])}"
        close = difflib.get_close_matches(str(value), [c for c in choices if isinstance(c, str)], n=1)
        return f"{text}; did you mean {close[0]}?" if close and len(choices) > 6 else text


def _remark(place: Place, text: str) -> Remark:
    """Of a value: what a validator of the package's own sees first may be converted to something right."""
    return Remark(
        place.key, f"{text}, unless {OWN_CODE}" if place.loose else text, "unsure" if place.loose else "refused"
    )


def _tags(branch: Node, key: str) -> tuple[Any, ...]:
    node = branch.keys.get(key)
    return (node.choices or ()) if node is not None else ()


def _has_tag(branch: Node, key: str, value: Any) -> bool:
    return _among(value, _tags(branch, key))


def _tag_of(value: Mapping[Any, Any], branches: Sequence[Node]) -> str | None:
    """The key of ``value`` that tells the maps among ``branches`` apart: each has choices of its own for it."""
    maps = [branch for branch in branches if branch.keys]
    if len(maps) < 2:
        return None
    for key in maps[0].keys:
        choices = [_tags(branch, key) for branch in maps]
        apart = len({repr(choice) for each in choices for choice in each}) == sum(map(len, choices))
        if key in value and all(choices) and apart:
            return key
    return None


def _is_any(value: Any, types: frozenset[str]) -> bool:
    """Is ``value`` of one of these types? None named means any."""
    return not types or any(_is(value, name) for name in types)


def _is(value: Any, name: str) -> bool:
    """Is ``value``, as YAML gives it, of this type of JSON?"""
    if isinstance(value, bool):
        return name == "boolean"
    match name:
        case "integer":
            return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        case "number":
            return isinstance(value, (int, float))
        case "string":
            return isinstance(value, str)
        case "null":
            return value is None
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
    return False


def _among(value: Any, choices: Sequence[Any]) -> bool:
    """``True`` is not ``1`` here."""
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)


def _out_of_bounds(value: Any, bounds: Mapping[str, float]) -> Iterator[str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        limits = {name: bounds[name] for name in BOUNDS if name in bounds}
        wrong = (
            ("minimum" in limits and value < limits["minimum"])
            or ("maximum" in limits and value > limits["maximum"])
            or ("exclusiveMinimum" in limits and value <= limits["exclusiveMinimum"])
            or ("exclusiveMaximum" in limits and value >= limits["exclusiveMaximum"])
        )
        if wrong or (limits and value != value):
            words = {
                "minimum": "at least",
                "maximum": "at most",
                "exclusiveMinimum": "greater than",
                "exclusiveMaximum": "less than",
            }
            spelled = [f"{words[name]} {limit}" for name, limit in limits.items() if name in words]
            yield f"{_shown(value)} must be {' and '.join(spelled)}"
        if "multipleOf" in limits and isinstance(value, int) and value % limits["multipleOf"]:
            yield f"{_shown(value)} must be a multiple of {limits['multipleOf']}"
    for kind, what, of in ((str, "characters", "Length"), (list, "items", "Items"), (dict, "keys", "Properties")):
        if isinstance(value, kind):
            least, most = bounds.get(f"min{of}"), bounds.get(f"max{of}")
            if (least is not None and len(value) < least) or (most is not None and len(value) > most):
                span = f"at least {least}" if most is None else f"{least or 0} to {most}"
                yield f"{_shown(value)} has {len(value)} {what}, must have {span}"


def _wrong_type(value: Any, types: frozenset[str]) -> str:
    wanted = [WORDS[name] for name in WORDS if name in types]
    text = "null is not valid here" if value is None else f"{_shown(value)} is no {' or '.join(wanted)}"
    if isinstance(value, str) and {"integer", "number", "boolean"} & types:
        plain = value.strip().lower()
        number = plain.lstrip("+-").replace(".", "", 1).isdigit()
        if number or plain in ("true", "false"):
            text += f"; write {value.strip()} without quotes"
    return text if value is not None else f"{text}; it is a {' or '.join(wanted)}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "null" if value is None else str(value)


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _listed(words: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(words))
    return ", ".join(distinct[:40]) + (f", and {len(distinct) - 40} more" if len(distinct) > 40 else "")
