"""Values made of dataclasses as JSON has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any


def plain(value: Any) -> Any:
    """A value made of dataclasses, mappings and sequences as JSON has them.

    As ``dataclasses.asdict``, with lists in place of tuples and without its deep copies. (msgspec's ``to_builtins``
    leaves out fields that msgspec itself filled with their defaults.)
    """
    kind = type(value)
    if kind in SCALARS:
        return value
    if (known := _fields_of(kind)) is not None:
        names, read = known
        return {
            name: part if type(part) in SCALARS else plain(part)
            for name, part in zip(names, read(value), strict=True)
        }
    if isinstance(value, Mapping):
        return {key: part if type(part) in SCALARS else plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [part if type(part) in SCALARS else plain(part) for part in value]
    return value


def parts_of(value: Any) -> Mapping[str, Any] | None:
    """What :func:`plain` makes an object of, by name and as it is: a mapping, or the fields of a dataclass; ``None``
    for any other value."""
    kind = type(value)
    if kind in SCALARS:
        return None
    if (known := _fields_of(kind)) is not None:
        names, read = known
        return dict(zip(names, read(value), strict=True))
    return value if isinstance(value, Mapping) else None


SCALARS = frozenset((str, int, float, bool, type(None)))

Fields = tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]
"""Names, and what reads all of their values at once."""


_FIELDS: dict[type, Fields | None] = {}


def _fields_of(kind: type) -> Fields | None:
    """Of a dataclass; ``None`` for any other type."""
    if kind not in _FIELDS:
        _FIELDS[kind] = _read_all(tuple(field.name for field in fields(kind))) if is_dataclass(kind) else None
    return _FIELDS[kind]


def _read_all(names: tuple[str, ...]) -> Fields:
    if len(names) > 1:
        return names, attrgetter(*names)
    return names, lambda value: tuple(getattr(value, name) for name in names)
