"""Bytes: what weights and KV cache take on a GPU, whether they fit, and what a KV transfer carries.

Sources: contract, section 3.4 (the KV fraction applies to what weights and activations leave free) and the published
model configurations. Parameters are counted from matrix shapes; norms and biases (below 0.1 %) are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ratematch.plan.model import Gpu, Model, Moe
from ratematch.plan.parallelism import Parallelism

FORMAT_BYTES: dict[str, float] = {
    "bf16": 2.0,
    "fp8": 1.0,
    "nvfp4": 0.5 + 1 / 16,  # one FP8 scale per 16 values
    "mxfp4": 0.5 + 1 / 32,  # one E8M0 scale per 32 values
}
"""Bytes per element of a number format, scales included."""


def format_bytes(name: str) -> float:
    """Bytes per element of the number format ``name``.

    Raises:
        ValueError: not a known format.
    """
    if name not in FORMAT_BYTES:
        raise ValueError(f"number format {name!r} is not known: use one of {', '.join(FORMAT_BYTES)}")
    return FORMAT_BYTES[name]


RUNTIME_RESERVE_B = 4e9
"""Memory of one GPU that the CUDA context, communication buffers and graphs take."""


def default_precision(model: Model, gpu: Gpu) -> str:
    """Weight format when nobody names one: the model's only one, else what the GPU's deployments normally use."""
    return model.precision or gpu.precision


# ------------------------------------------------------------------------------------------------ parameters


def attention_params(model: Model) -> int:
    """Elements of the attention matrices of one layer."""
    if model.mla is None:
        return model.hidden * model.head_dim * (2 * model.heads + 2 * model.kv_heads)
    mla = model.mla
    return (
        model.hidden * mla.q_lora_rank
        + mla.q_lora_rank * model.heads * (mla.nope_dim + mla.rope_dim)
        + model.hidden * (mla.kv_lora_rank + mla.rope_dim)
        + mla.kv_lora_rank * model.heads * (mla.nope_dim + mla.v_dim)
        + model.heads * mla.v_dim * model.hidden
    )


def expert_params(model: Model, moe: Moe) -> int:
    """Elements of one routed expert of one layer (gate, up and down projections)."""
    return 3 * model.hidden * moe.ffn


def total_params(model: Model) -> int:
    """Elements of the whole model without MTP layers; input and output embeddings counted separately."""
    dense_layers = model.moe.dense_layers if model.moe else model.layers
    count = 2 * model.vocab * model.hidden
    count += model.layers * attention_params(model) + dense_layers * 3 * model.hidden * model.ffn
    if model.moe:
        per_layer = model.moe.experts * expert_params(model, model.moe)
        per_layer += 3 * model.hidden * model.moe.shared_ffn + model.hidden * model.moe.experts
        count += (model.layers - dense_layers) * per_layer
    return count


def weight_bytes_per_rank(
    model: Model, mapping: Parallelism, precision: str, mtp_layers: int = 0, expert_slots: int = 0
) -> float:
    """Weight bytes on the fullest GPU of an instance.

    Routed experts are always spread over all ``tp`` ranks (all ``ep`` ranks, where those are more). Under attention
    DP everything else is replicated; otherwise it is sharded over ``tp``. ``pp`` divides layers (rounded up);
    embeddings stay in bf16. ``mtp_layers`` MTP layers (one attention + MoE layer and a 2h x h projection each) are
    added. ``expert_slots``: experts of a layer with the copies that a load balancer keeps, 0 = no copies.

    Raises:
        ValueError: ``precision`` is not a known format.
    """
    experts_b = format_bytes(precision)
    attention_b = format_bytes(model.attention_precision.get(precision, precision))
    shards = 1 if mapping.attention_dp else mapping.tp
    layers = math.ceil(model.layers / mapping.pp)
    dense = min(model.moe.dense_layers, layers) if model.moe else layers
    moe_layers = (layers - dense if mapping.pp == 1 else layers) if model.moe else 0
    dense = dense if mapping.pp == 1 or model.moe is None else 0  # the fullest stage holds MoE layers only
    layers += mtp_layers
    moe_layers += mtp_layers if model.moe else 0
    dense += 0 if model.moe else mtp_layers

    total = layers * attention_params(model) / shards * attention_b
    total += dense * 3 * model.hidden * model.ffn / shards * experts_b
    if model.moe:
        spread = max(mapping.tp, mapping.ep)
        slots = expert_slots or model.moe.experts
        total += moe_layers * slots * expert_params(model, model.moe) / spread * experts_b
        total += moe_layers * 3 * model.hidden * model.moe.shared_ffn / shards * experts_b
        total += moe_layers * model.hidden * model.moe.experts * FORMAT_BYTES["bf16"]
    total += mtp_layers * 2 * model.hidden * model.hidden / shards * FORMAT_BYTES["bf16"]
    embeddings = 2 if mapping.pp == 1 else 1
    return total + embeddings * model.vocab * model.hidden / shards * FORMAT_BYTES["bf16"]


# ------------------------------------------------------------------------------------------------ KV cache


def kv_elements_per_layer(model: Model) -> int:
    """Cached elements per token and layer: K and V of every KV head, or the MLA latent with its rope part."""
    if model.mla is not None:
        return model.mla.kv_lora_rank + model.mla.rope_dim
    return 2 * model.kv_heads * model.head_dim


def kv_bytes_per_token(model: Model, dtype: str, mtp_layers: int = 0) -> float:
    """KV bytes of one token of the whole model, stored once.

    Raises:
        ValueError: ``dtype`` is not a known format.
    """
    return (model.layers + mtp_layers) * kv_elements_per_layer(model) * format_bytes(dtype)


def kv_bytes_per_token_per_rank(model: Model, mapping: Parallelism, dtype: str, mtp_layers: int = 0) -> float:
    """KV bytes that one token of a sequence costs on each GPU that holds it.

    Attention DP: all of it, on the one rank that owns the sequence. Tensor parallel: the MLA latent is replicated on
    every rank; KV heads are sharded, and replicated once there are more ranks than heads. ``pp`` divides layers
    (rounded up), ``cp`` divides tokens.
    """
    layers = math.ceil(model.layers / mapping.pp) + mtp_layers
    share = 1.0
    if model.mla is None and not mapping.attention_dp:
        share = max(1 / mapping.tp, 1 / model.kv_heads)
    return layers * kv_elements_per_layer(model) * format_bytes(dtype) * share / mapping.cp


def kv_duplication(model: Model, mapping: Parallelism) -> float:
    """How many times each KV byte of a sequence is stored within an instance (1 = once)."""
    if mapping.attention_dp:
        return 1.0
    if model.mla is not None:
        return float(mapping.tp)
    return max(1.0, mapping.tp / model.kv_heads)


def transfer_bytes(model: Model, isl: int, dtype: str, mtp_layers: int = 0) -> float:
    """KV bytes that leave a ctx server for one request of ``isl`` prompt tokens (each byte sent once)."""
    return isl * kv_bytes_per_token(model, dtype, mtp_layers)


def transfer_bytes_received(model: Model, mapping: Parallelism, isl: int, dtype: str, mtp_layers: int = 0) -> float:
    """KV bytes that all GPUs of a gen instance together receive for one request: replicated parts count each time."""
    return transfer_bytes(model, isl, dtype, mtp_layers) * kv_duplication(model, mapping)


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
