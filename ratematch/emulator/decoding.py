"""The sequences of a server that generate.

How a sequence decodes is drawn when it begins to, so from then on it is known what it adds when, and when it ends.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.acceptance import DraftAcceptance
from ratematch.emulator.iteration import SchedulerConfig, Sequence
from ratematch.emulator.kvgrowth import KvGrowth
from ratematch.emulator.lookahead import step_times_ahead
from ratematch.emulator.rank import Rank
from ratematch.emulator.steptime import RankLoad, StepTime


class Decoding:
    """What is generated in which iteration, on all ranks. ``acceptance``: where drafts are drawn."""

    def __init__(self, config: SchedulerConfig, seed: int):
        self._block = config.tokens_per_block
        self._overlap = config.overlap
        self.acceptance = DraftAcceptance(config.mtp, config.acceptance, config.forced_acceptance, seed)
        self._growth = KvGrowth(config.mapping.dp_ranks)
        self._ending: dict[int, list[Sequence]] = {}  # by their last iteration
        self._ends: list[int] = []  # heap of these iterations; those that nothing ends in any more stay until met

    def start(self, rank: Rank, seq: Sequence, first_iter: int) -> None:
        """Draw how ``seq`` decodes, from ``first_iter`` on."""
        left = seq.max_tokens - seq.generated
        gains, beyond = self.acceptance.draw_until(max(1, left))
        seq.surplus = beyond + max(1, left) - left
        gains[-1] -= seq.surplus
        seq.state, seq.gains = "decode", gains
        seq.first_iter = first_iter
        seq.last_iter = first_iter + gains.size - 1
        rank.gen[seq] = None
        rank.kv_read += seq.kv_len
        self._growth.enter(seq.rank, first_iter, gains, seq.kv_len, self._block)
        ending = self._ending.get(seq.last_iter)
        if ending is None:
            self._ending[seq.last_iter] = [seq]
            heapq.heappush(self._ends, seq.last_iter)
        else:
            ending.append(seq)

    def stop(self, rank: Rank, seq: Sequence, next_iter: int) -> None:
        """Take a sequence out in the middle: ``next_iter`` is the first that it gains nothing from."""
        assert seq.gains is not None
        gone = max(0, next_iter - seq.first_iter)
        had = int(seq.gains[:gone].sum())
        del rank.gen[seq]
        seq.kv_len += had
        seq.generated += had
        rank.kv_read -= seq.kv_len
        self._growth.enter(seq.rank, seq.first_iter + gone, seq.gains[gone:], seq.kv_len, self._block, sign=-1)
        ending = self._ending[seq.last_iter]
        ending.remove(seq)
        if not ending:
            del self._ending[seq.last_iter]

    def ended_in(self, iteration: int) -> dict[int, list[Sequence]]:
        """Sequences that ended in this iteration, by rank; each is returned once."""
        by_rank: dict[int, list[Sequence]] = {}
        for seq in self._ending.pop(iteration, ()):
            by_rank.setdefault(seq.rank, []).append(seq)
        return by_rank

    def added(self, iteration: int, count: int) -> list[list[int]]:
        """Tokens and KV blocks that ``count`` iterations from ``iteration`` add on each rank. Shape (ranks, 2)."""
        growth = self._growth.read(iteration, count)
        added: list[list[int]] = (growth[:, :, 0] if count == 1 else growth.sum(axis=2)).tolist()
        return added

    def ends_ahead(
        self,
        iteration: int,
        most: int,
        loads: tuple[RankLoad, ...],
        begin_s: float,
        first_s: float,
        change_s: float | None,
        step_time: StepTime,
    ) -> NDArray[np.float64] | None:
        """When ``iteration`` and those after it end that run the same sequences, ``most`` at most.

        They begin at ``begin_s``; the first computes ``loads`` in ``first_s``. In the last a sequence ends, or it is
        not over before ``change_s``. Shape (iterations,); ``None``: it is one alone.
        """
        count = min(most, self._next_end() - iteration + 1)
        if count < 2:
            return None
        change_s = math.inf if change_s is None else change_s
        if change_s <= begin_s + first_s:  # no need to know how long the others would take
            return np.array([begin_s + first_s])
        grown = self._growth.read(iteration, count - 1)[:, 0]
        seconds = step_times_ahead(loads, grown, first_s, step_time, self._overlap)
        ends_s: NDArray[np.float64] = begin_s + seconds.cumsum()
        return ends_s[: int(ends_s.searchsorted(change_s)) + 1]

    def _next_end(self) -> int:
        """Iteration in which the first of the generating sequences ends."""
        while self._ends[0] not in self._ending:
            heapq.heappop(self._ends)
        return self._ends[0]
