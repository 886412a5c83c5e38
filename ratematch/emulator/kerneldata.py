"""What AIConfigurator's database of measured kernels is asked for: a checkpoint, its operations, its exchanges.

The database's own engine builds the operations of a model. Three things are chosen here, each because the servers
that run it do so:

* Routing of DeepSeek's models is even: they are trained so that every expert has as many tokens (DeepSeek-V3 report,
  section 2.1.2). The database's default, which is kept for all others, draws experts from a power law, whose busiest
  GPU has two to three times the tokens of the others.
* NVFP4 means the checkpoint that NVIDIA publishes: output projections in FP4, the other projections of attention in
  bf16, experts (shared ones too) in FP4. The database knows the same layers as DeepSeek V3.1's.
* Attention DP with experts spread over more GPUs than a token has experts exchanges over rack-scale NVLink by
  TensorRT-LLM's own all-to-all (``fused_moe/communication``), which sends a token where its experts are; all others,
  and DeepGEMM's kernels, gather all tokens on all GPUs. The all-to-all was timed on GB200s; GB300s have the same
  NVLink.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism

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
CHECKPOINTS = {("deepseek-r1", "nvfp4"): "nvidia/DeepSeek-V3.1-NVFP4"}
"""Of a model in a format, where parts of it are in another one; the database has each part's."""
GEMM = {"nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bfloat16", "mxfp4": "bfloat16"}
EXPERTS = {"nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bfloat16", "mxfp4": "w4a16_mxfp4"}
CACHE = {"fp8": "fp8", "nvfp4": "fp8", "bf16": "bfloat16"}
BACKEND = "trtllm"

ONE_NODE = 8
"""GPUs of an NVLink domain that is not rack-scale, at most."""
ALL_TO_ALL_SYSTEM, ALL_TO_ALL = "gb200", "nvlink_two_sided"
"""Where the all-to-all of rack-scale NVLink was timed, and its name there."""
EVENLY_ROUTED = ("deepseek-r1",)
"""Models whose experts are loaded evenly by their training."""
NOT_BY_ALL_TO_ALL = ("DEEPGEMM",)
"""Kernels of experts that gather all tokens, whatever links there are."""
_DISPATCH = "MoeDispatch"

Evaluate = Callable[..., list[tuple[str, float, float, str]]]
"""Name, milliseconds over all layers, energy and origin of operations, for ``batch_size``, ``s`` and ``prefix``."""


@dataclass(frozen=True)
class Wanted:
    """A server as the database knows it. ``even``: its experts are loaded evenly. ``layers``: how often an exchange
    is made in a step, drafts counted."""

    path: str
    system: str
    mapping: Parallelism
    gemm: str
    experts: str
    cache: str
    mtp: int
    even: bool
    all_to_all: bool = False
    hidden: int = 0
    num_experts: int = 0
    top_k: int = 0
    layers: float = 0.0
    gpus_per_node: int = 8


@dataclass(frozen=True)
class Measured:
    """What the database has of a server: its operations, ``exchange`` those that are not among them."""

    context: Evaluate
    generation: Evaluate
    exchange: Callable[[bool, int], float]


def want(
    model: Model, gpu: Gpu, mapping: Parallelism, precision: str, kv_dtype: str, mtp: int, moe_backend: str
) -> Wanted:
    """What the database is to be asked for a server.

    Raises:
        ValueError: it is not used for the GPU, the model or the mapping.
    """
    if mapping.pp > 1 or mapping.cp > 1:
        raise ValueError("step times from kernels know no pipeline or context parallelism: use the roofline")
    for name, known, what in ((gpu.name, SYSTEMS, "GPU"), (model.name, MODELS, "model")):
        if name not in known:
            raise ValueError(f"the kernel database is not used for {what} {name!r}; known: {', '.join(known)}")
    path = CHECKPOINTS.get((model.name, precision))
    gemm = GEMM[precision if path else model.attention_precision.get(precision, precision)]
    experts = EXPERTS[precision]
    if precision == "mxfp4" and "nvfp4" in gpu.flops:  # Blackwell multiplies MXFP4 with FP8 activations
        experts = "w4a8_mxfp4_mxfp8"
    if model.mla and precision == "fp8":  # DeepSeek's FP8 checkpoint has a scale for each block of weights
        gemm = experts = "fp8_block"
    wanted = Wanted(
        path or MODELS[model.name],
        SYSTEMS[gpu.name],
        mapping,
        gemm,
        experts if model.moe else "",
        CACHE[kv_dtype],
        mtp,
        model.name in EVENLY_ROUTED,
    )
    if model.moe is None or not exchanges_all_to_all(model, gpu, mapping, moe_backend):
        return wanted
    return replace(
        wanted,
        all_to_all=True,
        hidden=model.hidden,
        num_experts=model.moe.experts,
        top_k=model.moe.top_k,
        layers=model.layers - model.moe.dense_layers + mtp,
        gpus_per_node=4,
    )


def exchanges_all_to_all(model: Model, gpu: Gpu, mapping: Parallelism, moe_backend: str) -> bool:
    """Whether tokens are sent where their experts are, instead of to all GPUs."""
    return (
        model.moe is not None
        and gpu.nvlink_domain > ONE_NODE
        and mapping.attention_dp
        and mapping.moe_tp == 1
        and mapping.ep > model.moe.top_k
        and moe_backend.upper() not in NOT_BY_ALL_TO_ALL
    )


@lru_cache(maxsize=64)
def look_up(wanted: Wanted) -> Measured:
    """What the database has for ``wanted``.

    Raises:
        ValueError: the extra is not installed, or the database has nothing for this combination.
    """
    try:
        engine = importlib.import_module("aiconfigurator_core.sdk.engine")
    except ImportError:
        raise ValueError(f"step times from measured kernels need an extra: {EXTRA}") from None
    failures = []
    # The database has attention in the cache's format for some models and in bf16 for others.
    for attention in ("fp8" if wanted.cache == "fp8" else None, "bfloat16"):
        try:
            handle = _compile(engine, wanted, attention)
            handle.predict_prefill_latency(1, 1024)
            handle.decode_step_latency(1, 1024, 2)
            exchange = _exchange(engine, wanted) if wanted.all_to_all else _nothing
            exchange(False, 1)
        except Exception as error:  # its errors share no class
            failures.append(" ".join(str(error).split())[:200])
        else:
            return Measured(handle.evaluate_context_ops, handle.evaluate_generation_ops, exchange)
    where = f"{wanted.path} on {wanted.system} with {wanted.mapping.label}"
    raise ValueError(f"no measured kernels for {where}: {failures[-1]}")


def _compile(engine: Any, wanted: Wanted, attention: str | None) -> Any:
    """The database's engine with the model's operations, less exchanges that are made in another way."""
    sdk = partial(_of_sdk, engine)
    mapping = wanted.mapping
    config = sdk("config_builders").build_model_config(
        tp_size=1 if mapping.attention_dp else mapping.tp,
        pp_size=1,
        attention_dp_size=mapping.tp if mapping.attention_dp else 1,
        moe_tp_size=mapping.moe_tp if wanted.experts else 1,
        moe_ep_size=mapping.ep if wanted.experts else 1,
        gemm_quant_mode=wanted.gemm,
        kvcache_quant_mode=wanted.cache,
        fmha_quant_mode=attention,
        moe_quant_mode=wanted.experts or None,
    )
    if wanted.even:
        config.workload_distribution = "balanced"
    sdk("config_builders").apply_nextn(config, wanted.mtp)
    model = sdk("models").get_model(wanted.path, config, BACKEND)
    version = sdk("perf_database").resolve_query_version(wanted.system, BACKEND, "current")
    spec = engine.build_engine_spec_json(
        model,
        model_path=wanted.path,
        system=wanted.system,
        backend=BACKEND,
        backend_version=version,
        kv_block_size=None,
        systems_path=None,
        nextn=wanted.mtp,
        database=sdk("perf_database").get_database(wanted.system, BACKEND, version),
    )
    if wanted.all_to_all:
        spec = json.dumps(_without_dispatch(json.loads(spec)))
    core = importlib.import_module("aiconfigurator_core")
    return engine.EngineHandle(bytes(core.engine_spec_bincode_from_json(spec)))


def _of_sdk(engine: Any, name: str) -> Any:
    return importlib.import_module(f"{engine.__package__}.{name}")


def _without_dispatch(spec: Any) -> Any:
    """``spec``, plain JSON, without the operations that gather and scatter tokens, wherever they are in it."""
    if isinstance(spec, list):
        return [_without_dispatch(each) for each in spec if not (isinstance(each, dict) and _DISPATCH in each)]
    return {key: _without_dispatch(each) for key, each in spec.items()} if isinstance(spec, dict) else spec


def _nothing(prompts: bool, tokens: int) -> float:
    return 0.0


def _exchange(engine: Any, wanted: Wanted) -> Callable[[bool, int], float]:
    """Milliseconds of the all-to-all of a step, by whether there are prompts in it and the tokens of a rank."""
    sdk = partial(_of_sdk, engine)
    version = sdk("perf_database").resolve_query_version(ALL_TO_ALL_SYSTEM, BACKEND, "current")
    handle = engine.EngineHandle.for_database(sdk("perf_database").get_database(ALL_TO_ALL_SYSTEM, BACKEND, version))
    operations = [
        sdk("operations").MoEAllToAll(
            f"exchange_{phase}",
            wanted.layers,
            phase=phase,
            comm_dtype={"fp8_block": "fp8"}.get(wanted.experts, wanted.experts),
            comm_backend=ALL_TO_ALL,
            hidden_size=wanted.hidden,
            topk=wanted.top_k,
            num_experts=wanted.num_experts,
            moe_ep_size=wanted.mapping.ep,
            node_num=-(-wanted.mapping.ep // wanted.gpus_per_node),
            sms=0,
            attention_tp_size=1,
        )
        for phase in ("prepare", "dispatch", "combine")
    ]
    text = engine.build_ops_json(operations)

    @lru_cache(maxsize=4096)
    def milliseconds(prompts: bool, tokens: int) -> float:
        if not tokens:
            return 0.0
        found = handle.evaluate_ops_json(text, is_context=prompts, batch_size=tokens, s=1, x=tokens)
        return float(sum([each for _, each, *_ in found]))

    return milliseconds
