"""What a sweep file may ask of a serving stack: checked when the file is read, before any of its servers is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ratematch.plan.deployment import Deployment, Options

GenMode = Literal["gen_only_no_context", "gen_only", "gen_only_warmed"]
"""Who fills the KV cache of a generation server that is measured alone (:data:`ratematch.plan.experiment.Mode`)."""

ExpertSlots = Callable[[Options, int], int | None]
"""Options of a server and a model's experts to the expert slots of a layer: the experts, or more where a load
balancer keeps copies of some; ``None`` where only the start-up will tell."""


def one_slot_each(options: Options, experts: int) -> int | None:
    """No expert has copies."""
    return experts


BreakdownApart = Callable[[str, Deployment], bool]
"""A version and a deployment to: does collecting where the time of requests goes slow its servers, so that a load of
its own has to do it?"""


def never_apart(version: str, deployment: Deployment) -> bool:
    """Every load collects it, or there is nothing to collect."""
    return False


@dataclass(frozen=True)
class EngineFacts:
    """``versions``: release lines that can be rendered. ``gen_modes``: ways to measure generation servers alone, the
    usual one first. ``routers``: how its orchestrator can spread requests, the default first. ``expert_slots``: what
    expert parallelism must divide. ``breakdown_apart``: whether a breakdown takes a load of its own."""

    versions: tuple[str, ...]
    gen_modes: tuple[GenMode, ...]
    routers: tuple[str, ...]
    expert_slots: ExpertSlots = one_slot_each
    breakdown_apart: BreakdownApart = never_apart
