"""Keys that a stored JSON object may lack, because an earlier version wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

SEPARATOR = "\0"
"""Between the keys of a path: keys are names of servers and addresses too, which hold dots."""


def plain(value: Any) -> Any:
    """A value made of dataclasses, mappings and sequences as JSON has them.

    As ``dataclasses.asdict``, with lists in place of tuples and without its deep copies. (msgspec's ``to_builtins``
    leaves out fields that msgspec itself filled with their defaults.)
    """
    kind = type(value)
    if kind in SCALARS:
        return value
    if (names := _field_names(kind)) is not None:
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


SCALARS = frozenset((str, int, float, bool, type(None)))


_NAMES: dict[type, tuple[str, ...] | None] = {}


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Of a dataclass; ``None`` for any other type."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None
    return _NAMES[kind]


def absent_keys(stored: Mapping[str, Any], complete: Mapping[str, Any], path: str = "") -> frozenset[str]:
    """Paths of the keys that ``complete`` has and ``stored`` has not, at any depth."""
    absent: set[str] = set()
    for key, value in complete.items():
        if key not in stored:
            absent.add(path + key)
        elif isinstance(value, Mapping) and isinstance(stored[key], Mapping):
            absent |= absent_keys(stored[key], value, f"{path}{key}{SEPARATOR}")
    return frozenset(absent)


def without(complete: Mapping[str, Any], absent: Set[str], path: str = "") -> dict[str, Any]:
    """``complete`` without the keys at the paths ``absent``."""
    return {
        key: without(value, absent, f"{path}{key}{SEPARATOR}") if isinstance(value, Mapping) and absent else value
        for key, value in complete.items()
        if path + key not in absent
    }
