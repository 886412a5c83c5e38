"""Batch and token limits of a server where the sweep file leaves them open."""

from __future__ import annotations

from dataclasses import replace

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.workload import Workload


def with_limits(group: ServerGroup, workload: Workload, in_flight: int) -> ServerGroup:
    """``group`` with the batch and token limits that were left open.

    ``in_flight``: requests one instance must hold. Sequence slots are rounded up to a power of two, so that a
    slightly longer ladder does not make it a different deployment. gen: one step's tokens are slots x (MTP + 1)
    (242 of 330 public recipes). ctx and agg: whole prompts fit a step, 8,192 tokens at least (the engine's default).
    """
    slots = -(-in_flight // group.mapping.dp_ranks)
    match group.role:
        case "gen":
            batch = group.max_batch_size or _power_of_two(slots)
            tokens = batch * (group.mtp + 1)
        case "agg":
            batch = group.max_batch_size or _power_of_two(slots)
            tokens = max(8192, workload.isl + batch * (group.mtp + 1))
        case "ctx":
            # The engine refuses a prompt unless it fits together with the tokens it decodes next (contract, 3.8).
            tokens = max(8192, -(-(workload.isl + group.mtp + 1) // 64) * 64)
            batch = group.max_batch_size or max(1, (group.max_num_tokens or tokens) // workload.isl)
    return replace(group, max_batch_size=batch, max_num_tokens=group.max_num_tokens or tokens)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
