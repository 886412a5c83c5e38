"""Attention of a ``config.json``: shapes, windows, latents, indexers."""

from __future__ import annotations

from dataclasses import replace

from ratematch.inputs.checkpoint.fields import Fields
from ratematch.plan.model import Indexer, Mixer, Mla, Model

FULL = frozenset(("full_attention", "attention", "global", "global_attention", "hybrid", "full"))
NEAR = frozenset(("sliding_attention", "chunked_attention", "local", "sliding", "sliding_window"))


def add_latent(fields: Fields, model: Model) -> Model:
    """``model`` with latent attention (MLA), and with the indexer of sparse attention where there is one."""
    rank = fields.count("q_lora_rank", default=0, least=0)
    mla = Mla(
        q_lora_rank=rank,
        kv_lora_rank=fields.count("kv_lora_rank"),
        rope_dim=fields.count("qk_rope_head_dim", least=0),
        nope_dim=fields.count("qk_nope_head_dim"),
        v_dim=fields.count("v_head_dim"),
    )
    fields.seen.update(("qk_head_dim", "head_dim", "layer_types"))
    gate = fields.flag("mla_use_output_gate")
    model = replace(model, mla=mla, head_dim=mla.nope_dim + mla.rope_dim, kv_heads=model.heads, attention_gate=gate)
    if not fields.has("index_topk"):
        return model
    kinds = fields.names("indexer_types", model.layers)
    own = 0 if kinds is None else sum(kind == "full" for kind in kinds)
    return replace(
        model,
        indexer=Indexer(
            heads=fields.count("index_n_heads"),
            head_dim=fields.count("index_head_dim"),
            top_k=fields.count("index_topk"),
            rank=rank,
            layers=0 if own == model.layers else own,
        ),
    )


def add_windows(fields: Fields, model: Model) -> Model:
    """``model`` with the layers that attend to the last tokens only, where they have the shape of the others."""
    window = fields.count("sliding_window", "attention_chunk_size", default=0, least=0)
    kinds = fields.names("layer_types", model.layers)
    if kinds is not None:
        if strange := sorted(set(kinds) - FULL - NEAR):
            raise fields.error("layer_types", f"{strange[0]!r} is no kind of attention that is known here")
        near = sum(kind in NEAR for kind in kinds)
        fields.seen.update(
            ("sliding_window_pattern", "use_sliding_window", "no_rope_layers", "no_rope_layer_interval")
        )
    else:
        near = _near_layers(fields, model.layers) if window else 0
    if near and not window:
        raise fields.error("sliding_window", f"is not there, and {near} layers have one")
    return replace(model, sliding_layers=near, sliding_window=window if near else 0)


def _near_layers(fields: Fields, layers: int) -> int:
    """How many layers have the window, where they are not listed one by one."""
    if not fields.flag("use_sliding_window", default=True):
        fields.seen.update(("sliding_window_pattern", "max_window_layers"))
        return 0
    whole = fields.counts("no_rope_layers", layers)
    if (
        whole is not None and len(whole) == layers
    ):  # Llama 4: 0 marks a layer without positions, which sees all tokens
        return sum(mark != 0 for mark in whole)
    pattern = fields.data.get("sliding_window_pattern")
    if isinstance(pattern, str):
        text = fields.text("sliding_window_pattern")
        if not text or set(text) - set("LG"):
            raise fields.error("sliding_window_pattern", "must be L and G, or a number")
        return sum(text[layer % len(text)] == "L" for layer in range(layers))
    every = fields.count("sliding_window_pattern", "no_rope_layer_interval", default=0, least=0)
    if every:
        return layers - layers // every
    if fields.has("max_window_layers") and fields.has("use_sliding_window"):
        return max(0, layers - fields.count("max_window_layers", least=0))  # Qwen2: layers from there on
    return layers


def split_windows(fields: Fields, model: Model) -> Model:
    """Gemma 4 and MiMo V2: layers with a window have heads of another shape than those that see all tokens."""
    if fields.has("hybrid_layer_pattern"):
        marks = fields.counts("hybrid_layer_pattern", model.layers) or []
        near = sum(mark == 1 for mark in marks)
        local = Mixer(
            kind="attention",
            layers=near,
            heads=fields.count("swa_num_attention_heads", default=model.heads),
            head_dim=fields.count("swa_head_dim", default=model.head_dim),
            kv_heads=fields.count("swa_num_key_value_heads", default=model.kv_heads),
            v_dim=fields.count("swa_v_head_dim", "v_head_dim", default=model.head_dim),
            window=fields.count("sliding_window", "sliding_window_size"),
        )
        fields.seen.update(("sliding_window_size", "attention_chunk_size", "sliding_window"))
        return replace(model, v_dim=fields.count("v_head_dim", default=model.head_dim), mixers=(local,))
    kinds = fields.names("layer_types", model.layers) or []
    far = sum(kind in FULL for kind in kinds)
    whole = Mixer(
        kind="attention",
        layers=far,
        heads=model.heads,
        head_dim=fields.count("global_head_dim", default=model.head_dim),
        kv_heads=fields.count("num_global_key_value_heads", default=model.kv_heads),
        shared_kv=fields.flag("attention_k_eq_v"),
    )
    near = model.layers - far
    window = fields.count("sliding_window", default=0, least=0)
    return replace(model, mixers=(whole,), sliding_layers=near if window else 0, sliding_window=window)


def add_compressed(fields: Fields, model: Model) -> Model:
    """DeepSeek V4: every layer keeps a window, most keep latents of several tokens too, some choose among them."""
    rank = fields.count("q_lora_rank")
    ratios = fields.counts("compress_ratios", model.layers) or []
    head_dim = fields.count("head_dim")
    index = Indexer(fields.count("index_n_heads"), fields.count("index_head_dim"), fields.count("index_topk"), rank)
    mixers = [
        Mixer(
            kind="compressed",
            layers=sum(other == ratio for other in ratios),
            heads=model.heads,
            head_dim=head_dim,
            window=fields.count("sliding_window"),
            ratio=ratio,
            q_rank=rank,
            o_groups=fields.count("o_groups"),
            o_rank=fields.count("o_lora_rank"),
            indexer=index if 0 < ratio < 64 else None,  # few tokens a latent: many latents, chosen among
        )
        for ratio in dict.fromkeys(ratios)
    ]
    fields.seen.update(("qk_rope_head_dim", "num_key_value_heads"))
    return replace(model, head_dim=head_dim, kv_heads=1, mixers=tuple(mixers))
