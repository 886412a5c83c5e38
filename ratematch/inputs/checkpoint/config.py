"""``config.json`` -> Model. Nothing else of a checkpoint is needed, and no network."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ratematch.errors import CatalogError
from ratematch.inputs.checkpoint.families import Family, find_family
from ratematch.inputs.checkpoint.fields import Fields
from ratematch.inputs.checkpoint.towers import tower_params
from ratematch.plan.model import Model

MOST_LAYERS = 10_000

TEXT_PARTS = ("text_config", "llm_config", "language_config", "text_model_config", "language_model_config")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_layers")

ARCHITECTURES = {
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
"""Classes that files with a ``model_type`` of their own name."""

HAND = (
    "write it by hand: `ratematch model show NAME --yaml` of a model that is known has the keys; put them below "
    "`model:` of the sweep, or in models/NAME.yaml (docs/models.md)"
)


@dataclass(frozen=True)
class ReadConfig:
    """``text``: the keys of the language model, ``top``: those of the whole file."""

    model: Model
    text: Fields
    top: Fields

    def unread(self) -> list[str]:
        """Keys that may say how the model is built, and that nobody has looked at."""
        return [f"{self.text.prefix}{key}" for key in self.text.unread() if key not in TEXT_PARTS]


def read_config(data: dict[str, object], file: str, name: str, *, confirmed: bool = False) -> ReadConfig:
    """The model that the keys of a ``config.json`` describe, without what its quantisation says.

    ``confirmed``: the checkpoint's own size will be held against the result, so a family that is not known may be
    read as a plain transformer.

    Raises:
        CatalogError: a family that is not known, a key that is missing or of the wrong kind.
    """
    top = Fields(data, file)
    text = next((part for key in TEXT_PARTS if (part := top.below(key)) is not None), top)
    if text is top and (thinker := top.below("thinker_config")) is not None:
        text = thinker.below("text_config") or thinker
    kind = text.text("model_type") or top.text("model_type")
    family = find_family(kind, text)
    if family is None:
        kind = next((known for name in top.names("architectures") or [] if (known := ARCHITECTURES.get(name))), kind)
        family = find_family(kind, text)
    if family is None:
        family = _stand_in(kind, text, confirmed)
    model = _common(text, top, name, family)
    if family.every and not text.has("sliding_window_pattern", "layer_types", "no_rope_layer_interval"):
        given = dict(text.data)
        listed = given.get("no_rope_layers")
        if not isinstance(listed, list) or len(listed) != model.layers:
            given.pop("no_rope_layers", None)
            given["sliding_window_pattern"] = family.every
        text = Fields(given, text.file, text.prefix)
        model = _common(text, top, name, family)
    for step in family.steps:
        model = step(text, model)
    model = _check(text, model)
    towers = tower_params(top)
    notes = list(family.unmodelled)
    if towers:
        notes.append(f"images and sound are not modelled; {towers / 1e9:.2f} B parameters of their towers are loaded")
    if model.mtp_layers:
        notes.append(
            "how many drafts of its MTP layers are accepted is in no file: mtp_acceptance says it, else none"
        )
    return ReadConfig(replace(model, other_params=towers, not_modelled=tuple(notes)), text, top)


def _stand_in(kind: str, text: Fields, confirmed: bool) -> Family:
    """A family for a ``model_type`` that is not known, if its size can be held against the checkpoint's."""
    shown = repr(kind) if kind else "that is not there"
    if not confirmed:
        raise CatalogError(
            f"{text.file}: {text.prefix}model_type: {shown} is not known, and there is no index of the weights to "
            f"hold a reading against; {HAND}"
        )
    return Family((*Family().steps,), unmodelled=(f"model_type {shown} is not known: read as a plain transformer",))


def _common(text: Fields, top: Fields, name: str, family: Family) -> Model:
    """What all families have."""
    hidden = text.count("hidden_size", "n_embd", "d_model")
    heads = text.count("num_attention_heads", "n_head", "num_heads")
    tied = text.data.get("tie_word_embeddings")
    if tied is None:
        tied = top.data.get("tie_word_embeddings")
    text.seen.update(("tie_word_embeddings", "model_type", "dtype", "torch_dtype"))
    if tied is not None and not isinstance(tied, bool):
        raise text.error("tie_word_embeddings", "must be true or false")
    sparse_only = text.has("moe_intermediate_size") and not text.has("intermediate_size")
    width = ("intermediate_size", "dense_intermediate_size", "ffn_hidden_size", "n_inner", "block_ff_dim")
    if text.has("block_configs"):
        ffn = 1
        text.seen.update(width)
    else:
        ffn = text.count("moe_intermediate_size") if sparse_only else text.count(*width)
    return Model(
        name=name,
        layers=text.count(
            "num_hidden_layers", "n_layer", "num_layers", "n_layers", default=_listed_layers(text), most=MOST_LAYERS
        ),
        hidden=hidden,
        vocab=text.count("vocab_size", "padded_vocab_size"),
        heads=heads,
        kv_heads=text.count("num_key_value_heads", "num_kv_heads", "num_attention_groups", default=heads),
        head_dim=text.count("head_dim", "attention_head_dim", "kv_channels", default=max(1, hidden // heads)),
        ffn=ffn,
        max_seq_len=text.count(
            "max_position_embeddings",
            "n_positions",
            "max_sequence_length",
            "seq_length",
            "max_seq_len",
            "model_max_length",
        ),
        mtp_layers=_mtp_layers(text),
        mlp_matrices=family.matrices,
        tied_embeddings=family.tied if tied is None else tied,
    )


def _listed_layers(text: Fields) -> int | None:
    """Number of layers where the file lists their kinds and does not count them."""
    kinds = text.data.get("layers_block_type")
    return len(kinds) if isinstance(kinds, list) and kinds else None


def _mtp_layers(text: Fields) -> int:
    if not text.flag("use_mtp", default=True):
        text.seen.update(MTP)
        return 0
    layers = text.count(*MTP, default=0, least=0, most=100)
    text.seen.update(("mtp_transformer_layers", "mtp_num_layers"))
    return layers


def _check(text: Fields, model: Model) -> Model:
    """What must hold of any model."""
    mixed = sum(mixer.layers for mixer in model.mixers)
    if mixed > model.layers or model.plain_layers < 0:
        raise text.error("num_hidden_layers", f"{model.layers} is less than the {mixed} layers that are listed")
    if model.moe and (model.moe.top_k > model.moe.experts or model.moe.dense_layers > model.wide_layers):
        raise text.error("num_experts_per_tok", "asks for more experts or layers than there are")
    if model.mla is None and model.kv_heads > model.heads:
        raise text.error("num_key_value_heads", f"{model.kv_heads} is more than the {model.heads} heads")
    return model


def plain_name(text: str) -> str:
    """``text`` as the name of a model, which is part of file names and labels."""
    return re.sub(r"[^\w.-]+", "-", text.strip().lower()).strip(".-_")[:64] or "model"
