"""Which tokens meet at a rank's experts: all of an attention-DP server, or those that have an expert there."""

from __future__ import annotations

import math

from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism

ONE_NODE = 8
"""GPUs of an NVLink domain that is not rack-scale, at most."""


def gathers(model: Model, gpu: Gpu, mapping: Parallelism, all_to_all: bool) -> bool:
    """Whether attention DP brings all tokens to all ranks and reduce-scatters what experts made of them.

    TensorRT-LLM has all-to-all kernels for MNNVL and DeepEP only and takes them for more expert-parallel ranks than a
    token has experts (``select_alltoall_method_type``), or where it is told to (``all_to_all``).
    """
    top_k = model.moe.top_k if model.moe else 1
    few = mapping.ep <= top_k and not all_to_all
    return mapping.attention_dp and (few or mapping.tp <= gpu.nvlink_domain <= ONE_NODE)


def share_of_tokens(model: Model, mapping: Parallelism, gathered: bool) -> float:
    """Share of a server's tokens that come to a rank's experts: all of them where they are ``gathered`` or every
    rank has them anyway, else those with one of their experts there, for uniform routing."""
    if gathered or not mapping.attention_dp:
        return 1.0
    return 1.0 - math.pow(1.0 - 1.0 / mapping.ep, model.moe.top_k if model.moe else 1)
