"""Keys that a stored JSON object may lack, because an earlier version wrote it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set
from typing import Any

from ratematch.plan.plain import SCALARS, parts_of

SEPARATOR = "\0"
"""Between the keys of a path: keys are names of servers and addresses too, which hold dots."""


LEAVES = SCALARS | {tuple, list}
"""Types of values without keys."""


def absent_keys(stored: Mapping[str, Any], complete: Mapping[str, Any], path: str = "") -> frozenset[str]:
    """Paths of the keys that ``complete`` has and ``stored`` has not, at any depth. A dataclass in ``complete``
    stands for the object that it is written as."""
    absent: set[str] = set()
    if not complete.keys() <= stored.keys():
        absent = {path + key for key in complete.keys() - stored.keys()}
    for key, value in complete.items():
        if type(value) in LEAVES:
            continue
        below = stored.get(key)
        if (type(below) is dict or isinstance(below, Mapping)) and (parts := parts_of(value)):
            absent |= absent_keys(below, parts, f"{path}{key}{SEPARATOR}")
    return frozenset(absent) if path else _shared(frozenset(absent))


@functools.lru_cache(1024)
def _shared(absent: frozenset[str]) -> frozenset[str]:
    """The same object for equal sets: files of one version lack the same keys, thousands of times."""
    return absent


def without(complete: Mapping[str, Any], absent: Set[str], path: str = "") -> dict[str, Any]:
    """``complete`` without the keys at the paths ``absent``."""
    return {
        key: without(value, absent, f"{path}{key}{SEPARATOR}") if isinstance(value, Mapping) and absent else value
        for key, value in complete.items()
        if path + key not in absent
    }
