"""Layers with a state in place of a cache: Mamba, gated delta rule, Kimi delta attention, lightning, convolutions."""

from __future__ import annotations

from dataclasses import replace

from ratematch.inputs.checkpoint.attention import FULL
from ratematch.inputs.checkpoint.fields import Fields
from ratematch.plan.model import Mixer, Model


def add_pattern(fields: Fields, model: Model) -> Model:
    """Nemotron-H: a letter a block, which is Mamba (M), attention (*), an MLP (-) or experts (E)."""
    pattern = fields.text("hybrid_override_pattern")
    names = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    if pattern:
        if strange := sorted(set(pattern) - set(names)):
            raise fields.error("hybrid_override_pattern", f"{strange[0]!r} is none of M, *, - and E")
        kinds = [names[letter] for letter in pattern]
    else:
        kinds = fields.names("layers_block_type", model.layers) or []
        if not kinds or set(kinds) - set(names.values()):
            raise fields.error("hybrid_override_pattern", "is not there, and is needed")
    if len(kinds) != model.layers:
        raise fields.error("hybrid_override_pattern", f"has {len(kinds)} blocks, and there are {model.layers} layers")
    head_dim = fields.count("mamba_head_dim")
    mamba = Mixer(
        kind="mamba2",
        layers=kinds.count("mamba"),
        heads=fields.count("mamba_num_heads"),
        head_dim=head_dim,
        groups=fields.count("n_groups", "mamba_n_groups"),
        state=fields.count("ssm_state_size", "mamba_state_dim"),
        conv=fields.count("conv_kernel", "mamba_d_conv", default=4),
    )
    wide = kinds.count("mlp") + kinds.count("moe")
    moe = replace(model.moe, dense_layers=kinds.count("mlp"), interleaved=True) if model.moe else None
    fields.seen.update(("mtp_hybrid_override_pattern", "mtp_layers_block_type"))
    return replace(
        model,
        moe=moe if kinds.count("moe") else None,
        mixers=(mamba,) if mamba.layers else (),
        attention_layers=kinds.count("attention"),
        mlp_layers=wide,
    )


def add_delta(fields: Fields, model: Model) -> Model:
    """Qwen3-Next and Qwen3.5: gated delta rule in most layers, gated attention in the others."""
    kinds = fields.names("layer_types", model.layers)
    every = fields.count("full_attention_interval", default=4)
    if kinds is None:
        linear = model.layers - model.layers // every
    else:
        if strange := sorted(set(kinds) - FULL - {"linear_attention"}):
            raise fields.error("layer_types", f"{strange[0]!r} is no kind of layer that is known here")
        linear = kinds.count("linear_attention")
    mixer = Mixer(
        kind="gated_delta",
        layers=linear,
        heads=fields.count("linear_num_value_heads"),
        head_dim=fields.count("linear_value_head_dim"),
        groups=fields.count("linear_num_key_heads"),
        state=fields.count("linear_key_head_dim"),
        conv=fields.count("linear_conv_kernel_dim", default=4),
    )
    gate = fields.flag("attn_output_gate", default=True)
    return replace(model, mixers=(mixer,) if linear else (), attention_gate=gate)


def add_kda(fields: Fields, model: Model) -> Model:
    """Kimi Linear: Kimi delta attention in most layers."""
    given = fields.below("linear_attn_config")
    if given is None:
        return model
    layers = given.counts("kda_layers") or []
    given.seen.add("full_attn_layers")
    head_dim = given.count("head_dim")
    mixer = Mixer(
        kind="kda",
        layers=len(layers),
        heads=given.count("num_heads"),
        head_dim=head_dim,
        state=head_dim,
        rank=head_dim,
        gate=given.flag("use_full_rank_gate"),
        conv=given.count("short_conv_kernel_size", default=4),
    )
    return replace(model, mixers=(mixer,))


def add_lightning(fields: Fields, model: Model) -> Model:
    """MiniMax-Text-01 and M1: lightning attention where ``attn_type_list`` has 0 or ``layer_types`` says so."""
    marks = fields.counts("attn_type_list", model.layers)
    kinds = fields.names("layer_types", model.layers)
    if marks is None and kinds is None:
        raise fields.error("attn_type_list", "is not there, and is needed")
    linear = marks.count(0) if marks is not None else (kinds or []).count("linear_attention")
    mixer = Mixer("lightning", linear, model.heads, model.head_dim, state=model.head_dim)
    return replace(model, mixers=(mixer,) if linear else ())


def add_mamba(fields: Fields, model: Model) -> Model:
    """Jamba (Mamba 1) and Bamba, Granite 4, Falcon-H1 (Mamba 2) in the layers that are not attention."""
    layers = model.layers
    kinds = fields.names("layer_types", layers) or fields.names("layers_block_type", layers)
    indices = fields.counts("attn_layer_indices")
    if kinds is not None:
        far = sum(kind in FULL for kind in kinds)
    elif indices is not None:
        far = len(indices)
    else:
        period, offset = fields.count("attn_layer_period"), fields.count("attn_layer_offset", least=0)
        far = sum(layer % period == offset for layer in range(layers))
    return replace(model, mixers=(_mamba(fields, model, layers - far),), attention_layers=far)


def add_parallel_mamba(fields: Fields, model: Model) -> Model:
    """Falcon-H1: attention and Mamba 2 side by side in every layer."""
    return replace(model, mixers=(_mamba(fields, model, model.layers),), attention_layers=model.layers)


def _mamba(fields: Fields, model: Model, layers: int) -> Mixer:
    inner = fields.count("mamba_d_ssm", default=fields.count("mamba_expand", default=2) * model.hidden)
    state, conv = fields.count("mamba_d_state"), fields.count("mamba_d_conv")
    if not fields.has("mamba_n_heads"):
        rank = fields.count("mamba_dt_rank")
        return Mixer("mamba1", layers, heads=inner, head_dim=1, state=state, conv=conv, rank=rank)
    heads = fields.count("mamba_n_heads")
    fields.seen.add("mamba_d_head")
    groups = fields.count("mamba_n_groups", default=1)
    return Mixer("mamba2", layers, heads=heads, head_dim=inner // heads, groups=groups, state=state, conv=conv)


def add_short_conv(fields: Fields, model: Model) -> Model:
    """LFM2: gated short convolutions in the layers that are not attention."""
    kinds = fields.names("layer_types", model.layers)
    indices = fields.counts("full_attn_idxs")
    if kinds is None and indices is None:
        raise fields.error("layer_types", "is not there, and is needed")
    far = sum(kind in FULL for kind in kinds) if kinds is not None else len(indices or [])
    mixer = Mixer("short_conv", model.layers - far, heads=1, head_dim=model.hidden, conv=fields.count("conv_L_cache"))
    return replace(model, mixers=(mixer,))
