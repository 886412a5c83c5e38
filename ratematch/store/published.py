"""What a published copy of a results folder says of itself: its ``published.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ratematch.store import layout
from ratematch.store.files import read_value, write_json

WHAT = (
    "A copy of a results folder to hand around, made by `ratematch export results --publish`: the same figures, "
    "without names of people, machines and places."
)


@dataclass(frozen=True)
class Published:
    """``what`` it is; ``ratematch``: version that made it; ``about``: in the words of who published it. ``origins``
    of its figures, and how many finished ``loads`` it has; ``records``: those whose requests are in it, as
    ``<experiment>/<load>``. ``left_out``: kinds of files that are not in it, with their number; ``replaced``: names
    that became pseudonyms, by kind, each counted once."""

    ratematch: str
    origins: tuple[str, ...] = ()
    loads: int = 0
    records: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    replaced: Mapping[str, int] = field(default_factory=dict)
    about: str = ""
    what: str = WHAT


def from_json(content: Mapping[str, Any]) -> Published:
    """Raises ValueError when the content is not that of a ``published.json``."""
    return msgspec.convert(dict(content), Published)


def write_published(folder: Path, published: Published) -> None:
    """Keep what the published results folder ``folder`` says of itself."""
    write_json(folder / layout.PUBLISHED, asdict(published))


def read_published(folder: Path) -> Published | None:
    """What the results folder ``folder`` says of itself; ``None`` for one that was measured where it lies.

    Raises:
        DamagedFile: the file is not what it should be.
    """
    file = folder / layout.PUBLISHED
    return read_value(file, from_json) if file.exists() else None
