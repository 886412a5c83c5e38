"""What a model takes of a GPU under each way of splitting it: the rows of ``ratematch model show``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ratematch.plan.memory import (
    RUNTIME_RESERVE_B,
    MemoryUse,
    activation_bytes,
    kv_bytes_per_token_per_rank,
    memory_fit,
    weight_bytes_per_rank,
)
from ratematch.plan.model import Gpu, Mixer, Model
from ratematch.plan.parallelism import Parallelism

COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""GPUs of an instance that are looked at."""

FRACTION, TOKENS, SEQUENCES = 0.9, 8192, 64
"""Of what weights and activations leave, the share for the KV cache; tokens and sequences of a step."""


@dataclass(frozen=True)
class Sizes:
    """One mapping. Bytes are of its fullest GPU; ``kv_tokens``: that a rank holds, 0 where the weights do not fit."""

    mapping: str
    gpus: int
    weights_b: float
    kv_token_b: float
    kv_tokens: int


def sizes_on(model: Model, gpu: Gpu, precision: str, kv_dtype: str) -> list[Sizes]:
    """Every mapping of up to :data:`COUNTS` GPUs under which the model fits ``gpu``; the largest that does not, where
    none does."""
    rows = [_sizes(model, gpu, mapping, precision, kv_dtype) for mapping in _mappings(model)]
    fitting = [row for row in rows if row.kv_tokens]
    return fitting or rows[-1:]


def _sizes(model: Model, gpu: Gpu, mapping: Parallelism, precision: str, kv_dtype: str) -> Sizes:
    reserve_b = RUNTIME_RESERVE_B + activation_bytes(model, mapping, TOKENS, SEQUENCES)
    use = MemoryUse(precision, kv_dtype, FRACTION, reserve_b)
    return Sizes(
        mapping.label,
        mapping.gpus,
        weight_bytes_per_rank(model, mapping, precision),
        kv_bytes_per_token_per_rank(model, mapping, kv_dtype),
        memory_fit(model, gpu, mapping, use).kv_tokens,
    )


def _mappings(model: Model) -> Iterator[Parallelism]:
    for count in COUNTS:
        if model.heads % count == 0:
            yield Parallelism(tp=count)
        if model.moe is None or model.moe.experts % count or count == 1:
            continue
        yield Parallelism(tp=count, ep=count, attention_dp=True)
        if model.heads % count == 0:
            yield Parallelism(tp=count, ep=count)


def describe_layers(model: Model) -> list[tuple[str, int]]:
    """What the layers are made of, in words, and how many there are of each."""
    rows: list[tuple[str, int]] = []
    near = model.sliding_layers
    if model.plain_layers:
        name = _attention_words(model)
        if near:
            rows.append((f"{name}, the last {model.sliding_window} tokens", near))
        rows.append((name, model.plain_layers - near))
    rows += [(_mixer_words(mixer), mixer.layers) for mixer in model.mixers]
    if model.moe:
        moe = model.moe
        shared = f", shared ones of {moe.shared_ffn}" if moe.shared_ffn else ""
        latent = f", on latents of {moe.latent}" if moe.latent else ""
        rows.append(
            (
                f"{moe.experts} experts of {moe.ffn}, {moe.top_k} a token{shared}{latent}",
                model.wide_layers - moe.dense_layers,
            )
        )
    if plain := model.moe.dense_layers if model.moe else model.wide_layers:
        rows.append((f"MLP of {model.ffn}", plain))
    if model.mtp_layers:
        rows.append(("MTP", model.mtp_layers))
    return [(words, count) for words, count in rows if count]


def _mixer_words(mixer: Mixer) -> str:
    heads = f"{mixer.heads} heads"
    match mixer.kind:
        case "attention":
            words = f"attention, {heads}, {mixer.kv_heads} KV heads of {mixer.head_dim}"
        case "compressed" if mixer.ratio:
            words = f"compressed attention, {heads} of {mixer.head_dim}, one entry per {mixer.ratio} tokens"
        case "compressed":
            words = f"attention, {heads} on one latent of {mixer.head_dim}"
        case "short_conv":
            words = f"short convolution over {mixer.conv} tokens"
        case _:
            words = f"{mixer.kind}, state {mixer.heads} x {mixer.head_dim} x {mixer.state}"
    words += f", the last {mixer.window} tokens" if mixer.window else ""
    return words + (f", an indexer chooses {mixer.indexer.top_k}" if mixer.indexer else "")


def _attention_words(model: Model) -> str:
    if model.mla:
        words = f"MLA, {model.heads} heads on a latent of {model.mla.kv_lora_rank} + {model.mla.rope_dim}"
    else:
        kind = "attention" if model.kv_heads == model.heads else "grouped-query attention"
        words = f"{kind}, {model.heads} heads, {model.kv_heads} KV heads of {model.head_dim}"
    words += ", output gate" if model.attention_gate else ""
    return words + (f", an indexer chooses {model.indexer.top_k}" if model.indexer else "")
