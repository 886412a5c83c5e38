"""``model_type`` of a ``config.json`` to what its keys mean. One row a family; what is in none is not guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ratematch.inputs.checkpoint.attention import (
    add_compressed,
    add_latent,
    add_windows,
    split_windows,
)
from ratematch.inputs.checkpoint.blocks import read_blocks
from ratematch.inputs.checkpoint.experts import add_experts
from ratematch.inputs.checkpoint.fields import Fields
from ratematch.inputs.checkpoint.recurrent import (
    add_delta,
    add_kda,
    add_lightning,
    add_mamba,
    add_parallel_mamba,
    add_pattern,
    add_short_conv,
)
from ratematch.plan.model import Model

Step = Callable[[Fields, Model], Model]


@dataclass(frozen=True)
class Family:
    """How models of one ``model_type`` are read: ``steps`` add to the common shape, one after another.

    ``tied``: whether the embeddings are one matrix where the file does not say. ``matrices``: of an MLP, 2 without a
    gate. ``every``: each so many layers one sees all tokens, where the file does not list them. ``unmodelled``: in
    words.
    """

    steps: tuple[Step, ...] = (add_experts, add_windows)
    tied: bool = False
    matrices: int = 3
    every: int = 0
    unmodelled: tuple[str, ...] = ()


def _adjust_mlp(fields: Fields, model: Model) -> Model:
    """LFM2: the width in the file is that of an MLP without a gate, unless it says otherwise."""
    fields.seen.add("block_ff_dim")
    if not fields.flag("block_auto_adjust_ff_dim"):
        fields.seen.add("block_ffn_dim_multiplier")
        return model
    width = int(fields.number("block_ffn_dim_multiplier", default=1.0) * (2 * model.ffn // 3))
    unit = fields.count("block_multiple_of", default=256)
    return replace(model, ffn=-(-width // unit) * unit)


def _plain_width(fields: Fields, model: Model) -> Model:
    """Llama 4: plain MLPs have a width of their own, and every MoE layer has one shared expert."""
    if model.moe is None:
        return model
    moe = replace(model.moe, shared_ffn=model.ffn)
    return replace(model, moe=moe, ffn=fields.count("intermediate_size_mlp", default=model.ffn))


def _wide_plain(fields: Fields, model: Model) -> Model:
    """Gemma 4: an MLP stands beside the experts of each layer."""
    return replace(model, moe=replace(model.moe, shared_ffn=model.ffn)) if model.moe else model


def _no_layer_inputs(fields: Fields, model: Model) -> Model:
    """Gemma 4: small ones have embeddings of their own in every layer, and layers that share a cache."""
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if fields.count(key, default=0, least=0):
            raise fields.error(key, "is not 0, and such layers are not modelled")
    if fields.flag("use_double_wide_mlp"):
        raise fields.error("use_double_wide_mlp", "is true, and such layers are not modelled")
    return model


def _full_only(fields: Fields, model: Model) -> Model:
    """MiniMax M2: the list of kinds that M1 had is still there, and all are plain attention."""
    if 0 in (fields.counts("attn_type_list", model.layers) or []):
        raise fields.error(
            "attn_type_list", "has layers that are no plain attention, which this family is not read with"
        )
    return model


def _no_norm_mlp(fields: Fields, model: Model) -> Model:
    """MiniMax M1: shared experts are none; Hunyuan and others spell a list where all layers are alike."""
    fields.seen.update(("layernorm_full_attention_alpha", "layernorm_full_attention_beta"))
    fields.seen.update(("layernorm_linear_attention_alpha", "layernorm_linear_attention_beta"))
    fields.seen.update(("layernorm_mlp_alpha", "layernorm_mlp_beta"))
    return model


PLAIN = Family()
LATENT = Family((add_latent, add_experts))
SPARSE = ("what sparse attention leaves out is chosen by an indexer; its scores are counted, its kernels are not",)
CHUNKS = ("attention in chunks counts as a sliding window of a chunk",)
STATES = ("states are counted in fp32, whatever an engine is told to keep them in",)
COMPRESSED = (
    "hyper-connections (mHC) between layers count as nothing",
    "of compressed attention, what several blocks share is not counted",
)

LIKE_LLAMA = (
    "llama",
    "mistral",
    "ministral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "phi3",
    "phimoe",
    "glm",
    "glm4",
    "glm4_moe",
    "mimo",
    "seed_oss",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "internlm2",
    "internlm3",
    "yi",
    "aquila",
    "baichuan",
    "solar",
    "exaone4",
    "ernie4_5",
    "ernie4_5_moe",
    "dots1",
    "granite",
    "granitemoe",
    "hunyuan_v1_dense",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "qwen3_vl_moe_text",
    "qwen2_vl_text",
    "ministral3",
    "helium",
)
"""Layers of attention and a gated MLP or experts, all alike but for windows."""

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(LIKE_LLAMA, PLAIN),
    "minimax_m2": Family((_full_only, add_experts, add_windows)),
    **dict.fromkeys(["gemma", "smollm3"], Family(tied=True)),
    "cohere": Family(tied=True),
    "cohere2": Family(tied=True, every=4),
    "gemma2": Family(tied=True, every=2),
    **dict.fromkeys(("gemma3", "gemma3_text"), Family(tied=True, every=6)),
    **dict.fromkeys(
        ("gemma4", "gemma4_text"),
        Family((_no_layer_inputs, add_experts, _wide_plain, split_windows), tied=True),
    ),
    "gpt_oss": Family(every=2),
    **dict.fromkeys(
        ("llama4", "llama4_text"), Family((add_experts, _plain_width, add_windows), every=4, unmodelled=CHUNKS)
    ),
    "starcoder2": Family(matrices=2, tied=True),
    "nemotron": Family(matrices=2),
    "arcee": Family(matrices=2),
    "apertus": Family(matrices=2),
    "nemotron-nas": Family((read_blocks,)),
    "mimo_v2_flash": Family(
        (add_experts, split_windows),
        unmodelled=("MTP layers are not counted: the file does not say how many there are",),
    ),
    **dict.fromkeys(["deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"], LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), Family((add_latent, add_experts), unmodelled=SPARSE)),
    "deepseek_v4": Family((add_experts, add_compressed), unmodelled=(*SPARSE, *COMPRESSED)),
    "kimi_linear": Family((add_latent, add_kda, add_experts), unmodelled=STATES),
    **dict.fromkeys(
        ["qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"],
        Family((add_experts, add_delta), unmodelled=STATES),
    ),
    "nemotron_h": Family((add_experts, add_pattern), matrices=2, unmodelled=STATES),
    **dict.fromkeys(
        ("minimax_m1", "minimax_text_01", "minimax"),
        Family((add_experts, add_lightning, _no_norm_mlp), unmodelled=STATES),
    ),
    "jamba": Family((add_experts, add_mamba), unmodelled=STATES),
    **dict.fromkeys(("bamba", "granitemoehybrid"), Family((add_experts, add_mamba), unmodelled=STATES)),
    "falcon_h1": Family((add_parallel_mamba,), unmodelled=STATES),
    **dict.fromkeys(("lfm2", "lfm2_moe"), Family((_adjust_mlp, add_experts, add_short_conv), tied=True)),
}
"""Families by ``model_type``."""


def find_family(kind: str, fields: Fields) -> Family | None:
    """The family of ``model_type`` ``kind``; ``None`` where it is not known."""
    family = FAMILIES.get(kind)
    if kind in ("mistral", "ministral3") and fields.has("kv_lora_rank"):
        return LATENT
    return family
