"""Figures to decisions: curves, ctx:gen ratio, fronts, gap, speed-up. Pure.

The room may be called: ``ratematch.match(results)`` is :func:`ratematch.match_results`, the name people look for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    """The module, with a call.

    ``ratematch.match`` names two things of the public API: this room, and the function of notebooks. As soon as any
    module of the room is imported, Python binds the room to that name in the package, over whatever the package has
    there, and a module is called by its class alone. Two names instead would break one of the two promises.
    """

    def __call__(self, results: Any, **limits: Any) -> Any:
        """``results.match(**limits)``: what is measured, matched; see :func:`ratematch.match_results`."""
        return results.match(**limits)


sys.modules[__name__].__class__ = _CallableRoom
