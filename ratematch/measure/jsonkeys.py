"""Keys that a stored JSON object may lack, because an earlier version wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

SEPARATOR = "\0"
"""Between the keys of a path: keys are names of servers and addresses too, which hold dots."""


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
