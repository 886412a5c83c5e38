"""Step times from measured kernels: AIConfigurator's database, an optional extra (``ratematch[kernels]``).

The same interface as the roofline. For each iteration the slowest rank's work is looked up: matrix products,
attention, experts and exchanges as they were timed on the GPU with TensorRT-LLM, summed over layers by
AIConfigurator's own engine. Host time and the fixed part of a step are the roofline model's, for the database holds
kernels only.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

from ratematch.emulator.steptime import Efficiency, RankLoad, StepBatch
from ratematch.plan.mapping import Mapping
from ratematch.plan.model import Gpu, Model

EXTRA = "pip install 'ratematch[kernels]'"

SYSTEMS = {
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "gb200": "gb200",
    "b300": "b300_sxm",
    "gb300": "gb300",
}
MODELS = {
    "deepseek-r1": "deepseek-ai/DeepSeek-R1",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "llama-3.3-70b": "meta-llama/Meta-Llama-3.1-70B",  # the same layers
    "gpt-oss-120b": "openai/gpt-oss-120b",
}
GEMM = {"nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bfloat16", "mxfp4": "bfloat16"}
EXPERTS = {"nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bfloat16", "mxfp4": "w4a16_mxfp4"}
CACHE = {"fp8": "fp8", "nvfp4": "fp8", "bf16": "bfloat16"}
SHORTEST = 2
"""Output tokens told to the database, which reads the cache at prompt + half of them."""


class KernelStepTime:
    """Step times of ``model`` on ``gpu`` with ``mapping`` and ``mtp`` drafts, from measured kernels.

    Raises:
        ValueError: the extra is not installed, or the database has nothing for this combination.
    """

    def __init__(self, model: Model, gpu: Gpu, mapping: Mapping, precision: str, kv_dtype: str, mtp: int = 0):
        if mapping.pp > 1 or mapping.cp > 1:
            raise ValueError("step times from kernels know no pipeline or context parallelism: use the roofline")
        for name, known, what in ((gpu.name, SYSTEMS, "GPU"), (model.name, MODELS, "model")):
            if name not in known:
                raise ValueError(f"the kernel database is not used for {what} {name!r}; known: {', '.join(known)}")
        self._fixed = Efficiency()
        attention = model.attention_precision.get(precision, precision)
        gemm = GEMM[attention]
        experts = EXPERTS[precision]
        if precision == "mxfp4" and "nvfp4" in gpu.flops:  # Blackwell multiplies MXFP4 with FP8 activations
            experts = "w4a8_mxfp4_mxfp8"
        if model.mla and precision == "fp8":  # DeepSeek's FP8 checkpoint has a scale for each block of weights
            gemm = experts = "fp8_block"
        self._engine = _compile(
            MODELS[model.name], SYSTEMS[gpu.name], mapping, gemm, experts if model.moe else None, CACHE[kv_dtype], mtp
        )

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        """Seconds of the iteration; the slowest rank decides."""
        fixed = self._fixed
        device = max(map(self._look_up, set(batch.ranks))) + fixed.step_s
        host = fixed.host_step_s
        host += fixed.host_request_s * max(load.gen_requests + load.ctx_requests for load in batch.ranks)
        return max(device, host) if overlap else device + host

    def _look_up(self, load: RankLoad) -> float:
        decoding = round(load.gen_requests) or (1 if load.gen_requests > 0 else 0)
        cached = round(load.kv_read_tokens / load.gen_requests) if load.gen_requests else 0
        if load.ctx_tokens > 0:
            # n tokens after p others attend to n (p + (n + 1) / 2): a prompt of this length attends to as many.
            prompt = max(1, round(2 * load.ctx_attended / load.ctx_tokens - 1))
            output = max(SHORTEST, 2 * (cached - prompt))
            milliseconds: float = self._engine.mixed_step_latency(round(load.ctx_tokens), decoding, prompt, output)
        elif decoding:
            milliseconds = self._engine.decode_step_latency(decoding, max(1, cached), SHORTEST)
        else:
            return 0.0
        return milliseconds / 1000


@lru_cache(maxsize=64)
def _compile(path: str, system: str, mapping: Mapping, gemm: str, experts: str | None, cache: str, mtp: int) -> Any:
    try:
        engine = importlib.import_module("aiconfigurator_core.sdk.engine")
    except ImportError:
        raise ValueError(f"step times from measured kernels need an extra: {EXTRA}") from None
    whole = {
        "tp_size": 1 if mapping.attention_dp else mapping.tp,
        "attention_dp_size": mapping.tp if mapping.attention_dp else 1,
        "gemm_quant_mode": gemm,
        "kvcache_quant_mode": cache,
        "nextn": mtp,
    }
    if experts is not None:
        whole |= {"moe_tp_size": mapping.moe_tp, "moe_ep_size": mapping.ep, "moe_quant_mode": experts}
    failures = []
    # The database has attention in the cache's format for some models and in bf16 for others.
    for attention in ("fp8" if cache == "fp8" else None, "bfloat16"):
        try:
            handle = engine.EngineHandle.compile(path, system, "trtllm", fmha_quant_mode=attention, **whole)
            handle.mixed_step_latency(1024, 1, 1024, 2)
            handle.decode_step_latency(1, 1024, 2)
        except Exception as error:  # its errors share no class
            failures.append(" ".join(str(error).split())[:200])
        else:
            return handle
    raise ValueError(f"no measured kernels for {path} on {system} with {mapping.label}: {failures[-1]}")
