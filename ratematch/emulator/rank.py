"""State of one attention-DP rank: its sequences, its KV blocks and what its prompt cache still holds."""

from __future__ import annotations

from collections import OrderedDict, deque

from ratematch.emulator.iteration import SchedulerConfig, Sequence
from ratematch.emulator.steptime import RankLoad


class Rank:
    """One attention-DP rank, or the whole instance without attention DP.

    ``active``: sequences with a slot. ``reserved``: KV blocks promised; ``used``: blocks that hold tokens.
    ``kv_read``: cached tokens of all generating sequences. ``blocked``: there was no room for its first prompt in the
    last step. ``gen``: the generating sequences, an ordered set. ``posting_s``: by how much the pulls that the next
    step begins make it longer.
    """

    def __init__(self, config: SchedulerConfig):
        self.config = config
        self.active = 0
        self.reserved = 0
        self.used = 0
        self.kv_read = 0
        self.blocked = False
        self.posting_s = 0.0
        self.prefill: deque[Sequence] = deque()
        self.gen: dict[Sequence, None] = {}
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._link_free_s = 0.0

    def blocks(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens fill."""
        return -(-tokens // self.config.tokens_per_block)

    def store(self, seq: Sequence, tokens: int) -> None:
        """``tokens`` more tokens of ``seq`` are in the KV cache."""
        self.used += self.blocks(seq.kv_len + tokens) - self.blocks(seq.kv_len)
        seq.kv_len += tokens

    def free(self, seq: Sequence) -> None:
        """Give back all KV of ``seq``."""
        self.reserved -= seq.blocks
        self.used -= self.blocks(seq.kv_len)
        seq.blocks = 0

    def keeps(self, seq: Sequence) -> int:
        """How many leading blocks of the prompt of ``seq`` are still cached."""
        hits = 0
        for key in seq.prompt_hash or ():
            if key not in self._cache:
                break
            hits += 1
        return hits

    def reuse(self, seq: Sequence) -> int:
        """Skip the leading prompt blocks that are still cached (returned: how many); one token is always computed."""
        hits = 0
        for key in seq.prompt_hash or ():
            if key not in self._cache:
                break
            self._cache.move_to_end(key)
            hits += 1
        seq.reused = seq.prefilled = min(hits * self.config.tokens_per_block, seq.prompt_len - 1)
        self.store(seq, seq.prefilled)
        return hits

    def begin_pull(self, seq: Sequence, now_s: float) -> float:
        """Fetch what is missing of the prompt of ``seq``; when it will be here. Its last token is left to compute."""
        pull = seq.pull
        assert pull is not None
        seq.pulled = self.blocks(seq.prompt_len) - seq.prefilled // self.config.tokens_per_block
        self.store(seq, seq.prompt_len - 1 - seq.prefilled)
        seq.prefilled = seq.prompt_len - 1
        self.posting_s += seq.pulled * pull.post_block_s
        self._link_free_s = max(self._link_free_s, now_s + self.posting_s) + seq.pulled * pull.move_block_s
        return self._link_free_s + pull.latency_s

    def remember(self, seq: Sequence) -> None:
        """Keep the prompt blocks of ``seq`` for reuse, the least recently used ones make room."""
        for key in seq.prompt_hash or ():
            self._cache[key] = None
            self._cache.move_to_end(key)
        while len(self._cache) > self.config.kv_blocks:
            self._cache.popitem(last=False)

    def load(self, taken: list[tuple[Sequence, int]], now_s: float) -> RankLoad:
        """What the rank computes in an iteration that begins now, with prompt pieces ``taken``."""
        config = self.config
        ctx = attended = pieces = 0
        for seq, n in taken:
            if seq.first_scheduled_s is None:
                seq.first_scheduled_s = now_s
            ctx += n
            pieces += -(-n // config.max_num_tokens)
            attended += n * seq.prefilled + n * (n + 1) // 2
        return RankLoad(
            len(taken), ctx, attended if taken else 0.0, len(self.gen), 1 + config.mtp, self.kv_read, pieces
        )

    def take_chunks(self) -> list[tuple[Sequence, int]]:
        """Prompt pieces of the rank's next step, first come first served, within what generation leaves of the
        token budget. A prompt that generation leaves no room for blocks admissions to its rank until it has run: else
        sequences that arrive with their KV could keep it out for ever."""
        self.blocked = False
        if not self.prefill:
            return []
        config = self.config
        budget = config.token_budget - len(self.gen) * (1 + config.mtp)
        taken: list[tuple[Sequence, int]] = []
        for seq in self.prefill:
            left = seq.prompt_len - seq.prefilled
            if left > budget:
                unit = config.chunk_unit or config.tokens_per_block
                piece = budget // unit * unit
                if not piece and budget == config.token_budget:
                    piece = budget  # a budget below one block: smaller pieces rather than none
                if config.chunked_prefill and piece:
                    taken.append((seq, piece))
                self.blocked = not taken
                break
            taken.append((seq, left))
            budget -= left
        return taken
