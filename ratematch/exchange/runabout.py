"""What files of other tools say about a run beside its records."""

from __future__ import annotations

from dataclasses import dataclass

import ratematch
from ratematch.measure.metrics import Since
from ratematch.plan.load import Concurrency, Load


@dataclass(frozen=True)
class RunAbout:
    """One load, as an exported file describes it.

    ``wall_offset_ns``: wall clock (Unix epoch) minus the records' monotonic clock, ns. ``emulated``: no GPU stood
    behind the figures; every exported file says so in a key of its own.
    """

    model: str
    url: str
    load: Load
    api: str = "completions"
    wall_offset_ns: int = 0
    emulated: bool = False

    @property
    def since(self) -> Since:
        """Where latencies start: at the send in closed loop, at the intended instant in open loop."""
        return "sent" if isinstance(self.load, Concurrency) else "intended"

    @property
    def origin(self) -> dict[str, object]:
        """Keys that no other tool writes: where the figures come from."""
        return {"source": f"ratematch {ratematch.__version__}", "emulated": self.emulated, "clock_starts": self.since}
