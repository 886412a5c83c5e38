"""One derived key of a server's configuration, and why it has its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """``key``: dotted path in the engine's file. ``why``: the rule in words, with the arithmetic where there is any.

    ``given``: the sweep file says so itself (an option, an explicit limit); ``why`` then says what it replaces.
    """

    key: str
    value: Any
    why: str
    given: bool = False


@dataclass(frozen=True)
class Explained:
    """The whole configuration of one kind of server. ``label``: ``gen DEP8 mtp=3 8192/1024``."""

    label: str
    settings: tuple[Setting, ...]
