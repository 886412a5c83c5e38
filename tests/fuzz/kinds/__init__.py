"""One file a kind of input; each has a ``KIND``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from tests.fuzz.search import Kind


def load_kinds() -> dict[str, Kind[Any]]:
    """Every kind, by its name."""
    modules = [importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__)]
    return {module.KIND.name: module.KIND for module in modules if hasattr(module, "KIND")}
