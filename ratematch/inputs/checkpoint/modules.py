"""The matrices of a model by name: which part each belongs to, and how large it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ratematch.inputs.checkpoint.attention import FULL
from ratematch.inputs.checkpoint.experts import sparse_layers
from ratematch.inputs.checkpoint.fields import Fields
from ratematch.plan.memory import expert_params
from ratematch.plan.mixers import mixer_params
from ratematch.plan.model import Mixer, Model, Part


@dataclass(frozen=True)
class Module:
    """``names``: spellings of one matrix, or of those of one kind in a layer, in the families that have it."""

    part: Part
    names: tuple[str, ...]
    elements: int


def modules_of(text: Fields, model: Model) -> Iterator[Module]:
    """Every matrix of the main model, those of all experts of a layer together."""
    yield Module("embedding", ("embed_tokens",), model.vocab * model.hidden)
    yield Module("head", ("lm_head", "head"), model.vocab * model.hidden)
    for layer, (mixing, wide) in enumerate(_plan(text, model)):
        prefix = f"layers.{layer}"
        if mixing == "attention":
            yield from _attention(model, prefix)
        elif mixing == "mixers":
            yield from _mixers(model, prefix)
        if wide is not None:
            yield from _wide(model, prefix, wide, beside=text.text("model_type").startswith("gemma4"))


def _plan(text: Fields, model: Model) -> list[tuple[str | None, str | None]]:
    """Of each layer, which part mixes tokens and which one widens them."""
    letters = text.data.get("hybrid_override_pattern")
    blocks = text.data.get("layers_block_type")
    if isinstance(letters, str) or (isinstance(blocks, list) and model.mlp_layers is not None):
        short = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
        kinds = (
            list(letters)
            if isinstance(letters, str)
            else [short.get(str(kind), "-") for kind in (blocks if isinstance(blocks, list) else [])]
        )
        mixing = {"M": "mixers", "*": "attention"}
        wide = {"-": "dense", "E": "experts"}
        return [(mixing.get(kind), wide.get(kind)) for kind in kinds]
    sparse = set(sparse_layers(text, model.layers)) if model.moe else set()
    return [(kind, "experts" if layer in sparse else "dense") for layer, kind in enumerate(_mixing(text, model))]


def _mixing(text: Fields, model: Model) -> list[str]:
    layers = model.layers
    if not model.mixers:
        return ["attention"] * layers
    if model.mixers[0].kind in ("attention", "compressed"):
        own = model.plain_layers
        return ["attention"] * own + ["mixers"] * (layers - own)
    kinds = text.data.get("layer_types")
    if isinstance(kinds, list):
        return ["attention" if kind in FULL else "mixers" for kind in kinds[:layers]]
    linear = text.data.get("linear_attn_config")
    if isinstance(linear, dict) and isinstance(linear.get("kda_layers"), list):
        return ["mixers" if layer + 1 in linear["kda_layers"] else "attention" for layer in range(layers)]
    every = max(1, round(layers / max(1, model.plain_layers)))
    return ["attention" if layer % every == every - 1 else "mixers" for layer in range(layers)]


def _attention(model: Model, prefix: str) -> Iterator[Module]:
    width, heads = model.hidden, model.heads

    def module(name: str, elements: int) -> Module:
        return Module("attention", (f"{prefix}.self_attn.{name}", f"{prefix}.mixer.{name}"), elements)

    if mla := model.mla:
        queries = heads * (mla.nope_dim + mla.rope_dim)
        if mla.q_lora_rank:
            yield module("q_a_proj", width * mla.q_lora_rank)
            yield module("q_b_proj", mla.q_lora_rank * queries)
        else:
            yield module("q_proj", width * queries)
        yield module("kv_a_proj_with_mqa", width * (mla.kv_lora_rank + mla.rope_dim))
        yield module("kv_b_proj", mla.kv_lora_rank * heads * (mla.nope_dim + mla.v_dim))
        yield module("o_proj", heads * mla.v_dim * width)
        return
    value = model.v_dim or model.head_dim
    yield module("q_proj", width * heads * model.head_dim * (2 if model.attention_gate else 1))
    yield module("k_proj", width * model.kv_heads * model.head_dim)
    yield module("v_proj", width * model.kv_heads * value)
    yield module("o_proj", width * heads * value)


INSIDE = {
    "mamba2": ("in_proj", "out_proj"),
    "mamba1": ("in_proj", "out_proj"),
    "gated_delta": ("in_proj_qkvz", "out_proj"),
    "kda": ("q_proj", "o_proj"),
    "lightning": ("qkv_proj", "out_proj"),
    "short_conv": ("in_proj", "out_proj"),
    "attention": ("q_proj", "o_proj"),
    "compressed": ("wq_b", "wo_b"),
}
OUTSIDE = {"gated_delta": "linear_attn", "short_conv": "conv", "compressed": "attn", "mamba1": "mamba"}


def _mixers(model: Model, prefix: str) -> Iterator[Module]:
    """The layer's own mixer is not told from the others of the model: they go by the same names."""
    mixer: Mixer = model.mixers[0]
    outer = OUTSIDE.get(mixer.kind, "self_attn")
    into, out = INSIDE[mixer.kind]
    elements = mixer_params(mixer, model.hidden)
    last = mixer.heads * mixer.head_dim * model.hidden
    first = max(0, elements - last)
    more = (f"{prefix}.linear_attn.in_proj_qkv",) if mixer.kind == "gated_delta" else ()
    names = [(f"{prefix}.{outer}.{name}", f"{prefix}.mixer.{name}", f"{prefix}.mamba.{name}") for name in (into, out)]
    yield Module("mixers", (*names[0], *more), first)
    yield Module("mixers", names[1], min(last, elements))


def _wide(model: Model, prefix: str, wide: str, *, beside: bool) -> Iterator[Module]:
    """``beside``: experts stand beside the MLP of their layer, not within one."""
    outer = ("mlp", "mixer", "ffn", "feed_forward", "block_sparse_moe")
    if wide == "dense" or model.moe is None:
        names = tuple(f"{prefix}.{name}.down_proj" for name in outer)
        yield Module("dense", names, model.mlp_matrices * model.hidden * model.ffn)
        return
    moe = model.moe
    inner = ("experts.0.down_proj", "experts.0.w2", "experts.down_proj")
    names = tuple(f"{prefix}.{last}" for last in inner) if beside else ()
    names = names or tuple(f"{prefix}.{name}.{last}" for name in outer for last in inner)
    yield Module("experts", names, moe.experts * expert_params(model, moe))
    if moe.shared_ffn:
        shared = ("shared_experts.down_proj", "shared_expert.down_proj", "shared_mlp.down_proj")
        spelled = ("down_proj",) if beside else shared
        names = tuple(f"{prefix}.{name}.{last}" for name in outer for last in spelled)
        yield Module("shared", names, model.mlp_matrices * model.hidden * moe.shared_ffn)
