"""Every option of an analysis, in one value that goes from the user to the solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from ratematch.match.matching import Objective
from ratematch.match.packing import Packing
from ratematch.match.servicetime import Routing
from ratematch.plan.load import Constraints, Percentile, TtftOf

T = TypeVar("T")

DRAWS = 200
"""Bootstrap draws: the ends of a 95 % interval then move by a few per cent of its width."""


@dataclass(frozen=True)
class Question:
    """The options of an analysis. ``None`` leaves an option to the sweep, see :meth:`filled_in`; once it is filled
    in, ``None`` is no limit."""

    ttft_ms: float | None = None
    """Most TTFT of a ctx server, or of a measured deployment, ms, at ``percentile``."""
    tpot_ms: float | None = None
    """Most TPOT of a plan after throttling, or of a measured deployment, ms, at ``percentile``."""
    percentile: Percentile | None = None
    """Where both limits are judged; the mean when nobody says."""
    max_gpus: int | None = None
    """GPUs of the largest deployment planned. Left out: all GPUs of ``nodes``, else those of the sweep."""
    calibrate: bool = False
    """Predict with the factors fitted to the end-to-end runs."""
    request_rate: float | None = None
    """Requests/s, Poisson arrivals, to find the smallest deployments for."""
    routing: Routing = "round_robin"
    """How open-loop requests reach ctx instances."""
    objective: Objective = "per_used_gpu"
    """Which GPUs tok/s/GPU is over."""
    gpus_per_node: int | None = None
    """Size of a node. Nodes are not counted where it is not known."""
    nodes: int | None = None
    """Most nodes of a plan."""
    share_nodes: bool = True
    """May ctx and gen instances stand on one node? They do where ratematch places them."""
    segment_gpus: int | None = None
    """Most GPUs of one instance: NVLink domain, rack or Slurm segment."""
    join_precisions: bool = False
    """Do figures of several precisions share fronts and pairs?"""
    draws: int = DRAWS
    """Bootstrap draws for the intervals, which exist where the noise of the rates is known; 0 leaves them out."""
    ttft_of: TtftOf | None = None
    """What the TTFT limit of a plan is held against; its ctx server measured alone when nobody says."""

    @property
    def constraints(self) -> Constraints:
        """The limits, and where they are judged."""
        return Constraints(self.ttft_ms, self.tpot_ms, self.percentile or "mean", self.ttft_of or "ctx")

    @property
    def packing(self) -> Packing | None:
        """The nodes to pack instances on; ``None`` when their size is not known."""
        return None if self.gpus_per_node is None else Packing(self.gpus_per_node, self.nodes, self.share_nodes)

    @property
    def budget_gpus(self) -> int:
        """``max_gpus`` of a question that is filled in.

        Raises:
            ValueError: nobody said how many GPUs a deployment may have.
        """
        if self.max_gpus is None:
            raise ValueError("a question needs max_gpus before it can be answered")
        return self.max_gpus

    def limits_only(self) -> Question:
        """The same limits and size, with every other option as nobody changed it."""
        return Question(self.ttft_ms, self.tpot_ms, self.percentile, self.max_gpus, ttft_of=self.ttft_of)

    @staticmethod
    def of(constraints: Constraints, max_gpus: int, draws: int = DRAWS) -> Question:
        """The question with these limits and this size, with every other option as nobody changed it."""
        ttft_ms, tpot_ms, percentile = constraints.ttft_ms, constraints.tpot_ms, constraints.percentile
        return Question(ttft_ms, tpot_ms, percentile, max_gpus, draws=draws, ttft_of=constraints.ttft_of)

    def filled_in(self, sweep: Question) -> Question:
        """This question, with what it leaves open as the ``sweep`` has it.

        The largest deployment is what fits ``nodes``, where they are given and ``max_gpus`` is not.
        """
        size = _first(self.gpus_per_node, sweep.gpus_per_node)
        on_nodes = self.nodes * size if self.nodes and size else None
        return replace(
            self,
            ttft_ms=_first(self.ttft_ms, sweep.ttft_ms),
            tpot_ms=_first(self.tpot_ms, sweep.tpot_ms),
            percentile=_first(self.percentile, sweep.percentile),
            ttft_of=_first(self.ttft_of, sweep.ttft_of),
            max_gpus=_first(self.max_gpus, on_nodes, sweep.max_gpus),
            gpus_per_node=size,
        )


def _first(*values: T | None) -> T | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)
