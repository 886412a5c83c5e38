"""What a sweep was run with, as far as its results folder keeps it: ``limits.json`` and ``controller.json``.

A key that this version does not know is ignored; a limit that is not in a file is no limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from ratematch.plan.load import Constraints, Percentile, TtftOf


@dataclass(frozen=True)
class SweepLimits:
    """What an analysis needs of the sweep file: its ``name``, the largest deployment to plan for (``max_gpus``), and
    the limits in ms of TTFT and TPOT, judged at ``percentile``; ``ttft_of``: see
    :class:`ratematch.plan.load.Constraints`."""

    name: str
    max_gpus: int
    ttft_ms: int | float | None = None
    tpot_ms: int | float | None = None
    percentile: Percentile = "mean"
    ttft_of: TtftOf = "ctx"

    @staticmethod
    def of(name: str, constraints: Constraints, max_gpus: int) -> SweepLimits:
        limits = constraints
        return SweepLimits(name, max_gpus, limits.ttft_ms, limits.tpot_ms, limits.percentile, limits.ttft_of)

    @property
    def constraints(self) -> Constraints:
        return Constraints(self.ttft_ms, self.tpot_ms, self.percentile, self.ttft_of)


@dataclass(frozen=True)
class ControllerPlan:
    """What a controller began with. ``began``: Unix time. ``budget_gpu_hours``: what it may spend, ``None`` = as many
    as it takes. ``expected_gpu_hours`` and ``expected_minutes``: ``None`` where they cannot be estimated."""

    began: float
    executor: str
    budget_gpu_hours: float | None = None
    expected_gpu_hours: float | None = None
    expected_minutes: float | None = None


def to_json(value: SweepLimits | ControllerPlan) -> dict[str, Any]:
    """As the value's file holds it. A limit that is held against ctx servers, as all were before there was another,
    needs no word."""
    content = asdict(value)
    if content.get("ttft_of") == "ctx":
        del content["ttft_of"]
    return content


def limits_from_json(content: Mapping[str, Any]) -> SweepLimits:
    """Raises ValueError when the content is not that of a ``limits.json``."""
    return msgspec.convert(dict(content), SweepLimits)


def plan_from_json(content: Mapping[str, Any]) -> ControllerPlan:
    """Raises ValueError when the content is not that of a ``controller.json``."""
    return msgspec.convert(dict(content), ControllerPlan)
