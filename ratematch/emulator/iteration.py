"""What goes through the scheduler: limits and sequences in, iterations and tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.steptime import RankLoad
from ratematch.plan.parallelism import Parallelism

Kind = Literal["full", "context_only", "generation_only"]
State = Literal["queued", "transfer", "prefill", "decode", "held", "done", "cancelled"]


@dataclass(frozen=True)
class AttentionDpBalance:
    """``attention_dp_config`` with ``enable_balance``: prompts wait until every rank has one, at most
    ``timeout_iters`` iterations, and then ``batching_wait_iters`` more to gather further ones."""

    timeout_iters: int = 50
    batching_wait_iters: int = 10


@dataclass(frozen=True)
class PromptGathering:
    """``batch_wait_timeout_iters`` and ``batch_wait_max_tokens_ratio``: while something generates, prompts wait for
    further ones, at most ``timeout_iters`` iterations, until the step has ``tokens_ratio`` of the tokens it may
    have."""

    timeout_iters: int
    tokens_ratio: float


@dataclass(frozen=True)
class BlockRouting:
    """An attention-DP rank is chosen by the blocks of a prompt that it keeps (TensorRT-LLM's
    ``enable_kv_cache_aware_routing``): where they are at least ``match_rate`` of its blocks, and where the rank has
    fewer than ``fair_share`` times its even share of the sequences."""

    match_rate: float = 0.1
    fair_share: float = 2.0


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of one server instance.

    ``max_batch_size``, ``max_num_tokens`` and ``kv_tokens`` count per attention-DP rank (per instance without). Under
    pipeline parallelism a step stands for ``pp`` micro-batches, so batch and token limits hold ``pp`` times.
    ``overlap`` false: host time is added to every step instead of hidden behind it.
    ``acceptance``: probability that draft k is accepted given the ones before; ``forced_acceptance``: accepted
    drafts per step instead (its fraction is a probability). ``fill_gate``: generate nothing before so many requests
    were admitted and none is in transfer (``TLLM_BENCHMARK_REQ_QUEUES_SIZE``). ``balance``: keep the prompts of
    attention-DP ranks in step (``None``: off, as in TensorRT-LLM). ``gathering``: let prompts wait for further ones
    (``None``: off, as there; without attention DP). ``routing``: by kept blocks (``None``: by load
    alone). ``chunk_unit``: prompt pieces are multiples of so
    many tokens (``None``: of a block).
    """

    mapping: Parallelism
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    kv_tokens: int
    tokens_per_block: int = 32
    mtp: int = 0
    acceptance: tuple[float, ...] = ()
    forced_acceptance: float | None = None
    chunked_prefill: bool = False
    block_reuse: bool = False
    overlap: bool = True
    fill_gate: int | None = None
    balance: AttentionDpBalance | None = None
    chunk_unit: int | None = None
    routing: BlockRouting | None = None
    gathering: PromptGathering | None = None

    @cached_property
    def slots(self) -> int:
        """Sequences that one rank may hold: batch limit, and one step of all of them within the token limit."""
        return self.mapping.pp * min(self.max_batch_size, self.max_num_tokens // (1 + self.mtp))

    @cached_property
    def token_budget(self) -> int:
        """Tokens that one rank may compute in one step; ``cp`` GPUs share a prompt."""
        return self.mapping.pp * self.mapping.cp * self.max_num_tokens

    @cached_property
    def kv_blocks(self) -> int:
        """KV blocks of one rank."""
        return self.kv_tokens // self.tokens_per_block


@dataclass(frozen=True)
class Pull:
    """What it costs to fetch the KV cache of a prompt from another server, block by block.

    ``post_block_s``: the engine's own thread is busy for so long with each block, which makes its step longer.
    ``move_block_s``: the link is, for pulls one after the other. ``latency_s``: fixed part of one pull.
    """

    latency_s: float
    post_block_s: float
    move_block_s: float


@dataclass(eq=False, slots=True)
class Sequence:
    """One request inside the server. Fields from ``state`` on belong to the scheduler.

    ``max_tokens``: tokens the client is to get in all; a generation-only sequence is handed over with the first of
    them known. ``ready_s``: when its KV has arrived; ``transfer_s`` instead counts from admission, as the transfer
    starts only when there is room for it. ``prompt_hash``: one hash per full prompt block, chained, for block reuse.
    ``pull``: the prompt's blocks are fetched, as far as they are not in the cache here (``pulled`` of them), and only
    its last token is computed, which gives the first token of the answer.

    How it decodes is drawn when it begins to: it gains ``gains[k]`` tokens in iteration ``first_iter + k``, the last
    in ``last_iter``, where ``surplus`` more were accepted than it may have. Until it is done ``generated`` and
    ``kv_len`` stay what they were before the first of these.
    """

    id: int
    prompt_len: int
    max_tokens: int
    kind: Kind = "full"
    arrival_s: float = 0.0
    ready_s: float = 0.0
    transfer_s: float = 0.0
    prompt_hash: tuple[int, ...] | None = None
    pull: Pull | None = None

    state: State = "queued"
    rank: int = -1
    prefilled: int = 0
    generated: int = 0
    reused: int = 0
    pulled: int = 0
    kv_len: int = 0
    blocks: int = 0
    first_iter: int = 0
    last_iter: int = 0
    gains: NDArray[np.int64] | None = None
    surplus: int = 0
    admitted_s: float | None = None
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None


class Emission(NamedTuple):
    """New tokens of one sequence. Over its life they add up to ``max_tokens`` (context-only: to 1)."""

    seq: Sequence
    tokens: int
    first: bool
    finished: bool


class RankCounts(NamedTuple):
    """One rank in one iteration, as the iteration log shows it. ``num_generation_tokens`` counts drafts too."""

    num_ctx_requests: int
    num_ctx_tokens: int
    num_gen_requests: int
    num_generation_tokens: int

    @property
    def num_scheduled(self) -> int:
        return self.num_ctx_requests + self.num_gen_requests


@dataclass(frozen=True, eq=False)
class Step:
    """An iteration in flight: what runs on each rank and for how long.

    Or several in a row that nothing changes between (``count``): then ``iter`` is the first of them, ``loads`` are
    its own, ``ends_s`` says when each ends and ``duration_s`` is that of all.
    """

    iter: int
    start_s: float
    duration_s: float
    chunks: tuple[list[tuple[Sequence, int]], ...]
    loads: tuple[RankLoad, ...]
    num_active: int
    num_queued: int
    ends_s: NDArray[np.float64] | None = None

    @property
    def count(self) -> int:
        return 1 if self.ends_s is None else self.ends_s.size

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    @property
    def ranks(self) -> tuple[RankCounts, ...]:
        """The (first) iteration as its log shows it."""
        return tuple(
            RankCounts(
                int(load.ctx_requests),
                int(load.ctx_tokens),
                int(load.gen_requests),
                int(load.gen_requests) * load.query_tokens,
            )
            for load in self.loads
        )
