"""How many nodes a deployment pays for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


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
        one = np.array([x], dtype=np.int64), np.array([y], dtype=np.int64)
        return int(_shared(size, ctx_gpus, gen_gpus).fewest(*one)[0])
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


def count_nodes_all(ctx_gpus: int, x: Ints, gen_gpus: int, y: Ints, packing: Packing) -> Ints:
    """:func:`count_nodes` for many (x, y) at once."""
    size = packing.gpus_per_node
    if packing.share_nodes and ctx_gpus <= size and gen_gpus <= size:
        return _shared(size, ctx_gpus, gen_gpus).fewest(x, y)
    return _nodes_of_all(size, ctx_gpus, x) + _nodes_of_all(size, gen_gpus, y)


def _nodes_of_all(size: int, gpus: int, instances: Ints) -> Ints:
    if gpus > size:
        return instances * -(-gpus // size)
    return -(-instances // (size // gpus))


class _Shared:
    """Nodes that carry both roles: the most ctx instances beside y gen instances, for each number of nodes.

    ``_rows[n][y]`` is that of n nodes, -1 where y do not fit; each row follows from the one before, by what the last
    node may hold.
    """

    def __init__(self, size: int, ctx_gpus: int, gen_gpus: int):
        self._size, self._ctx_gpus, self._gen_gpus = size, ctx_gpus, gen_gpus
        self._rows: list[Ints] = []
        self._start(64)

    def _start(self, most_y: int) -> None:
        first = np.full(most_y + 1, -1, dtype=np.int64)
        first[0] = 0
        self._rows = [first]
        self._by_y = first[:, None]

    def _grow(self) -> None:
        last = self._rows[-1]
        row = np.full_like(last, -1)
        for here in range(min(last.size - 1, self._size // self._gen_gpus) + 1):
            more = (self._size - here * self._gen_gpus) // self._ctx_gpus
            rest = last[: last.size - here]
            np.maximum(row[here:], np.where(rest >= 0, rest + more, -1), out=row[here:])
        self._rows.append(row)

    def fewest(self, x: Ints, y: Ints) -> Ints:
        """Fewest nodes for each (x, y)."""
        nodes = np.zeros(x.size, dtype=np.int64)
        if not x.size:
            return nodes
        if int(y.max()) >= self._rows[0].size:
            self._start(max(int(y.max()), 2 * self._rows[0].size))
        most = np.full(self._rows[0].size, -1, dtype=np.int64)
        np.maximum.at(most, y, x)
        while bool(np.any(self._rows[-1] < most)):
            self._grow()
        if self._by_y.shape[1] != len(self._rows):
            self._by_y = np.stack(self._rows, axis=1)
        order = np.argsort(y, kind="stable")
        bounds = np.flatnonzero(np.diff(y[order])) + 1
        for part in np.split(order, bounds):
            nodes[part] = np.searchsorted(self._by_y[y[part[0]]], x[part], side="left")
        return nodes


@lru_cache(maxsize=64)
def _shared(size: int, ctx_gpus: int, gen_gpus: int) -> _Shared:
    return _Shared(size, ctx_gpus, gen_gpus)
