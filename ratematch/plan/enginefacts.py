"""What a sweep file may ask of a serving stack: checked when the file is read, before any of its servers is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ratematch.plan.deployment import Deployment, Options
from ratematch.plan.experiment import EngineRef
from ratematch.plan.numbers import shorten
from ratematch.plan.parallelism import Parallelism

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


IdleOptions = Callable[[Options, Parallelism], Mapping[str, str]]
"""Options of a server and its parallelism to those of them, by dotted path, that change nothing there, and why."""


def none_idle(options: Options, mapping: Parallelism) -> Mapping[str, str]:
    """Every option counts with every parallelism."""
    return {}


FillMargin = Callable[[str], int]
"""A version to the sequence slots a rank that its attention-DP router needs beyond a batch that is filled exactly."""


def no_margin(version: str) -> int:
    """A batch may be filled to its last slot."""
    return 0


WhyNotForced = Callable[[EngineRef, float], str | None]
"""An engine and tokens of a decoding step to why its servers cannot be forced to accept so many drafts; ``None``
where they can."""


def never_forced(engine: EngineRef, tokens: float) -> str | None:
    """It has no such setting."""
    return f"{engine.name} has nothing that forces how many drafts are accepted: leave it out"


class WrongSetting(NamedTuple):
    """What is wrong with one of an engine's own keys. ``path``: of the key, below ``engine``."""

    path: tuple[str, ...]
    what: str
    fix: str = ""


ReadSettings = Callable[[str, Options], Options | list[WrongSetting]]
"""A version and the keys beside ``name`` and ``version`` to all settings, with every default filled in, or to what is
wrong with them. ``backend`` and ``backend_version`` of the result are what computes in the workers."""


def no_settings(version: str, given: Options) -> Options | list[WrongSetting]:
    """The engine has none."""
    fix = "valid keys: name, version"
    return [WrongSetting((name,), f"unknown key {shorten(name)}", fix) for name in given] or {}


@dataclass(frozen=True)
class EngineFacts:
    """``versions``: release lines that can be rendered. ``gen_modes``: ways to measure generation servers alone, the
    usual one first. ``routers``: how its orchestrator can spread requests, the default first. ``expert_slots``: what
    expert parallelism must divide. ``idle_options``: what an axis need not be multiplied with. ``fill_margin``: of
    servers in mode ``gen_only``, which wait until their batch is full. ``reads_version``: takes a version, where the
    engine names them in ways of its own. ``breakdown_apart``: whether a breakdown takes a load of its own.
    ``read_settings``: the engine's own keys beside ``name`` and ``version``. ``router_hint``: where the
    routers are chosen that stand elsewhere. ``why_not_forced``: whether drafts can be accepted by force."""

    versions: tuple[str, ...]
    gen_modes: tuple[GenMode, ...]
    routers: tuple[str, ...]
    expert_slots: ExpertSlots = one_slot_each
    idle_options: IdleOptions = none_idle
    fill_margin: FillMargin = no_margin
    reads_version: Callable[[str], bool] | None = None
    breakdown_apart: BreakdownApart = never_apart
    read_settings: ReadSettings = no_settings
    router_hint: str = ""
    why_not_forced: WhyNotForced = never_forced

    def has_version(self, text: str) -> bool:
        """Is ``text`` one of the release lines, or a version of one? ``1.2.1`` and ``1.3.0rc17`` are of 1.2 and
        1.3."""
        if self.reads_version is not None:
            return self.reads_version(text)
        lines = self.versions
        return text in lines or any(re.fullmatch(rf"v?{re.escape(line)}\.\d+\w*(\.\w+)*", text) for line in lines)
