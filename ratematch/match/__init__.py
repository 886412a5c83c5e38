"""Figures to decisions: curves, ctx:gen ratio, fronts, gap, speed-up. Pure.

The room may be called: ``ratematch.match(results)`` is :func:`ratematch.match_results`, the name people look for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, results: Any, **limits: Any) -> Any:
        """``results.match(**limits)``: what is measured, matched; see :func:`ratematch.match_results`."""
        return results.match(**limits)


sys.modules[__name__].__class__ = _Room
