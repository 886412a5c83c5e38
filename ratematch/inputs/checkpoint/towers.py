"""Parameters of a checkpoint that text does not meet: towers for images and sound, counted from their own keys."""

from __future__ import annotations

from ratematch.inputs.checkpoint.fields import Fields

VISION = ("vision_config", "vit_config", "visual", "vision_tower_config", "vision_model_config")


def tower_params(top: Fields) -> int:
    """Elements of the vision tower and what joins it to the text: blocks of attention and an MLP of the given widths,
    0 where there is none or it does not say its size."""
    for key in VISION:
        if (part := top.below(key)) is not None:
            return _tower(part)
    return 0


def _tower(part: Fields) -> int:
    hidden = ("hidden_size", "vt_hidden_size", "embed_dim", "width")
    depth = ("num_hidden_layers", "depth", "vt_num_hidden_layers", "layers")
    if not part.has(*hidden) or not part.has(*depth):
        return 0
    if part.has("embed_dim") and part.has("depth") is not False and part.has("hidden_size") and part.has("mlp_ratio"):
        return _early_qwen(part)
    width = part.count(*hidden)
    layers = part.count(*depth)
    inner = part.count("qkv_hidden_size", default=width)
    mlp = part.count("intermediate_size", "vt_intermediate_size", "ffn_hidden_size", default=4 * width)
    gated = 3 if part.text("hidden_act", "hidden_activation") in ("silu", "gelu_pytorch_tanh_gated") else 2
    if part.text("model_type") in ("gemma4_vision", "pixtral"):
        gated = 3
    return layers * (4 * width * inner + gated * width * mlp) + _joint(part, width)


def _early_qwen(part: Fields) -> int:
    """Qwen2-VL: ``hidden_size`` is the text's width, and the MLP is a multiple of the tower's."""
    width = part.count("embed_dim")
    mlp = int(part.number("mlp_ratio", default=4.0) * width)
    return part.count("depth") * (4 * width * width + 2 * width * mlp) + _joint(part, width)


def _joint(part: Fields, width: int) -> int:
    """Patches in, and the projector out: merged patches through two matrices to the text's width."""
    patch = part.count("patch_size", "spatial_patch_size", default=14)
    merged = part.count("spatial_merge_size", default=2) ** 2 * width
    out = part.count("out_hidden_size", "text_hidden_size", "vision_output_dim", default=0, least=0)
    deep = part.counts("deepstack_visual_indexes") or []
    projectors = 1 + len(deep)
    return 3 * patch * patch * width * 2 + (merged * merged + merged * out) * projectors * bool(out)
