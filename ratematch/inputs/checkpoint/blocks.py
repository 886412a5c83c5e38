"""Models whose blocks were chosen one by one (Llama-Nemotron): some without attention, each MLP of its own width."""

from __future__ import annotations

from dataclasses import replace

from ratematch.inputs.checkpoint.fields import Fields
from ratematch.plan.model import Model

UNIT = 256
"""Widths of MLPs are rounded up to a multiple of this."""


def read_blocks(fields: Fields, model: Model) -> Model:
    """``model`` with as many layers as have attention and MLPs of their mean width."""
    blocks = fields.maps("block_configs")
    if blocks is None or len(blocks) != model.layers:
        raise fields.error("block_configs", f"must list the {model.layers} layers")
    heads: list[int] = []
    widths: list[int] = []
    for block in blocks:
        attention, mlp = block.below("attention"), block.below("ffn")
        if attention is None or mlp is None:
            raise block.error("attention", "and ffn are needed")
        for part in (attention, mlp):
            if part.flag("replace_with_linear"):
                raise part.error("replace_with_linear", "is true, and such layers are not modelled")
        if attention.has("window_length", "sparsify"):
            raise attention.error("window_length", "is given, and such layers are not modelled")
        if not attention.flag("no_op"):
            heads.append(model.heads // attention.count("n_heads_in_group"))
        if not mlp.flag("no_op"):
            width = int(2 * mlp.number("ffn_mult", default=0.0) * model.hidden / 3)
            widths.append(-(-width // UNIT) * UNIT)
    if not heads or not widths or len(set(heads)) > 1:
        raise fields.error("block_configs", "must have attention of one shape, and MLPs")
    mean = round(sum(widths) / len(widths))
    return replace(model, kv_heads=heads[0], ffn=mean, attention_layers=len(heads), mlp_layers=len(widths))
