"""What real kernels reach of a data sheet, and what a step costs besides: defaults, and what was learnt from rows.

``ratematch/data/efficiency.yaml`` has what public measurements of real deployments say, by GPU and weight format, each
value with how far it moves when only a half of them is used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import yaml

from ratematch.plan.model import Gpu

@dataclass(frozen=True)
class Efficiency:
    """What real kernels reach of a data sheet, and what a step costs besides. One set for all models and GPUs.

    The defaults are round numbers from within the usual ranges, chosen so that peaks agree with the aggregated table
    of TensorRT-LLM's performance overview and one user of DeepSeek R1 on eight B200 with three drafts sees 250 to 400
    tokens/s (TensorRT-LLM's best-practice and min-latency posts). They absorb what the roofline leaves out.

    gemm:                share of the dense tensor-core peak that large matrix products reach
    moe_gemm:            the same for grouped products of routed experts (many small, ragged ones)
    attention:           share of the peak that attention of prompts reaches (bf16)
    gen_attention:       share of the peak that attention of generation reaches (the KV format's rate)
    memory:              share of the memory bandwidth that reads of caches and of weights but experts reach
    expert_memory:       share of the memory bandwidth that reads of routed experts' weights reach
    link:                share of the link bandwidth that collectives reach
    moe_imbalance:       tokens of the busiest expert-parallel rank over the mean
    layer_s:             fixed time of a layer: launches, norms, routing, tails of small kernels (CUDA graphs)
    collective_s:        fixed time of one exchange between GPUs
    elementwise_passes:  hidden-sized bf16 tensors that a layer reads or writes outside matrix products
    step_s:              fixed device time of a step: sampling, input preparation
    host_step_s:         host time of a step: scheduling, bookkeeping
    host_request_s:      host time of a step per scheduled request
    """

    gemm: float = 0.65
    moe_gemm: float = 0.22
    attention: float = 0.55
    gen_attention: float = 0.55
    memory: float = 0.6
    expert_memory: float = 0.6
    link: float = 0.4
    moe_imbalance: float = 1.3
    layer_s: float = 45e-6
    collective_s: float = 12e-6
    elementwise_passes: float = 28.0
    step_s: float = 0.5e-3
    host_step_s: float = 3e-3
    host_request_s: float = 8e-6


class Learnt(NamedTuple):
    """A value of :class:`Efficiency` that was learnt. ``low`` and ``high``: what halves of the data give."""

    value: float
    low: float
    high: float


def efficiency_of(gpu: Gpu, precision: str) -> Efficiency:
    """What kernels reach on ``gpu`` with weights of ``precision``."""
    return replace(Efficiency(), **{name: learnt.value for name, learnt in learnt_for(gpu.name, precision).items()})


@lru_cache(maxsize=None)
def learnt_for(gpu: str, precision: str) -> dict[str, Learnt]:
    """By name of an :class:`Efficiency` value, what was learnt for this GPU and weight format; empty: nothing."""
    known = {field.name for field in fields(Efficiency)}
    found: dict[str, Learnt] = {}
    for entry in _entries():
        if gpu not in entry["gpus"]:
            continue
        for name, given in {**entry.get("any", {}), **entry.get(precision, {})}.items():
            assert name in known, name
            found[name] = Learnt(float(given["value"]), *map(float, given["between"]))
    return found


@lru_cache(maxsize=None)
def _entries() -> list[dict[str, dict[str, dict[str, float]]]]:
    text = resources.files("ratematch.data").joinpath("efficiency.yaml").read_text()
    entries: list[dict[str, dict[str, dict[str, float]]]] = yaml.safe_load(text)
    return entries
