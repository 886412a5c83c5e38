"""How many requests an instance can hold: memory of its GPUs and sequence slots, with the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.memory import RUNTIME_RESERVE_B, activation_bytes, default_precision, memory_fit
from ratematch.plan.model import Gpu, Model
from ratematch.plan.workload import Workload

BLOCK = 32
"""Tokens of a KV block: a request occupies whole ones."""


@dataclass(frozen=True)
class KvSettings:
    """What an engine does with the memory that weights and activations leave.

    ``fraction``: share of it for the KV cache. ``dtype``: number format of the cache. ``chunked_prefill``: may a
    prompt be longer than one step's tokens?
    """

    fraction: float
    dtype: str
    chunked_prefill: bool = False


@dataclass(frozen=True)
class Capacity:
    """Requests that one instance can hold at once; ``explanation`` says which limit that is, with the sum."""

    requests: int
    explanation: str


def find_capacity(group: ServerGroup, workload: Workload, model: Model, gpu: Gpu, kv: KvSettings) -> Capacity:
    """Requests of ``workload`` that one instance of ``group`` holds without evicting or queueing.

    KV: each request is granted room for its prompt and its longest output up front, as the engine's default policy
    (no eviction) does. Slots: ``max_batch_size`` per attention-DP rank. ``max_batch_size`` and ``max_num_tokens``
    must be filled in. A context instance holds prompts only.

    Raises:
        ValueError: an unknown number format or a fraction outside [0, 1].
    """
    mapping, batch, tokens = group.mapping, group.max_batch_size, group.max_num_tokens
    assert batch is not None and tokens is not None
    first = workload.isl + group.mtp + 1
    if group.role != "gen" and tokens < first and not kv.chunked_prefill:
        needed = f"ISL {workload.isl} + {group.mtp + 1} tokens of its first decode step"
        return Capacity(0, f"max_num_tokens {tokens} is less than {needed}: raise it, or turn chunked prefill on")
    length = workload.isl + (0 if group.role == "ctx" else workload.osl + group.mtp)
    each = -(-length // BLOCK) * BLOCK
    fit = memory_fit(
        model,
        gpu,
        mapping,
        default_precision(model, gpu),
        kv.dtype,
        kv.fraction,
        RUNTIME_RESERVE_B + activation_bytes(model, mapping, tokens, batch),
        mtp_layers=min(group.mtp, model.mtp_layers),
        tokens_needed=each,
    )
    held = fit.kv_tokens // each * mapping.dp_ranks
    slots = batch * mapping.dp_ranks
    ranks = f" x {mapping.dp_ranks} ranks" if mapping.attention_dp else ""
    if group.role != "ctx" and slots < held:
        return Capacity(slots, f"max_batch_size {batch}{ranks} = {slots} sequence slots")
    return Capacity(held, f"{fit.explanation}; / {each} tokens a request{ranks} = {held} requests")
