"""srt-slurm files that hold several recipes: ``base`` with overrides, zipped lists, and ``sweep`` placeholders."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from ratematch.plan.located import Located, Path

OVERRIDE, ZIP = "override_", "zip_override_"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


MOST_COMBINATIONS = 4096
"""Of one ``sweep``: a file with more is a mistake, and would take all memory."""


@dataclass(frozen=True)
class Variant:
    """A recipe as if it were a file of its own; lines still point into the file.

    ``combination``: the values of its ``sweep``, for people; such a variant has its own list of problems. Empty for
    any other, which adds its problems to the file's.
    """

    located: Located
    combination: str = ""


def expand_variants(located: Located, selector: str = "") -> list[Variant]:
    """Every recipe of a file.

    ``selector``: ``base``, the key of a variant, a pattern of such keys, or one of a zip, ``zip_override_tp[0]``.
    Without it, all variants and not the base, as srt-slurm submits them. Problems go into the returned documents.
    """
    data = located.data
    if not isinstance(data.get("base"), dict):
        if selector:
            located.add((), f"there is no variant {selector!r}: the file has no base", "give the file alone")
        return list(_fill_placeholders(located))
    selected: list[Variant] = []
    names: list[str] = []
    for key in data:
        if key == "base" or not key.startswith((OVERRIDE, ZIP)):
            continue
        for name, variant in _variants_of(located, key):
            names.append(name)
            if not selector or name == selector or fnmatchcase(key, selector):
                selected.extend(_fill_placeholders(variant))
    if selector == "base" or not names:
        return list(_fill_placeholders(_below(located, ("base",))))
    if not selected:
        located.add((), f"there is no variant {selector!r}", f"there are base, {', '.join(names)}")
        return [Variant(located)]
    for key in data:
        if key != "base" and not key.startswith((OVERRIDE, ZIP)):
            located.add((key,), f"{key!r} stands beside base, where only {OVERRIDE}* and {ZIP}* count")
    return selected


def _variants_of(located: Located, key: str) -> Iterator[tuple[str, Located]]:
    if not isinstance(located.data[key], dict):
        located.add((key,), "a variant is a map of what it changes")
        return
    change = _below(located, (key,))
    if not key.startswith(ZIP):
        yield key, _merge(located, change, key.removeprefix(OVERRIDE), named="name" in change.data)
        return
    lengths = {len(value) for value in _lists(change.data) if len(value) != 1}
    if len(lengths) > 1:
        located.add((key,), f"lists of different lengths cannot be zipped: {sorted(lengths)}", "make them equal")
        return
    named = isinstance(change.data.get("name"), list)
    for index in range(next(iter(lengths), 1)):
        sliced = _slice(change, index)
        yield f"{key}[{index}]", _merge(located, sliced, f"{key.removeprefix(ZIP)}_{index}", named=named)


def _lists(value: dict[str, Any]) -> Iterator[list[Any]]:
    for item in value.values():
        if isinstance(item, dict):
            yield from _lists(item)
        elif isinstance(item, list):
            yield item


def _slice(change: Located, index: int) -> Located:
    lines = dict(change.lines)

    def cut(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: cut(item, (*path, key)) for key, item in value.items()}
        if not isinstance(value, list):
            return value
        chosen = 0 if len(value) == 1 else index
        lines[path] = change.lines.get((*path, chosen), change.lines.get(path, 1))
        return value[chosen]

    return replace(change, data=cut(change.data, ()), lines=lines)


def _below(located: Located, path: Path) -> Located:
    value = located.data
    for part in path:
        value = value[part]
    lines = {key[len(path) :]: line for key, line in located.lines.items() if key[: len(path)] == path}
    return Located(value, located.source, lines, located.problems)


def _merge(located: Located, change: Located, suffix: str, *, named: bool) -> Located:
    """Base with ``change`` over it: maps key by key, null takes a key away, anything else replaces."""
    base = _below(located, ("base",))
    lines = {**base.lines, **change.lines}

    def lay(below: Any, above: Any) -> Any:
        if not (isinstance(below, dict) and isinstance(above, dict)):
            return above
        merged = dict(below)
        for key, value in above.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = lay(below.get(key), value)
        return merged

    data = lay(base.data, change.data)
    if not named:
        data["name"] = f"{base.data.get('name', 'unnamed')}_{suffix}"
    return Located(data, located.source, lines, located.problems)


def _fill_placeholders(located: Located) -> Iterator[Variant]:
    """The recipe for every combination of its ``sweep`` values; a text that is one placeholder keeps their type."""
    sweep = located.data.get("sweep") if isinstance(located.data, dict) else None
    if not isinstance(sweep, dict) or not sweep:
        yield Variant(located)
        return
    axes = {key: value if isinstance(value, list) else [value] for key, value in sweep.items()}
    count = math.prod(len(values) for values in axes.values())
    if not 1 <= count <= MOST_COMBINATIONS:
        located.add(("sweep",), f"stands for {count} combinations", f"1 to {MOST_COMBINATIONS} can be imported")
        yield Variant(located)
        return
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))

        def fill(value: Any, chosen: dict[str, Any] = chosen) -> Any:
            if isinstance(value, dict):
                return {key: fill(item) for key, item in value.items()}
            if isinstance(value, list):
                return [fill(item) for item in value]
            if not isinstance(value, str):
                return value
            if (whole := _PLACEHOLDER.fullmatch(value)) and whole[1] in chosen:
                return chosen[whole[1]]
            return _PLACEHOLDER.sub(lambda match: str(chosen.get(match[1], match[0])), value)

        data = fill({key: value for key, value in located.data.items() if key != "sweep"})
        if data.get("name") == located.data.get("name"):
            data["name"] = "_".join([str(data.get("name", "unnamed")), *(f"{k}{v}" for k, v in chosen.items())])
        combination = " ".join(f"{key}={value}" for key, value in chosen.items())
        yield Variant(Located(data, located.source, located.lines, list(located.problems)), combination)
