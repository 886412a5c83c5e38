"""Files of a results folder that cannot be used: each costs what it holds, and nothing else.

Whoever reads a folder to show it goes through :func:`readable`: it gives back what a file holds, or ``None``, and
keeps why in a list that the reader shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ratematch.errors import DamagedFile

Value = TypeVar("Value")


@dataclass(frozen=True)
class Damage:
    """One file that was left out. ``file``: which, below the results folder where it is in it; ``why``: in words.
    ``copied``: a folder that holds what another one does, so that nothing is lost with it."""

    file: Path
    why: str
    copied: bool = False

    def describe(self, below: Path) -> str:
        """One line, with the file as it is called in the results folder ``below``."""
        name = self.file.relative_to(below) if self.file.is_relative_to(below) else self.file
        return f"left out: {name}: {self.why}"


def readable(read: Callable[[], Value], damaged: list[Damage]) -> Value | None:
    """What ``read`` gives; ``None`` when its file is damaged, which is then in ``damaged``."""
    try:
        return read()
    except DamagedFile as error:
        damage = Damage(error.file, error.why)
        if damage not in damaged:
            damaged.append(damage)
        return None
