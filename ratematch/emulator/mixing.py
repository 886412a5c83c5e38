"""How long layers take to mix tokens where they do not do so as the model's own attention: windows, compression,
chosen tokens, states. The same roofline: FLOPs over rates, bytes over bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ratematch.plan.formats import format_bytes
from ratematch.plan.mixers import (
    mixer_index_bytes,
    mixer_kv_elements,
    mixer_pair_flops,
    mixer_state_bytes,
    state_elements,
)
from ratematch.plan.model import Indexer, Mixer

STATE_FLOPS = 6.0
"""Of an element of a state and a token: decay, update, read out."""


class Work(Protocol):
    """What a rank computes in an iteration, as :class:`ratematch.emulator.steptime.RankLoad` has it."""

    @property
    def ctx_requests(self) -> float: ...
    @property
    def ctx_tokens(self) -> float: ...
    @property
    def ctx_attended(self) -> float: ...
    @property
    def gen_requests(self) -> float: ...
    @property
    def query_tokens(self) -> int: ...
    @property
    def kv_read_tokens(self) -> float: ...


@dataclass(frozen=True)
class CoreRates:
    """``prompt``, ``generation``: FLOP/s that attention kernels reach; ``memory``: bytes/s. ``shards``: ranks that
    share heads and states out. ``kv_format``: of the cache."""

    prompt: float
    generation: float
    memory: float
    shards: int
    kv_format: str


def choose_s(indexer: Indexer, entry_b: float, work: Work, attended: float, read: float, rates: CoreRates) -> float:
    """Seconds in which an indexer scores the cached entries of one layer: ``attended`` by prompts, ``read`` by
    generation, of ``entry_b`` bytes each. Every rank has all its heads."""
    flops = 2.0 * indexer.heads * indexer.head_dim * (attended + read * work.query_tokens)
    return max(flops / rates.generation, read * entry_b / rates.memory)


def mix_s(mixer: Mixer, work: Work, rates: CoreRates) -> float:
    """Seconds of token mixing proper in one layer of ``mixer``, without its matrices."""
    if state := state_elements(mixer):
        tokens = work.ctx_tokens + work.gen_requests * work.query_tokens
        moved_b = 2 * mixer_state_bytes(mixer) * (work.gen_requests + work.ctx_requests)
        return max(STATE_FLOPS * state * tokens / rates.prompt, moved_b / rates.memory) / rates.shards
    ratio = max(1, mixer.ratio)
    attended, read = work.ctx_attended / ratio, work.kv_read_tokens / ratio
    seconds = 0.0
    if mixer.indexer:
        seconds = choose_s(mixer.indexer, mixer_index_bytes(mixer) * ratio, work, attended, read, rates)
        attended = min(attended, work.ctx_tokens * mixer.indexer.top_k)
        read = min(read, work.gen_requests * mixer.indexer.top_k)
    if mixer.window:
        near = min(work.ctx_attended, work.ctx_tokens * mixer.window)
        near_read = min(work.kv_read_tokens, work.gen_requests * mixer.window)
        # What is compressed is attended to besides the window, where there is any.
        beside = mixer.kind == "compressed" and bool(mixer.ratio)
        attended, read = (attended + near, read + near_read) if beside else (near, near_read)
    flops = mixer_pair_flops(mixer) / rates.shards
    held = min(rates.shards, mixer.kv_heads) if mixer.kv_heads else 1
    entry_b = (mixer_kv_elements(mixer) * ratio or mixer.head_dim) * format_bytes(rates.kv_format) / held
    generated = max(flops * read * work.query_tokens / rates.generation, read * entry_b / rates.memory)
    return seconds + flops * attended / rates.prompt + generated
