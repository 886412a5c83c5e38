"""What a model is made of, as far as memory and time are concerned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ratematch.plan.acceptance import AcceptanceCurve

MixerKind = Literal["attention", "compressed", "mamba2", "mamba1", "gated_delta", "kda", "lightning", "short_conv"]
"""How a layer mixes tokens where it does not do so as the model's other layers. ``attention``: plain attention of
another shape; ``compressed``: one shared latent per ``ratio`` tokens (DeepSeek V4); the others keep a state of fixed
size in place of a cache."""

Part = Literal["attention", "mixers", "dense", "experts", "shared", "embedding", "head"]
"""Matrices that a checkpoint may hold in formats of their own: the model's attention, layers of ``mixers``, plain
MLPs, routed and shared experts, input embedding and output projection."""


@dataclass(frozen=True)
class Moe:
    """Routed experts of the MoE layers. ``dense_layers``: how many layers have a plain MLP instead: the first ones,
    or with ``interleaved`` ones between the others. ``latent``: width of the experts' input where tokens are
    projected before they are routed, 0 = the model's width.
    """

    experts: int
    top_k: int
    ffn: int
    shared_ffn: int = 0
    dense_layers: int = 0
    interleaved: bool = False
    latent: int = 0


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek): one compressed KV vector per token and layer."""

    q_lora_rank: int
    kv_lora_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int


@dataclass(frozen=True)
class Indexer:
    """Chooses the ``top_k`` cached tokens that a query attends to (sparse attention). ``rank``: width of what its
    queries are made from, 0 = the model's width. ``layers``: that have one and its cache, 0 = all; the others take
    the choice of one before them.
    """

    heads: int
    head_dim: int
    top_k: int
    rank: int = 0
    layers: int = 0


@dataclass(frozen=True)
class Mixer:
    """``layers`` layers that mix tokens in another way than the model's attention does.

    attention: ``heads``, ``kv_heads``, ``head_dim``, ``v_dim`` (0 = head_dim), ``window`` (0 = all tokens).
    compressed: ``heads``, ``head_dim``, ``q_rank``, ``o_groups`` and ``o_rank`` of the output projection, one latent
    of ``head_dim`` per ``ratio`` tokens (0 = none), the last ``window`` tokens whole, ``indexer``.
    mamba2, mamba1, gated_delta, kda, lightning: a state of ``heads`` x ``head_dim`` x ``state`` per sequence, with
    ``groups`` key heads, a convolution over ``conv`` tokens and low-rank gates of ``rank``. short_conv: a convolution
    over ``conv`` tokens of ``heads`` x ``head_dim`` channels and nothing else.

    ``gate``: an output gate as wide as the queries. ``shared_kv``: keys are the values too, one projection.
    """

    kind: MixerKind
    layers: int
    heads: int
    head_dim: int
    kv_heads: int = 0
    v_dim: int = 0
    window: int = 0
    gate: bool = False
    shared_kv: bool = False
    groups: int = 0
    state: int = 0
    conv: int = 0
    rank: int = 0
    ratio: int = 0
    q_rank: int = 0
    o_groups: int = 0
    o_rank: int = 0
    indexer: Indexer | None = None


@dataclass(frozen=True)
class Model:
    """One model (``ratematch/data/models/*.yaml``, a file of the user's, or a checkpoint's ``config.json``). Sizes
    are counts of elements.

    ``mtp_layers``: MTP layers in the checkpoint (0: MTP is not available without a separate draft model).
    ``mtp_acceptance``: probability that draft token k is accepted given that the ones before were.
    ``sliding_layers`` of the layers attend to the last ``sliding_window`` tokens only.
    ``precision``: the one format the weights are published in; empty: what the GPU's deployments normally use.
    ``attention_precision``: format of the attention matrices where it differs from that of the checkpoint's
    name, e.g. ``{nvfp4: bf16}`` when only the MLPs of the NVFP4 checkpoint are quantised.
    ``v_dim``: of a value head, 0 = head_dim. ``attention_gate``: queries carry an output gate of their own width.
    ``mlp_matrices``: of an MLP or expert, 3 with a gate, 2 without. ``mlp_layers``: layers with an MLP or experts and
    ``attention_layers``: with the model's attention; ``None``: all, and all that are no ``mixers``.
    ``tied_embeddings``: input and output embedding are one matrix. ``other_params``: what else is loaded, in bf16 on
    every GPU (a vision tower). ``formats``: by precision and part, the share of its elements in each format, where
    that is not the precision itself. ``weights_b``: by precision, bytes of the whole checkpoint where its index has
    them. ``chosen_precision``: what a person asks for, by the name or beside it. ``kv_precision``: format of the KV
    cache that the checkpoint asks for. ``not_modelled``: in words. ``acceptance_curves``: what is published of how
    many of its drafts are accepted, by text.
    ``file``: where it was read, empty for the package's own.
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
    v_dim: int = 0
    attention_gate: bool = False
    indexer: Indexer | None = None
    mixers: tuple[Mixer, ...] = ()
    attention_layers: int | None = None
    mlp_layers: int | None = None
    mlp_matrices: int = 3
    tied_embeddings: bool = False
    other_params: int = 0
    formats: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    weights_b: dict[str, float] = field(default_factory=dict)
    kv_precision: str = ""
    not_modelled: tuple[str, ...] = field(default=())
    chosen_precision: str = ""
    acceptance_curves: tuple[AcceptanceCurve, ...] = field(default=(), compare=False)
    file: str = field(default="", compare=False)

    @property
    def plain_layers(self) -> int:
        """Layers with the model's own attention."""
        if self.attention_layers is not None:
            return self.attention_layers
        return self.layers - sum(mixer.layers for mixer in self.mixers)

    @property
    def wide_layers(self) -> int:
        """Layers with an MLP or experts."""
        return self.layers if self.mlp_layers is None else self.mlp_layers

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """What the layers are, as far as they run other kernels: words, sorted."""
        kinds: set[str] = {mixer.kind for mixer in self.mixers}
        if self.plain_layers:
            kinds.add("MLA" if self.mla is not None else "grouped-query attention")
        if self.indexer is not None:
            kinds.add("sparse attention")
        if self.sliding_window and self.sliding_layers:
            kinds.add("sliding windows")
        if self.moe is not None:
            kinds.add("experts")
        elif self.wide_layers:
            kinds.add("MLPs without experts")
        return tuple(sorted(kinds))

    @property
    def depth(self) -> float:
        """Layers of one attention and one MLP each that have as many of both: layers may have only one of them."""
        mixing = self.plain_layers + sum(mixer.layers for mixer in self.mixers)
        return (mixing + self.wide_layers) / 2


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
