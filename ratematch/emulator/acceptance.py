"""How many draft tokens a step keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class DraftAcceptance:
    """Draws accepted drafts per sequence and step, reproducible from ``seed``.

    ``acceptance[k]``: probability that draft k + 1 is accepted given that the ones before were, so tokens per step
    are 1 + sum over k of the product of the first k on average. ``forced``: accepted drafts per step instead; its
    fraction is the probability of one more.

    ``rising``: P(at least k accepted) from the last draft to the first. ``mean``: tokens of a step. ``rng``: every
    step of a sequence takes one number of it.

    Raises:
        ValueError: fewer rates than drafts, or a rate outside [0, 1].
    """

    def __init__(self, mtp: int, acceptance: tuple[float, ...], forced: float | None, seed: int):
        rates = acceptance[:mtp]
        if forced is None and len(rates) < mtp:
            raise ValueError(f"mtp={mtp} needs {mtp} acceptance rates, got {len(rates)}")
        if not all(0 <= rate <= 1 for rate in rates) or (forced is not None and forced < 0):
            raise ValueError(f"acceptance rates {rates} (forced: {forced}) are not probabilities")
        self._mtp = mtp
        self.forced = None if forced is None else min(forced, float(mtp))
        self._at_least = np.cumprod(np.asarray(rates, dtype=float))  # P(at least k accepted), falling in k
        self.rising = self._at_least[::-1].copy()
        self.mean = 1 + (float(self._at_least.sum()) if self.forced is None else self.forced)
        self.rng = np.random.default_rng(seed)

    def draw(self, count: int) -> NDArray[np.int64]:
        """Tokens that a sequence gains in each of ``count`` steps: 1 + accepted drafts. Shape (count,)."""
        if not self._mtp:
            return np.ones(count, dtype=np.int64)
        luck = self.rng.random(count)
        if self.forced is not None:
            whole = int(self.forced)
            return np.asarray(1 + whole + (luck < self.forced - whole), dtype=np.int64)
        # As many are accepted as probabilities of "at least k" lie above the draw.
        return np.asarray(1 + self._mtp - self.rising.searchsorted(luck, side="right"), dtype=np.int64)

    def draw_until(self, tokens: int) -> tuple[NDArray[np.int64], int]:
        """Gains of as many steps as it takes to reach ``tokens``, shape (steps,), and by how much the last passes."""
        if not self._mtp:
            return np.ones(tokens, dtype=np.int64), 0
        gains = self.draw(1 + int(1.1 * tokens / self.mean))
        while (reached := gains.cumsum())[-1] < tokens:
            gains = np.concatenate([gains, self.draw(1 + int((tokens - int(reached[-1])) / self.mean))])
        steps = int(reached.searchsorted(tokens)) + 1
        return gains[:steps], int(reached[steps - 1]) - tokens
