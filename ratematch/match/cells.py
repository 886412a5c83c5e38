"""The (x, y) of two instance sizes within a budget as arrays: whole, or block by block where there are millions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ratematch.match.packing import Packing, count_nodes_all

Ints = NDArray[np.int64]

MOST_KEPT = 20_000
"""So many cells are kept for the next call; more are made again."""

BLOCK = 100_000
"""Cells held at a time: memory, not results."""


@dataclass(frozen=True)
class Cells:
    """Every (x, y) of two instance sizes, ordered by y then x; whole nodes and the GPUs on them are paid for."""

    x: Ints
    y: Ints
    gpus: Ints
    nodes: Ints
    gpus_allocated: Ints

    @property
    def size(self) -> int:
        return int(self.x.size)

    def take(self, which: NDArray[np.bool_] | Ints) -> Cells:
        """The cells at these indices, or where a mask is true."""
        return Cells(self.x[which], self.y[which], self.gpus[which], self.nodes[which], self.gpus_allocated[which])


@dataclass(frozen=True)
class Budget:
    """Instances of ``ctx_gpus`` and of ``gen_gpus`` GPUs on ``max_gpus``, and on the nodes of ``packing``.

    ``coprime``: without the cells that are copies of a smaller one.
    """

    ctx_gpus: int
    gen_gpus: int
    max_gpus: int
    packing: Packing | None = None
    coprime: bool = False

    def count(self) -> int:
        """How many (x, y) fit the GPUs; nodes and copies left out of account."""
        most = self.max_gpus // self.gen_gpus
        y = np.arange(1, most + 1, dtype=np.int64)
        return int(np.maximum(0, (self.max_gpus - y * self.gen_gpus) // self.ctx_gpus).sum())


@lru_cache(maxsize=64)
def sample_cells(budget: Budget) -> Cells:
    """Some thousand cells of ``budget`` from its whole range, close together where instances are few; copies too."""
    most = budget.max_gpus // budget.gen_gpus
    picked: list[tuple[int, int]] = []
    for y in _spread(most):
        width = (budget.max_gpus - y * budget.gen_gpus) // budget.ctx_gpus
        picked += [(x, y) for x in _spread(width)]
    columns = [np.array([pair[side] for pair in picked], dtype=np.int64) for side in (0, 1)]
    return _with_nodes(budget, *columns)


@lru_cache(maxsize=4096)
def _spread(most: int) -> list[int]:
    """Whole numbers from 1 to ``most``: the first, then ever farther apart, and evenly spaced ones."""
    if most < 1:
        return []
    numbers = np.concatenate([np.arange(1, 25), np.geomspace(1, most, 30), np.linspace(1, most, 20)])
    return sorted({int(number) for number in numbers if number <= most} | {most})


def blocks(budget: Budget) -> Iterator[Cells]:
    """All cells of ``budget`` in their order, some ``BLOCK`` at a time."""
    y = np.arange(1, budget.max_gpus // budget.gen_gpus + 1, dtype=np.int64)
    widths = np.maximum(0, (budget.max_gpus - y * budget.gen_gpus) // budget.ctx_gpus)
    y, widths = y[widths > 0], widths[widths > 0]
    first = 0
    while first < y.size:
        last = max(first + 1, int(np.searchsorted(np.cumsum(widths[first:]), BLOCK, side="right")) + first)
        yield _tabulate(budget, y[first:last], widths[first:last])
        first = last


def _tabulate(budget: Budget, rows: Ints, widths: Ints) -> Cells:
    """The cells of these y, each with x from 1 to its width."""
    y = np.repeat(rows, widths)
    x = np.arange(1, y.size + 1, dtype=np.int64) - np.repeat(np.cumsum(widths) - widths, widths)
    if budget.coprime:
        kept = np.gcd(x, y) == 1
        x, y = x[kept], y[kept]
    return _with_nodes(budget, x, y)


def _with_nodes(budget: Budget, x: Ints, y: Ints) -> Cells:
    """What the cells take, without those that the nodes cannot carry."""
    gpus = x * budget.ctx_gpus + y * budget.gen_gpus
    packing = budget.packing
    if packing is None:
        return Cells(x, y, gpus, np.zeros_like(gpus), gpus)
    nodes = count_nodes_all(budget.ctx_gpus, x, budget.gen_gpus, y, packing)
    cells = Cells(x, y, gpus, nodes, nodes * packing.gpus_per_node)
    return cells if packing.nodes is None else cells.take(nodes <= packing.nodes)


def tabulate_cells(
    ctx_gpus: int, gen_gpus: int, max_gpus: int, packing: Packing | None = None, coprime: bool = False
) -> Cells:
    """All cells at once. ``coprime``: without those that are copies of a smaller one. ``nodes`` is 0 and
    ``gpus_allocated`` the used GPUs without ``packing``."""
    budget = Budget(ctx_gpus, gen_gpus, max_gpus, packing, coprime)
    return _kept(budget) if budget.count() <= MOST_KEPT else _whole(budget)


@lru_cache(maxsize=256)
def _kept(budget: Budget) -> Cells:
    return _whole(budget)


def _whole(budget: Budget) -> Cells:
    parts = list(blocks(budget))
    none: Ints = np.zeros(0, dtype=np.int64)
    if not parts:
        return Cells(none, none, none, none, none)
    columns = ("x", "y", "gpus", "nodes", "gpus_allocated")
    return Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
