"""Bytes: what weights and KV cache take on a GPU, whether they fit, and what a KV transfer carries.

Sources: contract, section 3.4 (the KV fraction applies to what weights and activations leave free) and the published
model configurations. Parameters are counted from matrix shapes; norms and biases (below 0.1 %) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ratematch.plan.formats import FORMAT_BYTES, format_bytes
from ratematch.plan.mixers import (
    indexer_bytes,
    indexer_params,
    mixer_index_bytes,
    mixer_kv_elements,
    mixer_params,
    mla_params,
    state_bytes,
)
from ratematch.plan.model import Gpu, Model, Moe, Part
from ratematch.plan.parallelism import Parallelism

RUNTIME_RESERVE_B = 4e9
"""Memory of one GPU that the CUDA context, communication buffers and graphs take."""


def default_precision(model: Model, gpu: Gpu) -> str:
    """Weight format: what a person chose, else the model's only one, else what the GPU's deployments normally use."""
    return model.chosen_precision or model.precision or gpu.precision


# ------------------------------------------------------------------------------------------------ parameters


def attention_params(model: Model) -> int:
    """Elements of the attention matrices of one layer with the model's own attention."""
    index = indexer_params(model.indexer, model.hidden) if model.indexer and not model.indexer.layers else 0
    if model.mla is not None:
        gate = model.hidden * model.heads * model.mla.v_dim if model.attention_gate else 0
        return mla_params(model.mla, model.hidden, model.heads) + gate + index
    value = model.v_dim or model.head_dim
    queries = model.heads * (model.head_dim + value) + (model.heads * model.head_dim if model.attention_gate else 0)
    return model.hidden * (queries + model.kv_heads * (model.head_dim + value)) + index


def expert_params(model: Model, moe: Moe) -> int:
    """Elements of one routed expert of one layer: gate, up and down projections, or up and down."""
    return model.mlp_matrices * (moe.latent or model.hidden) * moe.ffn


def shared_params(model: Model, moe: Moe) -> int:
    """Elements of what every token of an MoE layer goes through: shared experts, projections into the experts' width
    and back."""
    return model.mlp_matrices * model.hidden * moe.shared_ffn + 2 * model.hidden * moe.latent


def some_indexers(model: Model) -> int:
    """Elements of indexers that only some layers have; those of every layer are part of its attention."""
    own = model.indexer
    return own.layers * indexer_params(own, model.hidden) if own and own.layers else 0


def total_params(model: Model) -> int:
    """Elements of the whole model without MTP layers; input and output embeddings counted separately, unless tied."""
    dense_layers = model.moe.dense_layers if model.moe else model.wide_layers
    count = (1 if model.tied_embeddings else 2) * model.vocab * model.hidden
    count += model.plain_layers * attention_params(model)
    count += dense_layers * model.mlp_matrices * model.hidden * model.ffn
    count += sum(mixer.layers * mixer_params(mixer, model.hidden) for mixer in model.mixers)
    if model.moe:
        per_layer = model.moe.experts * (expert_params(model, model.moe) + model.hidden)
        count += (model.wide_layers - dense_layers) * (per_layer + shared_params(model, model.moe))
    return count + some_indexers(model) + model.other_params


def active_params(model: Model) -> int:
    """Elements that one token of text meets, as authors count them: without routed experts that it does not go to."""
    unused = 0
    if moe := model.moe:
        unused = (model.wide_layers - moe.dense_layers) * (moe.experts - moe.top_k) * expert_params(model, moe)
    return total_params(model) - unused - model.other_params


# ------------------------------------------------------------------------------------------------ weights


def part_mix(model: Model, precision: str, part: Part) -> dict[str, float]:
    """Share of a part's elements in each number format, in a checkpoint of ``precision``."""
    if mix := model.formats.get(precision, {}).get(part):
        return mix
    match part:
        case "attention" | "mixers":
            return {model.attention_precision.get(precision, precision): 1.0}
        case "embedding" | "head":
            return {"bf16": 1.0}
    return {precision: 1.0}


def part_bytes(model: Model, precision: str, part: Part) -> float:
    """Bytes per element of a part.

    Raises:
        ValueError: one of its formats is not known.
    """
    return sum(share * format_bytes(name) for name, share in part_mix(model, precision, part).items())


def _on_stage(count: int, model: Model, pp: int) -> float:
    """Of ``count`` layers that are spread evenly, those of the fullest of ``pp`` stages."""
    return count * math.ceil(model.layers / pp) / model.layers


def _wide_on_stage(model: Model, pp: int) -> tuple[float, float]:
    """Layers with a plain MLP and with experts on the stage with most bytes: with several stages, one without the
    first layers."""
    if model.moe is None:
        return _on_stage(model.wide_layers, model, pp), 0
    first = model.moe.dense_layers
    if pp == 1 or model.moe.interleaved:
        return _on_stage(first, model, pp), _on_stage(model.wide_layers - first, model, pp)
    return 0, _on_stage(model.wide_layers, model, pp)


def weight_bytes_per_rank(
    model: Model, mapping: Parallelism, precision: str, mtp_layers: int = 0, expert_slots: int = 0
) -> float:
    """Weight bytes on the fullest GPU of an instance.

    Routed experts are always spread over all ``tp`` ranks (all ``ep`` ranks, where those are more). Under attention
    DP everything else is replicated; otherwise it is sharded over ``tp``. ``pp`` divides layers (rounded up);
    embeddings stay in bf16 unless the checkpoint says otherwise. ``mtp_layers`` MTP layers (one attention + MoE layer
    and a 2h x h projection each) are added. ``expert_slots``: experts of a layer with the copies that a load balancer
    keeps, 0 = no copies. Where the checkpoint's own size is known, all is scaled so that the whole has it.

    Raises:
        ValueError: ``precision`` is not a known format.
    """
    counted = _counted_bytes(model, mapping, precision, mtp_layers, expert_slots)
    if (known := model.weights_b.get(precision)) is None:
        return counted
    return counted * known / _counted_bytes(model, Parallelism(), precision, model.mtp_layers, 0)


def _counted_bytes(model: Model, mapping: Parallelism, precision: str, mtp_layers: int, expert_slots: int) -> float:
    shards = 1 if mapping.attention_dp else mapping.tp
    stage = mapping.pp
    drafted = mtp_layers if model.plain_layers or not model.mixers else 0
    layers = _on_stage(model.plain_layers, model, stage) + drafted
    dense, moe_layers = _wide_on_stage(model, stage)
    if model.moe:
        moe_layers += mtp_layers
    else:
        dense += mtp_layers
    total = layers * attention_params(model) / shards * part_bytes(model, precision, "attention")
    dense_b = part_bytes(model, precision, "dense")
    total += dense * model.mlp_matrices * model.hidden * model.ffn / shards * dense_b
    if model.moe:
        spread = max(mapping.tp, mapping.ep)
        slots = expert_slots or model.moe.experts
        experts_b = part_bytes(model, precision, "experts")
        total += moe_layers * slots * expert_params(model, model.moe) / spread * experts_b
        total += moe_layers * shared_params(model, model.moe) / shards * part_bytes(model, precision, "shared")
        total += moe_layers * model.hidden * model.moe.experts * FORMAT_BYTES["bf16"]
    if model.mixers:
        mixed: float = (mtp_layers - drafted) * mixer_params(model.mixers[0], model.hidden)
        mixed += sum(
            _on_stage(mixer.layers, model, stage) * mixer_params(mixer, model.hidden) for mixer in model.mixers
        )
        total += mixed / shards * part_bytes(model, precision, "mixers")
    total += some_indexers(model) / stage * FORMAT_BYTES["bf16"] + model.other_params * FORMAT_BYTES["bf16"]
    total += mtp_layers * 2 * model.hidden * model.hidden / shards * FORMAT_BYTES["bf16"]
    return total + _embedding_bytes(model, precision, stage) / shards


def _embedding_bytes(model: Model, precision: str, pp: int) -> float:
    """Of the embeddings of the fullest stage: the first or the last has one of them."""
    one = model.vocab * model.hidden
    head_b = part_bytes(model, precision, "head")
    if model.tied_embeddings or pp > 1:
        return one * head_b
    return one * (head_b + part_bytes(model, precision, "embedding"))


# ------------------------------------------------------------------------------------------------ KV cache


def kv_elements_per_layer(model: Model) -> int:
    """Cached elements per token and layer of the model's own attention: K and V of every KV head, or the MLA latent
    with its rope part."""
    if model.mla is not None:
        return model.mla.kv_lora_rank + model.mla.rope_dim
    return model.kv_heads * (model.head_dim + (model.v_dim or model.head_dim))


@dataclass(frozen=True)
class _Cache:
    """Layers that cache alike. ``heads``: KV heads that ranks can share out, 0 = every rank has all of it.
    ``fixed_b``: bytes of a token and layer that do not depend on the cache's number format."""

    layers: float
    elements: float
    heads: int
    fixed_b: float = 0.0


def _caches(model: Model, layers: float, mtp_layers: int, share: float) -> list[_Cache]:
    """``layers``: with the model's own attention; ``share``: of all other layers."""
    index = indexer_bytes(model.indexer) if model.indexer else 0.0
    if model.indexer and model.indexer.layers:
        index *= model.indexer.layers / model.plain_layers
    heads = 0 if model.mla is not None else model.kv_heads
    drafted = mtp_layers if model.plain_layers or not model.mixers else 0  # others draft within a window
    caches = [_Cache(layers + drafted, kv_elements_per_layer(model), heads, index)]
    for mixer in model.mixers:
        elements, fixed_b = mixer_kv_elements(mixer), mixer_index_bytes(mixer)
        if elements or fixed_b:
            caches.append(_Cache(mixer.layers * share, elements, mixer.kv_heads, fixed_b))
    return caches


def _cache_bytes(caches: Iterable[_Cache], dtype: str, ranks: int) -> float:
    """Bytes of a token on each of ``ranks`` ranks that share the KV heads out."""
    total = 0.0
    for cache in caches:
        share = max(1 / ranks, 1 / cache.heads) if cache.heads and ranks > 1 else 1.0
        total += cache.layers * cache.elements * format_bytes(dtype) * share + cache.layers * cache.fixed_b
    return total


def kv_bytes_per_token(model: Model, dtype: str, mtp_layers: int = 0) -> float:
    """KV bytes of one token of the whole model, stored once; layers with a sliding window count as all others.

    Raises:
        ValueError: ``dtype`` is not a known format.
    """
    return _cache_bytes(_caches(model, model.plain_layers, mtp_layers, 1.0), dtype, 1)


def kv_bytes_per_token_per_rank(model: Model, mapping: Parallelism, dtype: str, mtp_layers: int = 0) -> float:
    """KV bytes that one token of a sequence costs on each GPU that holds it.

    Attention DP: all of it, on the one rank that owns the sequence. Tensor parallel: latents and the keys of an
    indexer are replicated on every rank; KV heads are sharded, and replicated once there are more ranks than heads.
    ``pp`` divides layers (rounded up), ``cp`` divides tokens.
    """
    layers = _on_stage(model.plain_layers, model, mapping.pp)
    caches = _caches(model, layers, mtp_layers, math.ceil(model.layers / mapping.pp) / model.layers)
    return _cache_bytes(caches, dtype, 1 if mapping.attention_dp else mapping.tp) / mapping.cp


def kv_duplication(model: Model, mapping: Parallelism) -> float:
    """How many times each KV byte of a sequence is stored within an instance (1 = once)."""
    if mapping.attention_dp:
        return 1.0
    caches = _caches(model, model.plain_layers, 0, 1.0)
    weights = [cache.layers * (cache.elements + cache.fixed_b) for cache in caches]
    copies = [max(1.0, mapping.tp / cache.heads) if cache.heads else float(mapping.tp) for cache in caches]
    if len(set(copies)) == 1:
        return copies[0]
    return sum(weight * times for weight, times in zip(weights, copies, strict=True)) / sum(weights)


def state_bytes_per_rank(model: Model, mapping: Parallelism) -> float:
    """Bytes that one sequence takes on a GPU besides its KV cache: recurrent states, which ranks share out by their
    heads, on the layers of a stage."""
    return state_bytes(model) / mapping.pp / (1 if mapping.attention_dp else mapping.tp)


def state_tokens(model: Model, mapping: Parallelism, kv_token_b: float) -> int:
    """Tokens of a KV cache of ``kv_token_b`` bytes a token that have the place of one sequence's states."""
    state_b = state_bytes_per_rank(model, mapping)
    return math.ceil(state_b / kv_token_b) if state_b and kv_token_b else 0


def transfer_bytes(model: Model, isl: int, dtype: str, mtp_layers: int = 0) -> float:
    """Bytes that leave a ctx server for one request of ``isl`` prompt tokens (each byte sent once)."""
    return isl * kv_bytes_per_token(model, dtype, mtp_layers) + state_bytes(model)


def transfer_bytes_received(model: Model, mapping: Parallelism, isl: int, dtype: str, mtp_layers: int = 0) -> float:
    """Bytes that all GPUs of a gen instance together receive for one request: replicated parts count each time."""
    kv = isl * kv_bytes_per_token(model, dtype, mtp_layers) * kv_duplication(model, mapping)
    return kv + state_bytes(model)


# ------------------------------------------------------------------------------------------------ fit


def activation_bytes(model: Model, mapping: Parallelism, max_num_tokens: int, max_batch_size: int) -> float:
    """Peak bytes of activations and logits on one GPU while ``max_num_tokens`` tokens are in a step.

    Counted: four bf16 hidden-sized buffers, the widest MLP buffer, routed copies of tokens (dispatch and combine;
    attention DP: those of the other ranks too, at the balanced share), and fp32 logits of ``max_batch_size`` rows,
    twice.
    """
    shards = 1 if mapping.attention_dp else mapping.tp
    tokens = max_num_tokens / mapping.cp
    hidden = 4 * tokens * model.hidden * 2.0
    mlp = 2 * tokens * max(model.ffn, model.heads * model.head_dim) / shards * 2.0
    routed = 0.0
    if model.moe:
        copies = tokens * mapping.dp_ranks * model.moe.top_k / mapping.tp
        routed = copies * (2 * model.hidden + 2 * model.moe.ffn) * 2.0
    logits = 2 * max_batch_size * model.vocab / shards * 4.0
    return hidden + mlp + routed + logits


@dataclass(frozen=True)
class MemoryUse:
    """What a server does with the memory of a GPU.

    ``precision``, ``kv_dtype``: number formats of weights and KV cache. ``fraction``: of what weights and
    ``reserve_b`` bytes (activations and runtime) leave, the share for the KV cache. ``mtp_layers``: MTP layers that
    are loaded. ``expert_slots``: as in :func:`weight_bytes_per_rank`.
    """

    precision: str
    kv_dtype: str
    fraction: float
    reserve_b: float
    mtp_layers: int = 0
    expert_slots: int = 0


@dataclass(frozen=True)
class MemoryFit:
    """Memory of one GPU of an instance, in bytes, and how many KV tokens its rank can hold.

    ``tokens_needed``: KV tokens that a rank must hold, 0 when nothing was required. ``explanation``: the sum in
    words.
    """

    memory_b: float
    weights_b: float
    reserve_b: float
    fraction: float
    kv_token_b: float
    kv_tokens: int
    tokens_needed: int
    explanation: str

    @property
    def fits(self) -> bool:
        """At least the needed tokens fit, and at least one does."""
        return self.kv_tokens >= max(1, self.tokens_needed)


def memory_fit(model: Model, gpu: Gpu, mapping: Parallelism, use: MemoryUse, tokens_needed: int = 0) -> MemoryFit:
    """Do weights, the reserve for activations and runtime, and ``tokens_needed`` KV tokens fit on a GPU?

    KV pool = ``fraction`` x (memory - weights - reserve), contract section 3.4.

    Raises:
        ValueError: unknown format, or ``fraction`` outside [0, 1].
    """
    fraction, reserve_b = use.fraction, use.reserve_b
    if not 0 <= fraction <= 1:
        raise ValueError(f"KV fraction {fraction:g} is not between 0 and 1")
    weights = weight_bytes_per_rank(model, mapping, use.precision, use.mtp_layers, use.expert_slots)
    token_b = kv_bytes_per_token_per_rank(model, mapping, use.kv_dtype, use.mtp_layers)
    free = gpu.memory_b - weights - reserve_b
    tokens = max(0, math.floor(fraction * free / token_b))
    words = (
        f"{model.name} {use.precision} as {mapping.label} on {gpu.name}: {gpu.memory_b / 1e9:.1f} GB"
        f" - {weights / 1e9:.1f} GB weights - {reserve_b / 1e9:.1f} GB activations = {free / 1e9:.1f} GB free"
    )
    if free <= 0:
        words += ": the weights do not fit; use more GPUs or a smaller format"
    else:
        words += (
            f"; x {fraction:g} / {token_b / 1e3:.1f} kB per {use.kv_dtype} KV token = {tokens} tokens per rank"
            + (f" for {tokens_needed} needed" if tokens_needed else "")
        )
        if tokens < tokens_needed:
            words += ": use more GPUs, attention DP, a smaller KV format or a smaller batch"
    return MemoryFit(gpu.memory_b, weights, reserve_b, fraction, token_b, tokens, tokens_needed, words)


def kv_tokens_per_rank(model: Model, gpu: Gpu, mapping: Parallelism, use: MemoryUse) -> int:
    """KV tokens that one attention-DP rank (or the whole instance without attention DP) can hold; 0 if weights do
    not fit."""
    return memory_fit(model, gpu, mapping, use).kv_tokens
