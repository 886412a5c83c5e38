"""What one KV transfer through NIXL costs: descriptors posted by the engine's own thread, and bytes on a link."""

from __future__ import annotations

import ipaddress
import math
import socket
from dataclasses import dataclass

from ratematch.emulator.iteration import Pull
from ratematch.plan.memory import kv_bytes_per_token_per_rank
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism

POST_IPC_S = 2.5e-6
"""Posting one descriptor between GPUs of one node (cuda_ipc): a round figure from the middle of what is public, good
to a factor of two. UCX takes 4.0 us an operation for its own model of this transport (openucx/ucx, pull request
8760); blocks of 64 instead of 16 tokens saved 58 ms of a transfer of tens of thousands of descriptors, which is 1.3
to 3.5 us each for 36 to 94 layers (vllm-project/vllm, issue 50913); posting some 112,000 took 57 % of a transfer of
4.9 GB that moves at the rate of a 400 Gb/s network, 1.2 us each (issue 55434)."""

POST_RDMA_S = POST_IPC_S / 20
"""The same over the network: cuda_ipc costs about 20 times as much a descriptor (vllm-project/vllm, issue 55434)."""

LATENCY_S = 1e-3
"""Fixed part of a transfer: metadata, the notification, the poll that finds it done."""


@dataclass(frozen=True)
class Layout:
    """How a server's KV cache lies. ``descriptors``, ``block_b``: of one block on each GPU that holds it."""

    descriptors: int
    block_b: float

    def pull(self, gpu: Gpu, local: bool) -> Pull:
        """The cost of fetching blocks from a server on the same node (``local``) or across the network."""
        post_s, link_b_s = (POST_IPC_S, gpu.nvlink_b_s) if local else (POST_RDMA_S, gpu.network_b_s)
        # A rack-scale NVLink domain joins nodes too.
        link_b_s = gpu.nvlink_b_s if gpu.nvlink_domain > 8 else link_b_s
        return Pull(LATENCY_S, self.descriptors * post_s, self.block_b / link_b_s)


def layout(model: Model, mapping: Parallelism, kv_format: str, block_size: int, draft_layers: int = 0) -> Layout:
    """One descriptor a block, layer and region; K and V of a layer are two regions, an MLA latent is one."""
    layers = math.ceil(model.layers / mapping.pp) + draft_layers
    regions = 1 if model.mla is not None else 2
    token_b = kv_bytes_per_token_per_rank(model, mapping, kv_format, draft_layers)
    return Layout(layers * regions, token_b * block_size)


def is_local(host: str) -> bool:
    """Is ``host`` this machine?"""
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
