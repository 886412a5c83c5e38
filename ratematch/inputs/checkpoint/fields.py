"""A checkpoint's JSON files, which anybody may have written: bounded, read key by key, each problem in one line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from ratematch.errors import CatalogError, UserError
from ratematch.inputs.textfile import read_text_file
from ratematch.plan.numbers import brief, shorten

MOST_BYTES = 16_000_000
"""Of a config.json; lists of quantised layers make some a megabyte long."""

MOST_INDEX_BYTES = 256_000_000
"""Of a weights' index: a line for each tensor."""

MOST = 10**9
"""Largest size or count of a model."""

STRUCTURE = re.compile(
    r"layer|head|expert|moe|window|rank|size|dim|conv|state|sparse|index|mtp|attn|attention|kv|latent|shared|compress"
    r"|ssm|mamba|group|block|mlp|ffn|chunk|pattern|nextn|hash"
)
"""Keys that may say how a model is built."""


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, object]:
    """The map of keys in a JSON file.

    Raises:
        CatalogError: it cannot be read, is too large, is no JSON, or holds something else.
    """
    try:
        text = read_text_file(path, most_bytes)
        content = json.loads(text)
    except UserError as error:
        raise CatalogError(str(error)) from None
    except json.JSONDecodeError as error:
        raise CatalogError(f"{path}:{error.lineno}: is no JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number of too many digits
        raise CatalogError(f"{path}: is no JSON that can be read: {shorten(str(error))}") from None
    if not isinstance(content, dict):
        raise CatalogError(f"{path}:1: must be a map of keys, not {brief(content)}")
    return content


class Fields:
    """Keys of one map of ``file``, below ``prefix``. It remembers which ones were read.

    Getters take several spellings of one key, as families of models have them, and raise CatalogError with file and
    key where a value is not of the right kind. A key that is ``null`` is not there.
    """

    def __init__(self, data: Mapping[str, object], file: str, prefix: str = ""):
        self.data, self.file, self.prefix = data, file, prefix
        self.seen: set[str] = set()

    def error(self, key: str, what: str) -> CatalogError:
        return CatalogError(f"{self.file}: {self.prefix}{key}: {what}")

    def has(self, *keys: str) -> bool:
        return any(self.data.get(key) is not None for key in keys)

    def _find(self, keys: tuple[str, ...]) -> tuple[str, object]:
        self.seen.update(keys)
        for key in keys:
            if (value := self.data.get(key)) is not None:
                return key, value
        return keys[0], None

    def count(self, *keys: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """A whole number; without ``default`` it must be there."""
        key, value = self._find(keys)
        if value is None:
            if default is None:
                raise self.error(" or ".join(keys), "is not there, and is needed")
            value = default
        return self._whole(key, value, least, most)

    def _whole(self, key: str, value: object, least: int, most: int = MOST) -> int:
        if isinstance(value, float) and value.is_integer() and math.isfinite(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.error(key, f"must be a whole number from {least} to {most:,}, not {brief(value)}")
        return value

    def flag(self, *keys: str, default: bool = False) -> bool:
        key, value = self._find(keys)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {brief(value)}")
        return value

    def text(self, *keys: str, default: str = "") -> str:
        key, value = self._find(keys)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 10_000:
            raise self.error(key, f"must be text, not {brief(value)}")
        return value

    def number(self, *keys: str, default: float) -> float:
        key, value = self._find(keys)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.error(key, f"must be a finite number, not {brief(value)}")
        return float(value)

    def counts(self, key: str, length: int | None = None, least: int = 0) -> list[int] | None:
        """A list of whole numbers; ``length``: which it must have at least, longer ones are cut."""
        value = self._list(key, length)
        return None if value is None else [self._whole(key, item, least) for item in value]

    def names(self, key: str, length: int | None = None) -> list[str] | None:
        """A list of texts."""
        value = self._list(key, length)
        if value is None:
            return None
        for item in value:
            if not isinstance(item, str):
                raise self.error(key, f"must be a list of texts, not of {brief(item)}")
        return [str(item) for item in value]

    def _list(self, key: str, length: int | None) -> list[object] | None:
        _, value = self._find((key,))
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > 1_000_000:
            raise self.error(key, f"must be a list, not {brief(value)}")
        if length is not None and len(value) < length:
            raise self.error(key, f"has {len(value)} entries, and there are {length} layers")
        return value if length is None else value[:length]

    def below(self, key: str) -> Fields | None:
        """The map at ``key``, ``None`` where there is none."""
        _, value = self._find((key,))
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be a map of keys, not {brief(value)}")
        return Fields(value, self.file, f"{self.prefix}{key}.")

    def maps(self, key: str) -> list[Fields] | None:
        """A list of maps."""
        value = self._list(key, None)
        if value is None:
            return None
        parts = []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.error(f"{key}[{index}]", f"must be a map of keys, not {brief(item)}")
            parts.append(Fields(item, self.file, f"{self.prefix}{key}[{index}]."))
        return parts

    def unread(self) -> list[str]:
        """Keys that may say how the model is built, and that nothing has looked at."""
        return sorted(
            key
            for key, value in self.data.items()
            if key not in self.seen
            and key not in KNOWN_TO_COST_NOTHING
            and isinstance(key, str)
            and STRUCTURE.search(key.lower())
            and value not in (None, False, [], {}, "", 0)
        )


_COSTLESS = """
    _attn_implementation _name_or_path add_cross_attention add_full_attention_sink_bias
    add_swa_attention_sink_bias architectures attention_bias attention_dropout attention_in_multiplier
    attention_multiplier attention_out_multiplier attention_value_scale attn_implementation
    attn_logit_softcapping attn_res_block_size attn_scale attn_temperature_tuning block_dim
    block_mlp_init_scale block_norm_eps block_out_init_scale block_use_swiglu
    block_use_xavier_init bos_token_id chunk_size chunk_size_feed_forward compress_rope_theta conv_bias
    conv_dim_out cross_attention_hidden_size decoder_start_token_id embedding_multiplier ep_size expand
    experts_implementation final_logit_softcapping floor_scale for_llm_compressor gate_lower_bound group_norm
    hc_eps hc_mult hc_sinkhorn_iters head_dtype hidden_act hidden_activation hidden_dropout
    hidden_dropout_prob hidden_size_per_layer_input index_share_for_mtp_iteration index_skip_topk_offset
    index_topk_freq index_topk_pattern indexer_rope_interleave initial_context_length is_decoder
    key_multiplier latent_moe_use_norm layer_norm_eps layer_norm_epsilon layernorm_epsilon lm_head_multiplier
    logits_scaling mamba_bias mamba_chunk_size mamba_conv_bias mamba_expand mamba_hidden_act
    mamba_norm_before_gate mamba_proj_bias mamba_rms_norm mamba_ssm_cache_dtype mamba_ssm_dtype
    max_window_layers mla_use_nope mlp_bias mlp_hidden_act mlp_multipliers moe_aux_loss_coeff
    moe_gate_norm_eps moe_jitter_noise moe_norm_min moe_renormalize moe_router_activation_func
    moe_router_bias_update_speed moe_router_dtype moe_router_enable_expert_bias moe_router_load_balancing_type
    moe_router_scaling_factor moe_router_score_function moe_router_topk_scaling_factor moe_router_use_sigmoid
    moe_shared_expert_overlap moe_use_aux_free mtp_loss_scaling_factor mtp_use_dedicated_embeddings n_group
    n_hash_layers norm_topk_prob num_beam_groups num_beams num_expert_group num_experts_per_tok_list
    num_hash_layers num_logits_to_keep num_return_sequences original_max_position_embeddings output_attentions
    output_hidden_states partial_rotary_factor preserved_moe pretraining_tp pruned_heads qk_layernorm
    qk_norm_type quantization_config query_pre_attn_scalar rescale_prenorm_residual residual_in_fp32
    residual_multiplier rope_parameters rope_scaling rotary_dim routed_scaling_factor router_aux_loss_coef
    router_dtype router_jitter_noise scale_embedding shared_expert_gate sliding_window_size ssm_in_multiplier
    ssm_multipliers ssm_out_multiplier swa_rope_theta swiglu_limit tie_encoder_decoder time_step_floor
    time_step_limit time_step_max time_step_min time_step_rank tokenizer_class topk_group topk_method
    torch_dtype type_vocab_size use_attention_sinks use_bidirectional_attention use_cache use_conv_bias
    use_expert_bias use_gemma_norm use_grouped_topk use_mamba_kernels use_moe_router_bias use_qk_norm
    vocab_size_per_layer_input
"""
KNOWN_TO_COST_NOTHING = frozenset(_COSTLESS.split())
"""Keys that say nothing of matrices or caches: scales, norms, activations, routing, training, text processing."""
