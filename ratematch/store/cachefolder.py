"""Where things are kept for a user that belong to no results folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Where schemas are kept; ``None`` for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if given.startswith("/"):  # the XDG specification has others ignored
        return Path(given) / "ratematch" / "schemas"
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "ratematch" / "schemas"
    return None
