"""What an installed server says that it takes, as it was asked for it: text that each engine reads in its own way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class InstalledSchema:
    """``text``: JSON, as the engine's room put it together from what the installed package answered. ``image``: whose
    it is, in words. ``version``: of the package, ``None`` where it does not say."""

    text: str
    image: str
    version: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text, in hex: the name it is kept under."""
        return hashlib.sha256(self.text.encode()).hexdigest()
