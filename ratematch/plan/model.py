"""What a model is made of, as far as memory and time are concerned."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moe:
    """Routed experts of the MoE layers. ``dense_layers``: how many first layers have a plain MLP instead."""

    experts: int
    top_k: int
    ffn: int
    shared_ffn: int = 0
    dense_layers: int = 0


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek): one compressed KV vector per token and layer."""

    q_lora_rank: int
    kv_lora_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int


@dataclass(frozen=True)
class Model:
    """One model (``ratematch/data/models/*.yaml``). Sizes are counts of elements.

    ``mtp_layers``: MTP layers in the checkpoint (0: MTP is not available without a separate draft model).
    ``mtp_acceptance``: probability that draft token k is accepted given that the ones before were.
    ``sliding_layers`` of the layers attend to the last ``sliding_window`` tokens only.
    ``precision``: the one format the weights are published in; empty: what the GPU's deployments normally use.
    ``attention_precision``: format of the attention matrices where it differs from that of the checkpoint's
    name, e.g. ``{nvfp4: bf16}`` when only the MLPs of the NVFP4 checkpoint are quantised.
    """

    name: str
    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    max_seq_len: int
    moe: Moe | None = None
    mla: Mla | None = None
    mtp_layers: int = 0
    mtp_acceptance: tuple[float, ...] = ()
    about: str = ""
    source: str = ""
    aliases: tuple[str, ...] = field(default=())
    sliding_window: int = 0
    sliding_layers: int = 0
    attention_precision: dict[str, str] = field(default_factory=dict)
    precision: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU type (``ratematch/data/gpus/*.yaml``, or a file of the user's), in SI units: bytes, bytes/s, FLOP/s.

    ``flops``: dense tensor-core peak by weight format (``bf16``, ``fp8``, ``nvfp4``, ``mxfp4``); a format that is
    not listed cannot run here. ``nvlink_b_s`` and ``network_b_s``: per GPU, one direction. ``precision``: the
    weights' format deployments on it normally use. ``file``: where it was read, empty for the package's own.
    """

    name: str
    memory_b: float
    memory_b_s: float
    flops: dict[str, float]
    nvlink_b_s: float
    network_b_s: float
    nvlink_domain: int
    precision: str
    source: str = ""
    aliases: tuple[str, ...] = field(default=())
    file: str = field(default="", compare=False)
