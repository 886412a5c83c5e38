"""Values made of dataclasses as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


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


def parts_of(value: Any) -> Mapping[str, Any] | None:
    """What :func:`plain` makes an object of, by name and as it is: a mapping, or the fields of a dataclass; ``None``
    for any other value."""
    kind = type(value)
    if kind in SCALARS:
        return None
    if (names := _field_names(kind)) is not None:
        return {name: getattr(value, name) for name in names}
    return value if isinstance(value, Mapping) else None


SCALARS = frozenset((str, int, float, bool, type(None)))


_NAMES: dict[type, tuple[str, ...] | None] = {}


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Of a dataclass; ``None`` for any other type."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None
    return _NAMES[kind]
