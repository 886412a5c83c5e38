"""What a sweep file may ask of a serving stack: checked when the file is read, before any of its servers is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GenMode = Literal["gen_only_no_context", "gen_only", "gen_only_warmed"]
"""Who fills the KV cache of a generation server that is measured alone (:data:`ratematch.plan.experiment.Mode`)."""


@dataclass(frozen=True)
class EngineFacts:
    """``versions``: release lines that can be rendered. ``gen_modes``: ways to measure generation servers alone, the
    usual one first. ``routers``: how its orchestrator can spread requests, the default first."""

    versions: tuple[str, ...]
    gen_modes: tuple[GenMode, ...]
    routers: tuple[str, ...]
