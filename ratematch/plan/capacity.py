"""How many requests an instance can hold: memory of its GPUs and sequence slots, with the arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.memory import (
    RUNTIME_RESERVE_B,
    MemoryUse,
    activation_bytes,
    default_precision,
    memory_fit,
    state_tokens,
)
from ratematch.plan.model import Gpu, Model
from ratematch.plan.workload import Workload


@dataclass(frozen=True)
class KvSettings:
    """What an engine does with the memory that weights and activations leave.

    ``fraction``: share of it for the KV cache. ``dtype``: number format of the cache. ``chunked_prefill``: may a
    prompt be longer than one step's tokens? ``max_seq_len``: longest sequence as configured, ``None`` = as
    derived, which is long enough. ``block``: tokens of a KV block; a request occupies whole ones. ``left_alone``:
    share of the whole GPU that the engine does not touch. ``expert_slots``: experts of a layer with the copies that a
    load balancer keeps, 0 = no copies. ``by_checkpoint``: where the checkpoint asks for a format of the cache, it
    has that one.
    """

    fraction: float
    dtype: str
    chunked_prefill: bool = False
    max_seq_len: int | None = None
    block: int = 32
    left_alone: float = 0.0
    expert_slots: int = 0
    by_checkpoint: bool = False


@dataclass(frozen=True)
class Capacity:
    """Requests that one instance can hold at once; ``explanation`` says which limit that is, with the sum."""

    requests: int
    explanation: str


def find_capacity(group: ServerGroup, workload: Workload, model: Model, gpu: Gpu, kv: KvSettings) -> Capacity:
    """Requests of ``workload`` that one instance of ``group`` holds without evicting or queueing.

    KV: each request is granted room for its prompt and its longest output up front, as the engine's default policy
    (no eviction) does. Slots: ``max_batch_size`` per attention-DP rank, as far as one step's tokens allow.
    ``max_batch_size`` and ``max_num_tokens`` must be filled in. A context instance holds prompts only.

    Raises:
        ValueError: an unknown number format or a fraction outside [0, 1].
    """
    mapping, batch, tokens = group.mapping, group.max_batch_size, group.max_num_tokens
    assert batch is not None and tokens is not None
    # The prompt alone must fit a step, each context-parallel rank has its share (contract, section 3.8): a context
    # server makes no decode step, and an aggregated one decodes in steps of its own.
    if group.role != "gen" and not kv.chunked_prefill and workload.isl > tokens * mapping.cp:
        needed = f"ISL {workload.isl}" + (f" / cp {mapping.cp}" if mapping.cp > 1 else "")
        return Capacity(0, f"max_num_tokens {tokens} is less than {needed}: raise it, or turn chunked prefill on")
    if too_long := _check_length(group, workload, model, kv):
        return Capacity(0, too_long)
    at_once = tokens // (group.mtp + 1)
    if at_once < 1:
        return Capacity(0, f"max_num_tokens {tokens} is less than one request's MTP {group.mtp} + 1 tokens a step")
    length = workload.isl + (0 if group.role == "ctx" else workload.osl + group.mtp)
    request_tokens = -(-length // kv.block) * kv.block
    use = MemoryUse(
        default_precision(model, gpu),
        model.kv_precision if kv.by_checkpoint and model.kv_precision else kv.dtype,
        kv.fraction,
        RUNTIME_RESERVE_B + activation_bytes(model, mapping, tokens, batch) + kv.left_alone * gpu.memory_b,
        min(group.mtp, model.mtp_layers),
        kv.expert_slots,
    )
    fit = memory_fit(model, gpu, mapping, use, request_tokens)
    if state := state_tokens(model, mapping, fit.kv_token_b):
        request_tokens += state
        fit = memory_fit(model, gpu, mapping, use, request_tokens)
    held = fit.kv_tokens // request_tokens * mapping.dp_ranks
    slots = min(batch, at_once) * mapping.dp_ranks
    ranks = f" x {mapping.dp_ranks} ranks" if mapping.attention_dp else ""
    if group.role != "ctx" and slots < held:
        limit = f"max_batch_size {batch}"
        if at_once < batch:
            limit = f"max_num_tokens {tokens} / (MTP {group.mtp} + 1) = {at_once} requests a step, of {limit}"
        return Capacity(slots, f"{limit}{ranks} = {slots} sequence slots")
    states = f", {state} of them for its states" if state else ""
    return Capacity(held, f"{fit.explanation}; / {request_tokens} tokens a request{states}{ranks} = {held} requests")


def _check_length(group: ServerGroup, workload: Workload, model: Model, kv: KvSettings) -> str:
    """Why a request is longer than the server takes; empty when it is not. A context server makes one token."""
    osl = 1 if group.role == "ctx" else workload.osl
    whole = workload.isl + osl
    needed = f"ISL {workload.isl} + OSL {osl} = {whole} tokens"
    if kv.max_seq_len is not None and whole > kv.max_seq_len:
        return f"{needed} are more than max_seq_len {kv.max_seq_len}: raise it, or leave it out"
    if whole > model.max_seq_len:
        return f"{needed} are more than the {model.max_seq_len} that {model.name} was made for: ask for less"
    return ""


def why_unfit(
    experiment: Experiment, model: Model, gpu: Gpu, kv_of: Callable[[ServerGroup], KvSettings]
) -> list[str]:
    """Why the deployment cannot run its workload, with the sum; empty when it can.

    Each server must hold one request at least. In gen_only it must hold its whole share of every load, because it
    waits for that share before its first step; elsewhere more requests than slots only wait, as prompts in flight do.
    """
    problems = []
    for group in experiment.deployment.groups:
        try:
            capacity = find_capacity(group, experiment.workload, model, gpu, kv_of(group))
        except ValueError as error:
            problems.append(f"{group.role}: {error}")
            continue
        if capacity.requests < 1:
            problems.append(f"{group.role} {group.mapping.label}: {capacity.explanation}")
        elif experiment.mode == "gen_only" and group.role == "gen":
            most = max((load.concurrency for load in experiment.loads if isinstance(load, Concurrency)), default=0)
            share = most // group.instances
            if share > capacity.requests:
                waits = f"waits for {most} / {group.instances} servers = {share} requests before its first step"
                problems.append(
                    f"gen {group.mapping.label}: {waits}, and holds {capacity.requests}: {capacity.explanation}"
                )
    return problems
