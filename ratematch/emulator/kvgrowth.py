"""What the sequences of a server will add to its KV caches, rank by rank and iteration by iteration.

How a sequence decodes is known when it begins to, so its share of every iteration to come is entered once, and an
iteration of any number of sequences on any number of ranks is one look-up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_FIRST_SIZE = 256


class KvGrowth:
    """Tokens and KV blocks that are added in iteration ``base``, ``base + 1``, ... by sequences that now decode."""

    def __init__(self, ranks: int) -> None:
        self._base = 0
        self._growth = np.zeros((ranks, 2, _FIRST_SIZE), dtype=np.int64)

    def enter(
        self, rank: int, first_iter: int, gains: Ints, kv_len: int, tokens_per_block: int, sign: int = 1
    ) -> None:
        """A sequence of ``kv_len`` cached tokens on ``rank`` gains ``gains[k]`` in iteration ``first_iter + k``.

        ``sign`` -1 takes it back. Iterations before ``first_iter`` are over, on all ranks, and may be forgotten.
        """
        start = first_iter - self._base
        if start + gains.size > self._growth.shape[2]:
            start = self._make_room(first_iter, gains.size)
        tokens, blocks = self._growth[rank, :, start : start + gains.size]
        filled = gains.cumsum()
        filled += kv_len + tokens_per_block - 1
        filled //= tokens_per_block  # blocks that are in use after each iteration
        before = -(-kv_len // tokens_per_block)
        if sign > 0:
            tokens += gains
            blocks += filled
            blocks[1:] -= filled[:-1]
        else:
            tokens -= gains
            blocks -= filled
            blocks[1:] += filled[:-1]
        blocks[0] -= sign * before

    def read(self, iteration: int, count: int) -> Ints:
        """Tokens and blocks added on each rank, in ``count`` iterations from ``iteration``.

        Shape (ranks, 2, count); of what is kept here, not a copy.
        """
        start = iteration - self._base
        if start + count > self._growth.shape[2]:
            start = self._make_room(iteration, count)
        return self._growth[:, :, start : start + count]

    def _make_room(self, first_iter: int, size: int) -> int:
        """Forget what is over, grow when that is not enough; where ``first_iter`` is now."""
        left = self._growth[:, :, max(0, first_iter - self._base) :]
        wide = max(self._growth.shape[2], 2 * max(size, left.shape[2]))
        self._growth = np.zeros((*left.shape[:2], wide), dtype=np.int64)
        self._growth[:, :, : left.shape[2]] = left
        self._base = first_iter
        return 0
