"""Which GPUs the tok/s/GPU of a point is over: three answers, each named, never mixed on one front."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratematch.match.matching import Objective
from ratematch.match.packing import Packing, allocated_gpus, count_nodes
from ratematch.match.points import Point
from ratematch.plan.deployment import Deployment

COUNTED: dict[Objective, str] = {
    "per_used_gpu": "GPUs in use (ctx + gen, or aggregated)",
    "per_allocated_gpu": "all GPUs of the nodes taken",
    "tok_s_in_budget": "all GPUs of the budget",
}
OVER_BUDGET = "over the budget"


@dataclass(frozen=True)
class Counting:
    """``objective`` with what it takes to count: the GPUs of the budget and the nodes.

    ``per_allocated_gpu`` needs ``packing``; without it used GPUs are taken.
    """

    objective: Objective = "per_used_gpu"
    max_gpus: int = 0
    packing: Packing | None = None

    @property
    def unit(self) -> float:
        """What a score of the solver (tok/s, or tok/s/GPU) is divided by to be tok/s/GPU."""
        return float(self.max_gpus) if self.objective == "tok_s_in_budget" else 1.0

    def recount(self, point: Point, deployment: Deployment) -> Point:
        """A measured ``point`` of ``deployment`` over the GPUs that count.

        Of a budget whole copies are filled; on nodes aggregated servers stand side by side, as many as fit.
        """
        if self.objective == "per_used_gpu":
            return point
        flags = point.flags
        if self.objective == "tok_s_in_budget":
            copies = self.max_gpus // point.gpus
            counted = self.max_gpus / max(1, copies)
            if not copies:
                flags += (f"{OVER_BUDGET} of {self.max_gpus} GPUs",)
        else:
            counted = self._allocated(deployment)
        scale = point.gpus / counted
        return replace(
            point,
            flags=flags,
            tok_s_gpu=point.tok_s_gpu * scale,
            tok_s_gpu_low=None if point.tok_s_gpu_low is None else point.tok_s_gpu_low * scale,
            tok_s_gpu_high=None if point.tok_s_gpu_high is None else point.tok_s_gpu_high * scale,
        )

    def _allocated(self, deployment: Deployment) -> float:
        if self.packing is None:
            return deployment.gpus
        per_node, ctx, gen = self.packing.gpus_per_node, deployment.ctx, deployment.gen
        if ctx and gen:
            return per_node * count_nodes(
                ctx.mapping.gpus, ctx.instances, gen.mapping.gpus, gen.instances, self.packing
            )
        return allocated_gpus(deployment.gpus, self.packing)
