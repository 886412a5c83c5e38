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
"""What the scripts of aggregated rows add to batch + ISL for ``max_num_tokens``, rounded up to itself."""
LEAST_TOKENS = 8192
"""The least ``max_num_tokens`` of the scripts without drafts since ``FLOOR_SINCE``."""
BALANCE = {"enable_balance": True, "batching_wait_iters": 0, "timeout_iters": 60}
GATHERING = {"batch_wait_timeout_iters": 40, "batch_wait_max_tokens_ratio": 0.8}
MOST_FRONTENDS = 10
"""srt-slurm's ``num_additional_frontends`` + 1."""
FLOOR_SINCE, FP8_SINCE, FP4_SINCE = "2026-01-21", "2026-01-29", "2026-02-03"
"""Days on which InferenceX's scripts of aggregated servers changed: a least ``max_num_tokens``; those of FP8 and of
FP4 on B200 by NVIDIA. Rows measured first before such a day ran what was before."""
_SEVERAL_FRONTENDS = {("b200", "fp4"), ("gb200", "fp4"), ("gb200", "fp8")}
"""Series whose recipes leave ``enable_multiple_frontends`` on: nginx before one Dynamo frontend a node."""
_SHORT_INTERVAL = {("b200", "fp8"), ("b300", "fp8")}


@dataclass(frozen=True)
class Setup:
    """Beside the table. Backends: ``moe_config.backend``, empty where nothing is known of it. Mappings: the table
    writes attention DP as DEP whether experts are spread over the ranks (DEP8) or each is cut (DP8); recipes say.
    ``all_to_all``: generation servers are told to exchange tokens so (``TRTLLM_FORCE_COMM_METHOD``)."""

    ctx_backend: str
    gen_backend: str
    frontends: int
    stream_interval: int
    ctx_mapping: str
    gen_mapping: str
    all_to_all: bool = False


def setup_of(row: Row) -> Setup:
    """What the public script of ``row`` sets."""
    if row.ctx is None:
        return Setup("", _aggregated_backend(row), 1, 10, "", row.gen.mapping)
    frontends = min(MOST_FRONTENDS, _nodes(row) - 1) if (row.gpu, row.precision) in _SEVERAL_FRONTENDS else 1
    interval = 20 if (row.gpu, row.precision) in _SHORT_INTERVAL else 100
    ctx, gen = row.ctx.mapping, row.gen.mapping
    if row.precision == "fp8" and (row.gpu == "b300" or (row.gpu == "b200" and row.isl > 4096)):
        ctx = ctx.replace("DEP", "DP")
    if re.search(r"_gen[0-9]+_dp[0-9]+_", row.source):
        gen = gen.replace("DEP", "DP")
    forced = row.gpu.startswith("gb") and row.precision == "fp8"
    return Setup(_ctx_backend(row), _gen_backend(row), max(1, frontends), interval, ctx, gen, forced)


def aggregated_options(row: Row) -> tuple[int, Options]:
    """``max_num_tokens`` of an aggregated row, and the keys of its YAML file."""
    setup, dp = setup_of(row), parse_mapping(row.gen.mapping).attention_dp
    options: Options = {"stream_interval": setup.stream_interval, **moe_options(setup.gen_backend)}
    options["kv_cache_config"] = {"free_gpu_memory_fraction": row.kv_fraction or _aggregated_kv(row)}
    if dp:
        options["attention_dp_config"] = BALANCE
    if graphs_of_prompts(row):
        options["torch_compile_config"] = {"enable_piecewise_cuda_graph": True}
    if (row.gpu, row.precision) == ("b200", "fp8") and not row.mtp and _short(row) and row.concurrency >= 64:
        options |= GATHERING if row.first >= FP8_SINCE else {}
    return row.gen.max_num_tokens or _aggregated_tokens(row), options


def aggregated_batch(row: Row) -> int | None:
    """``max_batch_size`` of an aggregated row: scripts without drafts leave it at the engine's default."""
    if row.gen.max_batch_size or not row.mtp:
        return row.gen.max_batch_size
    shares = 1
    if parse_mapping(row.gen.mapping).attention_dp:
        shares = 4 if row.precision == "fp4" else 8
    return max(1, row.concurrency // shares)


def _aggregated_tokens(row: Row) -> int:
    batch = (1 + row.mtp) * (aggregated_batch(row) or 1) if row.mtp else row.concurrency
    tokens = -(-(batch + row.isl + AGG_HEADROOM) // AGG_HEADROOM) * AGG_HEADROOM
    return tokens if row.mtp or row.first < FLOOR_SINCE else max(LEAST_TOKENS, tokens)


def _aggregated_kv(row: Row) -> float:
    """``free_gpu_memory_fraction``."""
    if row.gpu in ("h100", "h200"):
        return 0.75
    if row.precision == "fp4" or row.first < FP8_SINCE:
        return 0.8
    if row.mtp:
        return 0.7 if parse_mapping(row.gen.mapping).attention_dp else 0.8
    if row.isl > 4096 and row.gen.mapping.endswith("P4"):
        return 0.75
    return 0.7 if _long(row) and row.concurrency >= 256 else 0.8


def graphs_of_prompts(row: Row) -> bool:
    """Whether steps with prompts of an aggregated row run as CUDA graphs (``enable_piecewise_cuda_graph``)."""
    mapping, many = parse_mapping(row.gen.mapping), row.concurrency
    if row.ctx is not None or row.gpu != "b200":
        return False
    if row.precision == "fp4":
        if row.mtp:
            return (_short(row) and (many in (32, 64) or (many == 128 and not mapping.attention_dp))) or (
                _long(row) and many == 64
            )
        return row.first >= FP4_SINCE and _short(row) and mapping.tp == mapping.ep == 8
    if row.first < FP8_SINCE:
        return False
    if row.mtp:
        return not mapping.attention_dp and many > (4 if _short(row) else 8 if _long(row) else 16)
    return many >= 64 if not _long(row) else 128 <= many < 256


def _short(row: Row) -> bool:
    return row.isl <= 4096 and row.osl <= 4096


def _long(row: Row) -> bool:
    """Few tokens in and many out."""
    return row.isl <= 4096 < row.osl


def moe_options(backend: str) -> Options:
    """The keys that choose kernels of experts."""
    return {"moe_config": {"backend": backend}} if backend else {}


def _aggregated_backend(row: Row) -> str:
    dp = parse_mapping(row.gen.mapping).attention_dp
    if row.gpu in ("h100", "h200"):
        return "CUTLASS"
    if row.precision == "fp4":
        many = row.concurrency > 32 if row.isl > 4096 else row.concurrency >= 256
        return "CUTLASS" if dp or (many and row.first < FP4_SINCE and not row.mtp) else "TRTLLM"
    if row.mtp:
        return "DEEPGEMM" if dp else "TRTLLM"
    if row.first < FP8_SINCE:
        return "DEEPGEMM"
    return "DEEPGEMM" if _long(row) and row.concurrency >= 256 else "TRTLLM"


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
