"""One thing looked at before anything runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """``name`` was looked at. ``found`` says what is there and, when it is not ``ok``, what would be right."""

    name: str
    ok: bool
    found: str
