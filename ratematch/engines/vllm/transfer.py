"""What a decode server posts for each prompt whose KV cache it pulls: its pieces, known before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ratematch.engines.settings import Config
from ratematch.engines.vllm.derive import BLOCK
from ratematch.engines.vllm.options import spell_options
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.model import Model
from ratematch.plan.transfer import TransferCosts, TransferWork

COSTS = TransferCosts(
    source="two H200, vLLM 0.24.0, NIXL 1.5.1, cuda_ipc: vllm:nixl_post_time_seconds over nixl_num_descriptors is "
    "3.2 to 3.4 us at 9,216 pieces a request and the slope from 1,152 to 9,216 pieces 3.2 us. Between nodes (RDMA) a "
    "twentieth of it: vllm-project/vllm, issue 55434",
    piece_s=3.2e-6,
    far_piece_s=3.2e-6 / 20,
)

JOINS_LAYERS = "enable_cross_layers_blocks"
"""Key of ``kv_connector_extra_config`` that lays all layers of a block side by side, so that they are one piece."""


def transfer_work(model: Model, ctx: ServerGroup, gen: ServerGroup, isl: int, version: str) -> TransferWork | None:
    """One piece a block, layer, and region (K and V are two, an MLA latent is one), on each rank that fetches.

    Ranks post side by side, so those of one rank count; a rank that gathers from several ranks of ctx has as many
    from each. With attention DP a request's rank posts alone: ranks that exchange tokens (MoE) wait for it, others go
    on. ``None`` where another connector than NIXL hands over.
    """
    sides = [spell_options(side.config if side.config is not None else side.options, version) for side in (ctx, gen)]
    transfer = [side.get("kv_transfer_config") or {} for side in sides]
    if any(
        not isinstance(own, Mapping) or own.get("kv_connector", "NixlConnector") != "NixlConnector"
        for own in transfer
    ):
        return None
    block = min(_block(side) for side in sides)
    regions = 1 if model.mla is not None else 2
    per_block = (math.ceil(model.layers / gen.mapping.pp) + (gen.mtp and model.mtp_layers)) * regions
    if all(_joins(own) for own in transfer):
        per_block = 1
    gathered = 1.0
    if model.mla is None and not gen.mapping.attention_dp and not ctx.mapping.attention_dp:
        gathered = max(1.0, ctx.mapping.tp / gen.mapping.tp)
    apart = gen.mapping.tp if gen.mapping.attention_dp and model.moe is None else 1
    return TransferWork(pieces=math.ceil(isl / block) * per_block * gathered / apart)


def _block(options: Config) -> int:
    given = options.get("block_size")
    return given if isinstance(given, int) and given > 0 else BLOCK


def _joins(transfer: Mapping[str, Any]) -> bool:
    extra = transfer.get("kv_connector_extra_config") or {}
    return isinstance(extra, Mapping) and str(extra.get(JOINS_LAYERS, False)).lower() == "true"
