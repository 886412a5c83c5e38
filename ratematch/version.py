"""The version, in a file of its own: whoever needs it need not import the whole package's front door."""

from __future__ import annotations

__version__ = "0.2.0"
