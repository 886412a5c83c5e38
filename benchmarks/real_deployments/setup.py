"""What the public scripts behind the rows set and the table does not hold: kernels of experts, frontends, intervals.

Read from srt-slurm's recipes (disaggregated: NVIDIA/srt-slurm, ``recipes/trtllm``) and InferenceX's scripts
(aggregated: ``benchmarks/dsr1_*_trt*.sh``, which changed around New Year 2026). Rules, not rows: a further row of
these series is set up by the same ones.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ratematch.plan.deployment import Options
from ratematch.plan.parallelism import parse_mapping

from .table import Row, Servers

AGG_HEADROOM = 64
"""What the scripts of aggregated rows add to concurrency + ISL for ``max_num_tokens``, rounded up to itself."""
LEAST_TOKENS = 8192
"""The least ``max_num_tokens`` of the scripts, but of those of B200 with FP8 in 2025."""
BALANCE = {"enable_balance": True, "batching_wait_iters": 0, "timeout_iters": 60}
MOST_FRONTENDS = 10
"""srt-slurm's ``num_additional_frontends`` + 1."""
SCRIPTS_CHANGED = "2026"
"""Rows measured first before it ran InferenceX's scripts of 2025."""
_SEVERAL_FRONTENDS = {("b200", "fp4"), ("gb200", "fp4"), ("gb200", "fp8")}
"""Series whose recipes leave ``enable_multiple_frontends`` on: nginx before one Dynamo frontend a node."""
_SHORT_INTERVAL = {("b200", "fp8"), ("b300", "fp8")}


@dataclass(frozen=True)
class Setup:
    """Beside the table. Backends: ``moe_config.backend``, empty where nothing is known of it. Mappings: the table
    writes attention DP as DEP whether experts are spread over the ranks (DEP8) or each is cut (DP8); recipes say."""

    ctx_backend: str
    gen_backend: str
    frontends: int
    stream_interval: int
    ctx_mapping: str
    gen_mapping: str


def setup_of(row: Row) -> Setup:
    """What the public script of ``row`` sets."""
    if row.ctx is None:
        return Setup("", _aggregated_backend(row), 1, 10, "", row.gen.mapping)
    frontends = min(MOST_FRONTENDS, _nodes(row) - 1) if (row.gpu, row.precision) in _SEVERAL_FRONTENDS else 1
    interval = 20 if (row.gpu, row.precision) in _SHORT_INTERVAL else 100
    ctx, gen = row.ctx.mapping, row.gen.mapping
    if (row.gpu, row.precision) == ("b300", "fp8"):
        ctx = ctx.replace("DEP", "DP")
    if re.search(r"_gen[0-9]+_dp[0-9]+_", row.source):
        gen = gen.replace("DEP", "DP")
    return Setup(_ctx_backend(row), _gen_backend(row), max(1, frontends), interval, ctx, gen)


def aggregated_options(row: Row) -> tuple[int, Options]:
    """``max_num_tokens`` of an aggregated row, and the keys of its YAML file."""
    tokens = -(-(row.concurrency + row.isl + AGG_HEADROOM) // AGG_HEADROOM) * AGG_HEADROOM
    if row.precision == "fp4" or row.gpu != "b200" or row.first >= SCRIPTS_CHANGED:
        tokens = max(LEAST_TOKENS, tokens)
    setup = setup_of(row)
    options: Options = {"stream_interval": setup.stream_interval, **moe_options(setup.gen_backend)}
    if parse_mapping(row.gen.mapping).attention_dp:
        options["attention_dp_config"] = BALANCE
    return row.gen.max_num_tokens or tokens, options


def moe_options(backend: str) -> Options:
    """The keys that choose kernels of experts."""
    return {"moe_config": {"backend": backend}} if backend else {}


def _aggregated_backend(row: Row) -> str:
    dp = parse_mapping(row.gen.mapping).attention_dp
    if row.gpu in ("h100", "h200"):
        return "CUTLASS"
    if row.precision == "fp4":
        many = row.concurrency > 32 if row.isl > 4096 else row.concurrency >= 256
        return "CUTLASS" if dp or many else "TRTLLM"
    if row.first < SCRIPTS_CHANGED:
        return "DEEPGEMM"
    return "DEEPGEMM" if row.concurrency >= 256 and row.isl <= 4096 else "TRTLLM"


def _ctx_backend(row: Row) -> str:
    if row.gpu in ("h100", "h200"):
        return "WIDEEP" if row.gpu == "h100" else "CUTLASS"
    short = row.isl <= 4096
    deep = row.gpu in ("gb200", "gb300") or (row.gpu == "b200" and short)
    return "DEEPGEMM" if row.precision == "fp8" and deep else "TRTLLM"


def _gen_backend(row: Row) -> str:
    mapping = parse_mapping(row.gen.mapping)
    if row.gpu in ("h100", "h200"):
        return "WIDEEP" if mapping.attention_dp and row.gpu == "h100" else "CUTLASS"
    if not mapping.attention_dp or (row.gpu, row.precision) == ("b300", "fp8"):
        return "TRTLLM"
    if row.precision == "fp4":
        return "CUTEDSL" if mapping.ep >= 16 else "CUTLASS"
    if row.gpu == "b200" and row.isl > 4096:
        return "DEEPGEMM" if row.mtp else "TRTLLM"
    return "DEEPGEMM"


def _nodes(row: Row) -> int:
    """Nodes that the workers of a row take: 4 GPUs each in a rack-scale system, else 8."""
    per_node = 4 if row.gpu.startswith("gb") else 8

    def of(servers: Servers) -> int:
        gpus = parse_mapping(servers.mapping).gpus
        return math.ceil(servers.instances * gpus / per_node)

    return of(row.ctx) + of(row.gen) if row.ctx else of(row.gen)
