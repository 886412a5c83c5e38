"""By what emulated servers are known from outside, of whichever engine: nobody takes their figures for real ones."""

from __future__ import annotations

EMULATED_HEADER = "X-Ratematch-Emulated"
"""In every answer of the emulator that it writes itself."""

EMULATED_ENDPOINT = "ratematch_emulated"
"""Endpoint that emulated workers of Dynamo have beside ``generate``: its frontends list it in ``/health``."""

EMULATED_INFO = "server_info"
"""Route, under ``/engine`` of the system port of an emulated worker of Dynamo, at which it describes itself."""

EMULATED_ID = "ratematch-emulated"
"""The name under which an emulated Triton server goes; its answers have no such header."""
