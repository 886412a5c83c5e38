"""The way of a sequence into the batch: first come, first served, as soon as a rank has a slot and KV blocks."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Ordered

from ratematch.emulator.iteration import PromptGathering, SchedulerConfig, Sequence
from ratematch.emulator.rank import Rank


class WaitQueue:
    """Sequences that wait for a slot, and admitted ones whose KV cache is on its way.

    ``num_admitted``: sequences that got a slot so far. ``reused_blocks``, ``missed_blocks``: full prompt blocks of
    theirs that the prompt cache held, and did not hold. ``posting``: ranks that begin to pull KV caches in the next
    iteration. ``gate_open``: the fill gate (``config.fill_gate``) lets iterations run.
    """

    def __init__(self, config: SchedulerConfig, ranks: Ordered[Rank]):
        self.num_admitted = 0
        self.reused_blocks = 0
        self.missed_blocks = 0
        self.posting: list[Rank] = []
        self.gate_open = config.fill_gate is None
        self._config = config
        self._ranks = ranks
        self._queue: deque[Sequence] = deque()
        self._transfers: list[tuple[float, int, Sequence]] = []  # heap by the instant at which the KV cache is here

    def __len__(self) -> int:
        return len(self._queue)

    def refusal(self, seq: Sequence) -> str | None:
        """Why ``seq`` can never run here, or ``None``."""
        config = self._config
        if seq.prompt_len < 1 or seq.max_tokens < 1:
            return f"prompt length ({seq.prompt_len}) and max_tokens ({seq.max_tokens}) must be at least 1"
        prompt = seq.prompt_len / config.mapping.cp
        if seq.kind != "generation_only" and not config.chunked_prefill and prompt > config.max_num_tokens:
            return (
                f"The sum of prompt length ({prompt}), query length (0) should not exceed max_num_tokens "
                f"({config.max_num_tokens})"
            )
        if seq.prompt_len + seq.max_tokens > config.max_seq_len:
            return (
                f"prompt length ({seq.prompt_len}) + max_tokens ({seq.max_tokens}) exceed max_seq_len "
                f"({config.max_seq_len})"
            )
        if config.slots < 1:
            return f"max_num_tokens ({config.max_num_tokens}) is less than 1 + mtp ({1 + config.mtp}) tokens"
        need = self._blocks_for(seq)
        if need > config.kv_blocks:
            return f"{need} KV blocks of {config.tokens_per_block} tokens are needed, a rank has {config.kv_blocks}"
        return None

    def append(self, seq: Sequence) -> None:
        """``seq`` waits behind all others."""
        self._queue.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Drop a sequence that has no slot yet."""
        self._queue.remove(seq)

    def remove_transfer(self, seq: Sequence) -> None:
        """Forget that the KV cache of ``seq`` is on its way."""
        self._transfers = [entry for entry in self._transfers if entry[2] is not seq]
        heapq.heapify(self._transfers)

    def admit(self, now_s: float) -> None:
        """Give slots and KV blocks to as many sequences as there is room for, the oldest first. Those whose KV cache
        comes from elsewhere are in transfer from then on, the others are prompts of their rank."""
        while self._queue:
            index = self._pick_rank(self._queue[0])
            if index is None:
                return
            seq, rank = self._queue.popleft(), self._ranks[index]
            seq.rank, seq.admitted_s, seq.blocks = index, now_s, self._blocks_for(seq)
            rank.active += 1
            rank.reserved += seq.blocks
            self.num_admitted += 1
            if seq.kind == "generation_only":
                seq.prefilled, seq.generated = seq.prompt_len, 1
                rank.store(seq, seq.prompt_len)
                self._fetch(seq, now_s + seq.transfer_s)
                continue
            if self._config.block_reuse and seq.prompt_hash:
                hits = rank.reuse(seq)
                self.reused_blocks += hits
                self.missed_blocks += len(seq.prompt_hash) - hits
            if seq.pull is not None:
                self.posting.append(rank)
                self._fetch(seq, rank.begin_pull(seq, now_s))
                continue
            seq.state = "prefill"
            rank.prefill.append(seq)

    def take_arrived(self, now_s: float) -> Iterator[Sequence]:
        """The sequences whose KV cache is here at ``now_s``, in the order of arrival; each is returned once."""
        while self._transfers and self._transfers[0][0] <= now_s:
            yield heapq.heappop(self._transfers)[2]

    def open_gate(self) -> bool:
        """Open the fill gate if it is time: so many sequences were admitted, and none is in transfer. Is it open?"""
        if not self.gate_open:
            self.gate_open = self.num_admitted >= (self._config.fill_gate or 0) and not self._transfers
        return self.gate_open

    def gate_problem(self) -> str | None:
        """Why the fill gate can never open, or ``None`` while it still may."""
        size = self._config.fill_gate
        if self.gate_open or size is None or not self._queue or self._transfers:
            return None
        if self._pick_rank(self._queue[0]) is not None or self.num_admitted >= size:
            return None
        return gate_message(len(self._queue), size)

    def wake_s(self) -> float | None:
        """When the earliest KV transfer ends; ``None`` when none is under way."""
        return self._transfers[0][0] if self._transfers else None

    def fetching_per_rank(self) -> tuple[int, ...]:
        """Admitted sequences whose KV is on its way."""
        counts = [0] * len(self._ranks)
        for _, _, seq in self._transfers:
            counts[seq.rank] += 1
        return tuple(counts)

    def _blocks_for(self, seq: Sequence) -> int:
        tokens = seq.prompt_len + (1 if seq.kind == "context_only" else seq.max_tokens + self._config.mtp)
        return -(-tokens // self._config.tokens_per_block)

    def _pick_rank(self, seq: Sequence) -> int | None:
        """The rank that keeps most of the prompt of ``seq`` (``config.routing``), else the least-loaded one, of those
        that have a slot and the KV for it."""
        least = self._pick_least_loaded(seq)
        routing, prompt = self._config.routing, seq.prompt_hash
        if least is None or routing is None or not prompt or len(self._ranks) == 1:
            return least
        need, capacity = self._blocks_for(seq), self._config.kv_blocks
        share = (sum([rank.active for rank in self._ranks]) + 1) / len(self._ranks)
        most = min(self._config.slots, max(1.0, share * routing.fair_share))
        best, hits = least, self._ranks[least].keeps(seq)
        for index, rank in enumerate(self._ranks):
            if rank.active >= most or rank.blocked or rank.reserved + need > capacity:
                continue
            kept = rank.keeps(seq)
            if kept > hits and kept >= routing.match_rate * len(prompt):
                best, hits = index, kept
        return best

    def _pick_least_loaded(self, seq: Sequence) -> int | None:
        """The least-loaded rank that has a slot and the KV for ``seq``."""
        need, slots, capacity = self._blocks_for(seq), self._config.slots, self._config.kv_blocks
        best, fewest, least = None, slots, 0
        for index, rank in enumerate(self._ranks):
            active = rank.active
            if active > fewest or (active == fewest and rank.reserved >= least):
                continue
            if not rank.blocked and rank.reserved + need <= capacity:
                best, fewest, least = index, active, rank.reserved
        return best

    def _fetch(self, seq: Sequence, ready_s: float) -> None:
        """The KV cache of ``seq`` is on its way until ``ready_s``."""
        seq.state, seq.ready_s = "transfer", max(seq.ready_s, ready_s)
        heapq.heappush(self._transfers, (seq.ready_s, self.num_admitted, seq))


def gate_message(waiting: int, size: int) -> str:
    """What the engine says of a fill gate of ``size`` that cannot open, with so many requests ``waiting``."""
    return (
        f"Insufficient KV cache for gen-only benchmark mode: {waiting} request(s) are waiting for KV "
        "cache or a slot. Increase free_gpu_memory_fraction or reduce TLLM_BENCHMARK_REQ_QUEUES_SIZE "
        f"(currently {size})"
    )


class PromptBalance:
    """Keeps the prompts of attention-DP ranks in step (``config.balance``). The slowest rank decides how long an
    iteration takes, so one prompt on one rank would make all of them pay. Or gathers those of a server without
    attention DP (``config.gathering``): each step with prompts makes all that generate wait."""

    def __init__(self, config: SchedulerConfig):
        self._balance = config.balance
        self._gathering = config.gathering
        self._query = 1 + config.mtp
        self._token_budget = config.token_budget
        self._uneven_iters = 0
        self._batching_iters = 0

    def holds(self, chunks: tuple[list[tuple[Sequence, int]], ...], ranks: Ordered[Rank]) -> bool:
        """Count an iteration that could compute ``chunks``, one list a rank. Do they have to wait for a later one?"""
        if self._gathering is not None and len(chunks) == 1:
            return self._gathers(self._gathering, chunks[0], len(ranks[0].gen))
        balance = self._balance
        if balance is None or len(chunks) == 1 or not any(chunks) or not any(rank.gen for rank in ranks):
            return False
        if not all(chunks):
            self._uneven_iters += 1
            if self._uneven_iters <= balance.timeout_iters:
                return True
        elif all(rank.gen for rank in ranks) and self._batching_iters < balance.batching_wait_iters:
            self._batching_iters += 1
            return True
        self._uneven_iters = self._batching_iters = 0
        return False

    def _gathers(self, gathering: PromptGathering, chunks: list[tuple[Sequence, int]], generating: int) -> bool:
        if not chunks or not generating:
            return False
        tokens = sum([piece for _, piece in chunks]) + generating * self._query
        wait = self._batching_iters < gathering.timeout_iters
        wait = wait and tokens < gathering.tokens_ratio * self._token_budget
        self._batching_iters = self._batching_iters + 1 if wait else 0
        return wait
