"""How many nodes a deployment pays for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Packing:
    """Nodes of ``gpus_per_node``; at most ``nodes`` of them (``None`` = any number).

    An instance that fits a node stays inside one; a larger one takes whole nodes. ``share_nodes``: may ctx and gen
    instances stand on the same node.
    """

    gpus_per_node: int
    nodes: int | None = None
    share_nodes: bool = False


def count_nodes(ctx_gpus: int, x: int, gen_gpus: int, y: int, packing: Packing) -> int:
    """Fewest nodes for ``x`` ctx instances of ``ctx_gpus`` GPUs and ``y`` gen instances of ``gen_gpus``. Exact."""
    size = packing.gpus_per_node
    if packing.share_nodes and ctx_gpus <= size and gen_gpus <= size:
        return _fewest_shared(size, ctx_gpus, x, gen_gpus, y)
    return _nodes_of(size, ctx_gpus, x) + _nodes_of(size, gen_gpus, y)


def allocated_gpus(gpus: int, packing: Packing) -> float:
    """GPUs that one server of ``gpus`` pays for, with copies of it side by side: its share of a node, or whole nodes.

    Three on a node of eight stand there twice and pay for 4 each; six stand alone and pay for all 8.
    """
    size = packing.gpus_per_node
    return size / (size // gpus) if gpus <= size else float(-(-gpus // size) * size)


def _nodes_of(size: int, gpus: int, instances: int) -> int:
    if gpus > size:
        return instances * -(-gpus // size)
    return -(-instances // (size // gpus))


def _fewest_shared(size: int, ctx_gpus: int, x: int, gen_gpus: int, y: int) -> int:
    nodes = -(-(x * ctx_gpus + y * gen_gpus) // size)
    while _most_ctx(size, ctx_gpus, gen_gpus, nodes, y) < x:
        nodes += 1
    return nodes


@lru_cache(maxsize=65536)
def _most_ctx(size: int, ctx_gpus: int, gen_gpus: int, nodes: int, y: int) -> int:
    """Most ctx instances beside ``y`` gen instances on ``nodes`` nodes; -1 when the gen instances do not fit."""
    if nodes == 0:
        return 0 if y == 0 else -1
    best = -1
    for here in range(min(y, size // gen_gpus) + 1):
        rest = _most_ctx(size, ctx_gpus, gen_gpus, nodes - 1, y - here)
        if rest >= 0:
            best = max(best, rest + (size - here * gen_gpus) // ctx_gpus)
    return best
