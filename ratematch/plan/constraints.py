"""What a deployment must keep to be worth showing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Percentile = Literal["mean", 50, 90, 95, 99]


@dataclass(frozen=True)
class Constraints:
    """Limits in ms at ``percentile`` of the requests; ``None`` = no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    percentile: Percentile = "mean"
