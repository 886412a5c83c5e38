"""What a Dynamo worker's engine is configured with: the rooms of TensorRT-LLM and vLLM derive it, and what Dynamo
does otherwise is laid over that.

Dynamo puts base values of its own below the engine's YAML, drops a key, and has its own collector of request times;
and generation servers alone are fed by prompts that they have computed before, so their prefix cache is on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ratematch.engines.dynamo.contract import is_since, spell_flags
from ratematch.engines.dynamo.stack import Stack, stack_of
from ratematch.engines.settings import Config, fold, lay_over
from ratematch.engines.trtllm_serve.contract import load_keys, there
from ratematch.engines.trtllm_serve.derive import BLOCK, NO_ENVIRONMENT, derive_worker
from ratematch.engines.trtllm_serve.forced import why_not_forced as trtllm_forced
from ratematch.engines.trtllm_serve.release import read_version
from ratematch.engines.vllm.derive import derive_server
from ratematch.engines.vllm.derive import why_not_forced as vllm_forced
from ratematch.engines.vllm.options import spell_options
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.setting import Setting

PREFILL_TOKENS = 2048
"""Least ``max_num_tokens`` of a generation server alone: prompts are computed there too, piece by piece, before the
clock."""

UNREAD = ("return_perf_metrics", "perf_metrics_max_requests", "perf_metrics_output_dir")
"""Keys that collect times of requests for addresses of ``trtllm-serve``; here the frontend's request trace does."""

NOT_OF_WORKERS = ("disable_uvicorn_access_log",)
"""Flags of ``vllm serve`` that configure its HTTP server, which a Dynamo worker has not."""


def as_engine(experiment: Experiment) -> Experiment:
    """``experiment`` as the room of the workers' engine sees it."""
    stack = stack_of(experiment.engine)
    name = "trtllm-serve" if stack.backend == "trtllm" else "vllm"
    deployment = experiment.deployment
    if stack.router_mode == "kv" and stack.backend == "trtllm":
        # The same keys as for trtllm-serve's own router of that kind: block reuse, and a buffer of KV events.
        deployment = replace(deployment, router="kv_cache_aware")
    return replace(experiment, engine=EngineRef(name, stack.backend_version), deployment=deployment)


def why_not_forced(engine: EngineRef, tokens: float) -> str | None:
    """As the room of the workers' engine says."""
    of_engine = trtllm_forced if engine.backend == "trtllm" else vllm_forced
    return of_engine(engine, tokens)


def is_alone(experiment: Experiment) -> bool:
    """Do the servers of a role answer alone, as aggregated workers?"""
    deployment = experiment.deployment
    return deployment.ctx is None or deployment.gen is None


def worker_config(
    experiment: Experiment, group: ServerGroup, environment: Mapping[str, str] = NO_ENVIRONMENT
) -> Config:
    """The engine's configuration of one role's workers: for TensorRT-LLM its YAML, for vLLM its flags."""
    if group.config is not None:
        return group.config
    options = group.options
    if stack_of(experiment.engine).backend == "vllm":
        options = spell_options(options, stack_of(experiment.engine).backend_version)
    return lay_over(fold(derive(experiment, group, environment)), options)


def derive(
    experiment: Experiment, group: ServerGroup, environment: Mapping[str, str] = NO_ENVIRONMENT
) -> tuple[Setting, ...]:
    """Every derived key of one role's workers, with the reason for it."""
    stack, inner = stack_of(experiment.engine), as_engine(experiment)
    if stack.backend == "vllm":
        return tuple(_vllm(experiment, derive_server(inner, group)))
    return tuple(_trtllm(experiment, group, derive_worker(inner, group, environment)))


def _trtllm(experiment: Experiment, group: ServerGroup, settings: tuple[Setting, ...]) -> Iterator[Setting]:
    stack, warmed = stack_of(experiment.engine), experiment.mode == "gen_only_warmed" and group.role == "gen"
    for setting in settings:
        if setting.key in UNREAD:
            continue
        if setting.key == "enable_iter_perf_stats":
            yield _iteration_statistics(stack)
        elif warmed and setting.key == "kv_cache_config.enable_block_reuse":
            why = "gen alone finds prompts there that it computed before the clock"
            yield replace(setting, value=True, why=why)
        elif warmed and setting.key == "max_num_tokens" and not setting.given and setting.value < PREFILL_TOKENS:
            why = f"{setting.why}; at least {PREFILL_TOKENS}, for prompts that are computed here before the clock"
            yield replace(setting, value=PREFILL_TOKENS, why=why)
        else:
            yield setting
    if warmed and group.mapping.attention_dp and routes_by_blocks(stack):
        why = "a prompt is warm on the rank that computed it: it is sent there again, as far as load allows"
        yield Setting("attention_dp_config.enable_kv_cache_aware_routing", True, why)
    if warmed:
        why = "prompts are computed here in pieces before the clock; a decode step is the same"
        yield Setting("enable_chunked_prefill", True, why)


def routes_by_blocks(stack: Stack) -> bool:
    """Can TensorRT-LLM send a request to the attention-DP rank that keeps its blocks, in every release it may be?"""
    rule = load_keys("worker")["attention_dp_config"]["keys"]["enable_kv_cache_aware_routing"]
    return there(rule, read_version(stack.backend_version)) is True


def _iteration_statistics(stack: Stack) -> Setting:
    if publishes_metrics(stack):
        return Setting("enable_iter_perf_stats", True, "workers publish the metrics that are made of them")
    flag = "--publish-metrics" if is_since(stack.version, "1.6") else "--publish-events-and-metrics"
    why = f"nothing reads them without {flag}, and each step would pay for them; step times are in the log"
    return Setting("enable_iter_perf_stats", False, why)


def publishes_metrics(stack: Stack) -> bool:
    """Do workers publish their engine's metrics and iteration statistics, by the sweep's own ``worker_args`` or
    because a router needs their KV events? Before 1.6 one flag asks for both."""
    spelled = {**publishing(stack), **spell_flags(stack.backend, stack.version, stack.worker_args)}
    both = () if is_since(stack.version, "1.6") else ("publish-kv-events",)
    return any(spelled.get(name) is True for name in ("publish-metrics", "publish-events-and-metrics", *both))


def publishing(stack: Stack) -> dict[str, object]:
    """What a router that ranks workers by their blocks needs of them."""
    if stack.router_mode != "kv" or stack.backend != "trtllm":
        return {}
    return {"publish-kv-events" if is_since(stack.version, "1.3") else "publish-events-and-metrics": True}


def _vllm(experiment: Experiment, settings: tuple[Setting, ...]) -> Iterator[Setting]:
    for setting in settings:
        if setting.key in NOT_OF_WORKERS or (setting.key.startswith("kv_transfer_config") and is_alone(experiment)):
            continue
        if setting.key == "kv_transfer_config.kv_role":
            yield replace(setting, value="kv_both", why="Dynamo's workers hand over and take with the same connector")
        elif setting.key == "enable_prefix_caching" and stack_of(experiment.engine).router_mode == "kv":
            yield replace(setting, value=True, why="router_mode kv ranks workers by the blocks they keep")
        else:
            yield setting


def block_size(experiment: Experiment, group: ServerGroup) -> int | None:
    """Tokens of a KV block of a worker, where its configuration says it; ``None``: the engine's default."""
    config = worker_config(experiment, group)
    if stack_of(experiment.engine).backend == "vllm":
        size = config.get("block_size")
    else:
        kv = config.get("kv_cache_config")
        size = kv.get("tokens_per_block") if isinstance(kv, dict) else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


DEFAULT_BLOCK = {"trtllm": BLOCK, "vllm": 16}
"""Tokens of a KV block where nothing says another number."""
