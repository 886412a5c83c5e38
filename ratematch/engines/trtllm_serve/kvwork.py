"""What one KV transfer of TensorRT-LLM is made of: bytes, staging buffers and layers.

Its transceivers send from threads of their own; what of that holds up a generation server's steps is not measured
anywhere yet. So :data:`COSTS` has no constants, and predictions are without it, until somebody measures them.
"""

from __future__ import annotations

import math

from ratematch.engines.trtllm_serve.transceiver import WHERE
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.memory import transfer_bytes
from ratematch.plan.model import Model
from ratematch.plan.transfer import TransferCosts, TransferWork

COSTS: TransferCosts | None = None
"""Seconds a byte, a buffer and a layer; ``None``: not known."""


def transfer_work(model: Model, ctx: ServerGroup, gen: ServerGroup, isl: int, version: str) -> TransferWork | None:
    """The bytes that one gen rank receives of a prompt, the layers that it has, and how often
    ``max_tokens_in_buffer`` must be filled for them (once where it is not given: it holds the longest prompt)."""
    options = gen.config if gen.config is not None else gen.options
    block = options.get(WHERE) or {}
    ranks = 1 if gen.mapping.attention_dp else gen.mapping.tp
    if model.mla is None:
        ranks = min(ranks, model.kv_heads)
    given = block.get("max_tokens_in_buffer") if isinstance(block, dict) else None
    fills = math.ceil(isl / given) if isinstance(given, int) and given > 0 else 1
    cache = options.get("kv_cache_config") or {}
    fp8 = isinstance(cache, dict) and cache.get("dtype") == "fp8"
    whole_b = transfer_bytes(model, isl, "fp8" if fp8 else "bf16", min(gen.mtp, model.mtp_layers))
    share = (1 if model.mla is not None else ranks) * gen.mapping.pp
    return TransferWork(buffers=fills, layers=math.ceil(model.layers / gen.mapping.pp), bytes_b=whole_b / share)
