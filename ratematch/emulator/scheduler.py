"""Iteration-level in-flight batching as TensorRT-LLM does it, in explicit time.

Nothing here looks at a clock: the caller says what time it is (seconds, any origin), so the same scheduler serves
HTTP in real time and runs in virtual time. One iteration is :meth:`Scheduler.begin` (choose the batch, learn how long
it takes) and, that much later, :meth:`Scheduler.finish` (hand out tokens).

Rules taken over (contract, sections 3.1, 3.2, 3.8 and 6): capacity policy GUARANTEED_NO_EVICT; first come, first
served; ``max_batch_size``, ``max_num_tokens`` and KV capacity count per attention-DP rank; new requests go to the
least-loaded rank; without chunked prefill a prompt enters in one piece; a context-only sequence keeps its KV until it
is fetched.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ratematch.emulator.acceptance import DraftAcceptance
from ratematch.emulator.decoding import Decoding
from ratematch.emulator.iteration import (
    AttentionDpBalance,
    Emission,
    RankCounts,
    SchedulerConfig,
    Sequence,
    Step,
)
from ratematch.emulator.rank import Rank
from ratematch.emulator.steptime import RankLoad, StepBatch, StepTime
from ratematch.emulator.waitqueue import PromptBalance, WaitQueue

__all__ = ["AttentionDpBalance", "Emission", "RankCounts", "Scheduler", "SchedulerConfig", "Sequence", "Step"]


class Scheduler:
    """In-flight batching of one server instance.

    Counters for metrics are plain attributes: ``iter``, ``num_completed``, ``num_cancelled``, ``draft_tokens``,
    ``accepted_tokens``; the rest are properties.
    """

    def __init__(self, config: SchedulerConfig, step_time: StepTime, seed: int = 0):
        self.config = config
        self.iter = 0
        self.num_completed = 0
        self.num_cancelled = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._step_time = step_time
        self._ranks = tuple(Rank(config) for _ in range(config.mapping.dp_ranks))
        self._decoding = Decoding(config, seed)
        self._no_chunks: tuple[list[tuple[Sequence, int]], ...] = tuple([] for _ in self._ranks)
        self._waiting = WaitQueue(config, self._ranks)
        self._balance = PromptBalance(config)
        self._fresh: list[Sequence] = []  # began to generate since the last step
        self._live: dict[int, Sequence] = {}
        self._held: dict[int, Sequence] = {}
        self._in_flight: Step | None = None

    # ------------------------------------------------------------------------------------------------ in and out

    def refusal(self, seq: Sequence) -> str | None:
        """Why ``seq`` can never run here, or ``None``."""
        return self._waiting.refusal(seq)

    def add(self, seq: Sequence, now_s: float) -> None:
        """Queue ``seq``.

        Raises:
            ValueError: it can never run here (see :meth:`refusal`), or its id is in use.
        """
        if why := self.refusal(seq):
            raise ValueError(why)
        if seq.id in self._live or seq.id in self._held:
            raise ValueError(f"sequence id {seq.id} is in use")
        seq.arrival_s = now_s
        seq.ready_s = max(seq.ready_s, now_s)
        self._live[seq.id] = seq
        self._waiting.append(seq)

    def cancel(self, seq_id: int) -> bool:
        """Drop a sequence and free its KV at once; ``False`` when it is not here (any more)."""
        if seq_id in self._held:
            return self.release(seq_id)
        seq = self._live.pop(seq_id, None)
        if seq is None:
            return False
        if seq.state == "queued":
            self._waiting.remove(seq)
        else:
            rank = self._ranks[seq.rank]
            if seq.state == "prefill" and seq in rank.prefill:
                rank.prefill.remove(seq)
            elif seq.state == "decode":
                # What it would have gained in a step in flight is lost.
                self._decoding.stop(rank, seq, self.iter if self._in_flight is not None else self.iter + 1)
            elif seq.state == "transfer":
                self._waiting.remove_transfer(seq)
            rank.active -= 1
            rank.free(seq)
        seq.state = "cancelled"
        self.num_cancelled += 1
        return True

    def release(self, seq_id: int) -> bool:
        """Free the KV of a finished context-only sequence (fetched or timed out); ``False`` when it holds none."""
        seq = self._held.pop(seq_id, None)
        if seq is None:
            return False
        self._ranks[seq.rank].free(seq)
        seq.state = "done"
        return True

    # ------------------------------------------------------------------------------------------------ iterations

    def begin(self, now_s: float, ahead: int = 1) -> Step | None:
        """Choose the batch of the next iteration, or ``None`` when nothing can run now.

        ``ahead``: how many iterations the step may stand for. It stands for more than one only where all of them run
        the same sequences, up to the one in which the first of these ends or a KV transfer is over. Who adds, cancels
        or releases a sequence meanwhile has to :meth:`cut` the step first.

        Raises:
            RuntimeError: the previous step was not finished.
        """
        if self._in_flight is not None:
            raise RuntimeError(f"iteration {self._in_flight.iter} was not finished")
        waiting = self._waiting
        for rank in waiting.posting:
            rank.posting_s = 0.0
        waiting.posting.clear()
        waiting.admit(now_s)
        for seq in waiting.take_arrived(now_s):
            self._arrive(seq)
        if not waiting.gate_open and not waiting.open_gate():
            return None
        # Most steps of a generation server know no prompts, and asking each of its ranks for them is not free.
        prompts = bool([rank for rank in self._ranks if rank.prefill or rank.blocked])
        chunks = self._take_chunks() if prompts else self._no_chunks
        if not any(chunks) and not any(rank.gen for rank in self._ranks):
            return None
        loads = self._loads(chunks, now_s)
        self.iter += 1
        posting_s = max([rank.posting_s for rank in waiting.posting], default=0.0)
        first_s = self._step_time.seconds(StepBatch(loads), self.config.overlap)
        ends_s = None
        if ahead > 1 and not prompts:
            begin_s, change_s = now_s + posting_s, waiting.wake_s()
            ends_s = self._decoding.ends_ahead(self.iter, ahead, loads, begin_s, first_s, change_s, self._step_time)
        duration = posting_s + first_s if ends_s is None else float(ends_s[-1]) - now_s
        step = Step(self.iter, now_s, duration, chunks, loads, self.num_active, self.num_queued, ends_s)
        for seq in self._fresh:
            if seq.first_scheduled_s is None:
                seq.first_scheduled_s = now_s
        self._fresh.clear()
        self._in_flight = step
        return step

    def _take_chunks(self) -> tuple[list[tuple[Sequence, int]], ...]:
        chunks = tuple([rank.take_chunks() for rank in self._ranks])
        return self._no_chunks if self._balance.holds(chunks, self._ranks) else chunks

    def _loads(self, chunks: tuple[list[tuple[Sequence, int]], ...], now_s: float) -> tuple[RankLoad, ...]:
        query = 1 + self.config.mtp
        return tuple(
            [
                rank.load(taken, now_s) if taken else RankLoad(0, 0, 0.0, len(rank.gen), query, rank.kv_read, 0)
                for rank, taken in zip(self._ranks, chunks, strict=True)
            ]
        )

    def cut(self, step: Step, now_s: float) -> Step:
        """The step in flight up to the first of its iterations that ends at or after ``now_s``."""
        if step.ends_s is None:
            return step
        left = step.ends_s[: int(np.searchsorted(step.ends_s, now_s)) + 1]
        if left.size == step.count:
            return step
        step = replace(step, ends_s=left, duration_s=float(left[-1]) - step.start_s)
        self._in_flight = step
        return step

    def finish(self, step: Step, now_s: float, *, all_tokens: bool = True) -> list[Emission]:
        """Hand out the tokens of ``step``, in rank order, generation before prompts.

        Without ``all_tokens`` only what begins or ends is returned: a finished sequence with all tokens since it
        began to decode. When they came is in its ``first_iter`` and ``gains``.

        Raises:
            RuntimeError: ``step`` is not the one in flight.
        """
        if step is not self._in_flight:
            raise RuntimeError(f"iteration {step.iter} is not in flight")
        if all_tokens and step.count > 1:
            raise ValueError("a step of several iterations returns only what begins or ends in it")
        self._in_flight = None
        count = step.count
        emissions: list[Emission] = []
        generating = 0
        self.iter = step.iter + count - 1
        ended = self._decoding.ended_in(self.iter)
        added = self._decoding.added(step.iter, count)
        gained = 0
        for rank, (tokens, blocks) in zip(self._ranks, added, strict=True):
            generating += len(rank.gen)
            gained += tokens
            rank.kv_read += tokens
            rank.used += blocks
        self.accepted_tokens += gained - generating * count
        self.draft_tokens += generating * self.config.mtp * count
        if not (all_tokens or ended or any(step.chunks)):
            return emissions
        for index, (rank, chunks) in enumerate(zip(self._ranks, step.chunks, strict=True)):
            if all_tokens:
                self._emit_all(rank, now_s, emissions)
            if index in ended:
                for seq in ended[index]:
                    tokens = self._end_decode(rank, seq, now_s)
                    if not all_tokens:
                        brought = seq.kind == "generation_only"
                        emissions.append(Emission(seq, tokens + brought, brought, True))
            for seq, n in chunks:
                if seq.state == "prefill":
                    self._advance_prompt(rank, seq, n, now_s, emissions)
        return emissions

    def wake_s(self) -> float | None:
        """When the earliest KV transfer ends; ``None`` when none is under way."""
        return self._waiting.wake_s()

    # ------------------------------------------------------------------------------------------------ counters

    @property
    def acceptance(self) -> DraftAcceptance:
        """Where accepted drafts are drawn."""
        return self._decoding.acceptance

    @property
    def num_queued(self) -> int:
        """Sequences that have no slot or no KV yet."""
        return len(self._waiting)

    @property
    def num_admitted(self) -> int:
        """Sequences that got a slot so far."""
        return self._waiting.num_admitted

    @property
    def reused_blocks(self) -> int:
        """Full prompt blocks of admitted sequences that the prompt cache held."""
        return self._waiting.reused_blocks

    @property
    def missed_blocks(self) -> int:
        """Full prompt blocks of admitted sequences that it did not hold."""
        return self._waiting.missed_blocks

    @property
    def num_active(self) -> int:
        """Sequences that hold a slot (held context-only sequences do not)."""
        return sum([rank.active for rank in self._ranks])

    @property
    def num_held(self) -> int:
        """Finished context-only sequences whose KV was not fetched yet."""
        return len(self._held)

    @property
    def num_paused(self) -> int:
        """Always 0: the no-evict policy never pauses a sequence it admitted."""
        return 0

    @property
    def active_per_rank(self) -> tuple[int, ...]:
        return tuple(rank.active for rank in self._ranks)

    @property
    def fetching_per_rank(self) -> tuple[int, ...]:
        """Admitted sequences whose KV is on its way."""
        return self._waiting.fetching_per_rank()

    @property
    def kv_used_per_rank(self) -> tuple[int, ...]:
        """Blocks that hold tokens now."""
        return tuple(rank.used for rank in self._ranks)

    @property
    def kv_max_blocks(self) -> int:
        """KV blocks of all ranks together."""
        return self.config.kv_blocks * len(self._ranks)

    @property
    def kv_used_blocks(self) -> int:
        """Blocks that hold tokens now, all ranks."""
        return sum(rank.used for rank in self._ranks)

    @property
    def kv_reserved_blocks(self) -> tuple[int, ...]:
        """Blocks promised to admitted and held sequences, per rank; never above ``config.kv_blocks``."""
        return tuple(rank.reserved for rank in self._ranks)

    @property
    def kv_free_blocks(self) -> int:
        return self.kv_max_blocks - self.kv_used_blocks

    def gate_problem(self) -> str | None:
        """Why the fill gate can never open, or ``None`` while it still may."""
        return self._waiting.gate_problem()

    # ------------------------------------------------------------------------------------------------ inside

    def _arrive(self, seq: Sequence) -> None:
        """The KV cache of ``seq`` is here."""
        if seq.pull is None:
            self._start_decode(seq)
        else:
            seq.state = "prefill"
            self._ranks[seq.rank].prefill.append(seq)

    def _start_decode(self, seq: Sequence) -> None:
        self._decoding.start(self._ranks[seq.rank], seq, self.iter + 1)
        self._fresh.append(seq)

    def _advance_prompt(self, rank: Rank, seq: Sequence, n: int, now_s: float, emissions: list[Emission]) -> None:
        rank.store(seq, n)
        seq.prefilled += n
        if seq.prefilled < seq.prompt_len:
            return
        rank.prefill.remove(seq)
        if self.config.block_reuse:
            rank.remember(seq)
        seq.generated = 1
        seq.first_token_s = now_s
        finished = seq.kind == "context_only" or seq.max_tokens == 1
        if finished:
            self._complete(rank, seq, now_s)
        else:
            self._start_decode(seq)
        emissions.append(Emission(seq, 1, True, finished))

    def _emit_all(self, rank: Rank, now_s: float, emissions: list[Emission]) -> None:
        """Every token of the iteration: the one loop per token, beside which the rest costs next to nothing."""
        emit, make, now = emissions.append, Emission._make, self.iter
        plain = not self.config.mtp
        for seq in rank.gen:
            if seq.first_iter > now:
                continue
            n = 1 - seq.surplus if plain else int(seq.gains[now - seq.first_iter])  # type: ignore[index]
            if seq.first_token_s is None:  # generation-only: the token that came with the KV counts as its first
                seq.first_token_s = now_s
                emit(Emission(seq, n + 1, True, seq.last_iter == now))
            else:
                emit(make((seq, n, False, seq.last_iter == now)))

    def _end_decode(self, rank: Rank, seq: Sequence, now_s: float) -> int:
        """Take out a sequence that has all its tokens; returned: how many of them it decoded."""
        gained = seq.max_tokens - seq.generated
        seq.generated += gained
        seq.kv_len += gained
        rank.kv_read -= seq.kv_len
        self.accepted_tokens += seq.surplus
        del rank.gen[seq]
        self._complete(rank, seq, now_s)
        return gained

    def _complete(self, rank: Rank, seq: Sequence, now_s: float) -> None:
        seq.finished_s = now_s
        rank.active -= 1
        self.num_completed += 1
        del self._live[seq.id]
        if seq.kind == "context_only":
            seq.state = "held"
            self._held[seq.id] = seq
        else:
            seq.state = "done"
            rank.free(seq)
