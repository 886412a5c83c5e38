"""Routed and shared experts of a ``config.json``, and which layers have them."""

from __future__ import annotations

from dataclasses import replace

from ratematch.inputs.checkpoint.fields import Fields
from ratematch.plan.model import Model, Moe

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
    "moe_top_k",
)
EXPERT_FFN = ("moe_intermediate_size", "expert_intermediate_size", "expert_ffn_hidden_size")
SHARED_FFN = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)
SHARED = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")


def add_experts(fields: Fields, model: Model) -> Model:
    """``model`` with the experts that the keys name; unchanged where there are none."""
    experts = fields.count(*EXPERTS, default=0, least=0)
    if not fields.flag("enable_moe_block", default=True):
        experts = 0
    if experts < 2:
        for key in (*TOP_K, *EXPERT_FFN, *SHARED_FFN, *SHARED):
            fields.seen.add(key)
        return model
    ffn = fields.count(*EXPERT_FFN, default=model.ffn)
    sparse = sparse_layers(fields, model.layers)
    moe = Moe(
        experts=experts,
        top_k=fields.count(*TOP_K),
        ffn=ffn,
        shared_ffn=_shared_ffn(fields, ffn),
        dense_layers=model.layers - len(sparse),
        interleaved=bool(sparse) and sparse != list(range(model.layers - len(sparse), model.layers)),
        latent=fields.count("moe_latent_size", "routed_expert_hidden_size", default=0, least=0),
    )
    return replace(model, moe=moe) if sparse else model


def _shared_ffn(fields: Fields, ffn: int) -> int:
    """Width of all shared experts together."""
    number = fields.count(*SHARED, default=0, least=0)
    if fields.has(*SHARED_FFN):
        return fields.count(*SHARED_FFN, least=0)
    return number * ffn


def sparse_layers(fields: Fields, layers: int) -> list[int]:
    """The layers that have experts, ascending."""
    kinds = fields.names("mlp_layer_types", layers)
    every = fields.data.get("moe_layer_freq")
    if isinstance(every, list):
        marks = fields.counts("moe_layer_freq", layers)
        fields.seen.add("first_k_dense_replace")
        return [layer for layer, mark in enumerate(marks or []) if mark]
    if kinds is not None:
        fields.seen.update(("first_k_dense_replace", "moe_layer_freq"))
        return [layer for layer, kind in enumerate(kinds) if kind == "sparse"]
    first = fields.count("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0, least=0)
    last = fields.count("moe_layer_end_index", default=layers - 1, least=0)
    step = fields.count(
        "moe_layer_freq",
        "decoder_sparse_step",
        "interleave_moe_layer_step",
        "expert_layer_period",
        "moe_layer_interval",
        default=1,
    )
    offset = fields.count("expert_layer_offset", default=step - 1, least=0)
    plain = set(fields.counts("mlp_only_layers") or [])
    named = fields.counts("moe_layers")
    if named is None and isinstance(fields.data.get("moe_layers_enum"), str):
        named = _enumerated(fields)
    return [
        layer
        for layer in range(layers)
        if layer >= first
        and layer <= last
        and layer not in plain
        and (layer in named if named is not None else step == 1 or layer % step == offset % step)
    ]


def _enumerated(fields: Fields) -> list[int]:
    """``"4,5,6"`` as layers."""
    text = fields.text("moe_layers_enum")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise fields.error("moe_layers_enum", "must be layers with commas between them")
    return [int(part) for part in parts]
