"""What token mixing takes, by kind of layer: matrices, cache, state. All figures are of one layer of one model.

Matrices are those of the public implementations (DeepSeek, Mamba, Gated DeltaNet, Kimi Delta Attention, MiniMax
lightning attention, LFM2); norms and biases, below 0.1 %, are left out.
"""

from __future__ import annotations

from ratematch.plan.model import Indexer, Mixer, Mla, Model

STATE_B = 4.0
"""Bytes of an element of a recurrent state: engines keep it in fp32 unless they are told otherwise."""

CONV_B = 2.0
"""Bytes of an element of what a convolution remembers."""

INDEX_BLOCK, INDEX_SCALE_B = 128, 4.0
"""An indexer's keys are cached in FP8 with one fp32 scale for so many elements (vLLM, TensorRT-LLM)."""


def mla_params(mla: Mla, hidden: int, heads: int) -> int:
    """Elements of the matrices of latent attention; without a query rank the queries have one matrix."""
    queries = heads * (mla.nope_dim + mla.rope_dim)
    return (
        (hidden * mla.q_lora_rank + mla.q_lora_rank * queries if mla.q_lora_rank else hidden * queries)
        + hidden * (mla.kv_lora_rank + mla.rope_dim)
        + mla.kv_lora_rank * heads * (mla.nope_dim + mla.v_dim)
        + heads * mla.v_dim * hidden
    )


def indexer_params(indexer: Indexer, hidden: int) -> int:
    """Queries from the latent, one key head and a weight per head."""
    queries = (indexer.rank or hidden) * indexer.heads * indexer.head_dim
    return queries + hidden * indexer.head_dim + hidden * indexer.heads


def indexer_bytes(indexer: Indexer) -> float:
    """Bytes that the indexer caches of one token."""
    return indexer.head_dim + INDEX_SCALE_B * indexer.head_dim / INDEX_BLOCK


def mixer_params(mixer: Mixer, hidden: int) -> int:
    """Elements of the matrices of one layer of ``mixer`` in a model of width ``hidden``."""
    inner = mixer.heads * mixer.head_dim
    match mixer.kind:
        case "attention":
            value = mixer.heads * (mixer.v_dim or mixer.head_dim)
            kv = mixer.kv_heads * mixer.head_dim + _value_width(mixer)
            return hidden * (inner * (2 if mixer.gate else 1) + kv + value)
        case "compressed":
            return _compressed_params(mixer, hidden)
        case "mamba2":
            narrow = mixer.groups * mixer.state
            return (
                hidden * (2 * inner + 2 * narrow + mixer.heads) + conv_channels(mixer) * mixer.conv + inner * hidden
            )
        case "mamba1":
            low = mixer.rank + 2 * mixer.state
            return hidden * 3 * inner + inner * (low + mixer.rank + mixer.state + mixer.conv)
        case "gated_delta":
            keys = mixer.groups * mixer.state
            return (
                hidden * (2 * keys + 2 * inner + 2 * mixer.heads) + conv_channels(mixer) * mixer.conv + inner * hidden
            )
        case "kda":
            gates = (hidden + inner) * mixer.rank + (hidden * inner if mixer.gate else (hidden + inner) * mixer.rank)
            return hidden * (4 * inner + mixer.heads) + gates + conv_channels(mixer) * mixer.conv
        case "lightning":
            return 5 * hidden * inner
        case "short_conv":
            return 4 * hidden * inner + inner * mixer.conv


def _compressed_params(mixer: Mixer, hidden: int) -> int:
    """DeepSeek V4: low-rank queries, one shared latent, grouped output, and what compresses tokens."""
    inner = mixer.heads * mixer.head_dim
    count = hidden * mixer.q_rank + mixer.q_rank * inner + hidden * mixer.head_dim
    count += inner * mixer.o_rank + mixer.o_groups * mixer.o_rank * hidden
    overlap = 2 if mixer.indexer else 1  # neighbouring blocks overlap where few tokens are compressed into one
    if mixer.ratio:
        count += 2 * hidden * overlap * mixer.head_dim
    if mixer.indexer:
        own = mixer.indexer
        count += own.rank * own.heads * own.head_dim + hidden * own.heads + 2 * hidden * overlap * own.head_dim
    return count


def _value_width(mixer: Mixer) -> int:
    return 0 if mixer.shared_kv else mixer.kv_heads * (mixer.v_dim or mixer.head_dim)


def mixer_kv_elements(mixer: Mixer) -> float:
    """Cached elements of one token; a fraction where several tokens share an entry."""
    if mixer.kind == "attention":
        return mixer.kv_heads * (mixer.head_dim + (mixer.v_dim or mixer.head_dim))
    return mixer.head_dim / mixer.ratio if mixer.kind == "compressed" and mixer.ratio else 0.0


def mixer_index_bytes(mixer: Mixer) -> float:
    """Bytes that the layer's indexer caches of one token, one entry per compressed one."""
    return indexer_bytes(mixer.indexer) / max(1, mixer.ratio) if mixer.indexer else 0.0


def conv_channels(mixer: Mixer) -> int:
    """Channels that the layer's convolution runs over."""
    inner = mixer.heads * mixer.head_dim
    match mixer.kind:
        case "mamba2" | "gated_delta":
            return inner + 2 * mixer.groups * mixer.state
        case "kda":
            return 3 * inner
        case "mamba1" | "short_conv":
            return inner
        case _:
            return 0


def state_elements(mixer: Mixer) -> int:
    """Elements of the recurrent state of one sequence."""
    return (
        0 if mixer.kind in ("attention", "compressed", "short_conv") else mixer.heads * mixer.head_dim * mixer.state
    )


def mixer_state_bytes(mixer: Mixer) -> float:
    """Bytes of one sequence, whatever its length: recurrent state, the convolution's last tokens, raw window."""
    remembered = conv_channels(mixer) * max(0, mixer.conv - 1) * CONV_B
    window = mixer.window * mixer.head_dim * CONV_B if mixer.kind == "compressed" else 0.0
    return state_elements(mixer) * STATE_B + remembered + window


def state_bytes(model: Model) -> float:
    """Bytes that a sequence takes besides its KV cache, whole model."""
    return sum(mixer.layers * mixer_state_bytes(mixer) for mixer in model.mixers)


def mixer_pair_flops(mixer: Mixer) -> float:
    """FLOPs per (query token, attended entry) pair: scores and weighted values of all heads."""
    if mixer.kind == "attention":
        return 2.0 * mixer.heads * (mixer.head_dim + (mixer.v_dim or mixer.head_dim))
    return 4.0 * mixer.heads * mixer.head_dim if mixer.kind == "compressed" else 0.0
