"""What configures a worker: command line and YAML file made into one validated value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ratematch.emulator.errors import SettingsError
from ratematch.emulator.iteration import AttentionDpBalance, BlockRouting, PromptGathering
from ratematch.engines.settings import Config, without
from ratematch.engines.trtllm_serve.agreement import check_model, draft_tokens
from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.engines.trtllm_serve.worker_rules import check_worker_config
from ratematch.errors import CatalogError
from ratematch.inputs.catalog import load_model
from ratematch.inputs.checkpoint.read import is_checkpoint
from ratematch.plan.model import Model
from ratematch.plan.modelfile import parse_model
from ratematch.plan.parallelism import Parallelism

CLI_KEYS = {
    "tp_size": "tensor_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "cp_size": "context_parallel_size",
    "ep_size": "moe_expert_parallel_size",
    "cluster_size": "moe_cluster_parallel_size",
    "gpus_per_node": "gpus_per_node",
    "enable_attention_dp": "enable_attention_dp",
    "max_batch_size": "max_batch_size",
    "max_num_tokens": "max_num_tokens",
    "max_seq_len": "max_seq_len",
    "max_beam_width": "max_beam_width",
    "num_postprocess_workers": "num_postprocess_workers",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "trust_remote_code": "trust_remote_code",
}
"""Command-line parameter of ``serve`` -> worker YAML key."""


def read_yaml(path: str) -> Config:
    """The mapping in a YAML file.

    Raises:
        SettingsError: missing file, bad YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: the top level must be a mapping of keys, found {type(content).__name__}")
    return content


def resolve_model(name: str, facts: str = "") -> Model:
    """The catalog entry for a model path or name, or what ``facts``, JSON of a model file's keys, say.

    Raises:
        SettingsError: a path that is not there, or a name that the catalog does not know.
    """
    if facts:
        try:
            return parse_model(facts, "RATEMATCH_EMULATED_MODEL")
        except CatalogError as error:
            raise SettingsError(str(error)) from None
    if "/" in name and not Path(name).exists():
        raise SettingsError(f"model {name!r}: no such file or directory; give a local path or a bare model name")
    try:
        return load_model(name if is_checkpoint(Path(name)) else Path(name).name)
    except CatalogError as error:
        raise SettingsError(str(error)) from None


def _merge(cli: Mapping[str, Any], typed: Collection[str], config: Config, version: str) -> tuple[Config, list[str]]:
    """One flat configuration, and warnings. 1.2: the file wins. Later: options the user typed win."""
    merged = {key: cli[name] for name, key in CLI_KEYS.items() if cli.get(name) is not None}
    kv: Config = {"free_gpu_memory_fraction": cli.get("free_gpu_memory_fraction", 0.9)}
    if cli.get("kv_cache_dtype"):
        kv["dtype"] = cli["kv_cache_dtype"]
    file_kv = config.get("kv_cache_config") or {}
    warnings = []
    merged = {**merged, **config, "kv_cache_config": {**kv, **file_kv}}
    if release_line(version) != "1.2":
        over = {CLI_KEYS[name]: cli[name] for name in typed if name in CLI_KEYS and CLI_KEYS[name] in config}
        merged |= over
        names = sorted(over)
        for option, key in (("free_gpu_memory_fraction", "free_gpu_memory_fraction"), ("kv_cache_dtype", "dtype")):
            if option in typed and key in file_kv:
                merged["kv_cache_config"][key] = cli[option]
                names.append(f"kv_cache_config.{key}")
        if names:
            warnings.append(f"Explicit CLI flag(s) {names} override the values in the YAML file")
    return merged, warnings


def _check_config(config: Config, version: str) -> None:
    if problems := check_worker_config(config, version):
        raise SettingsError("\n".join(problems))


def _check_model(model: Model, config: Config) -> None:
    """What the engine finds out only when it loads this model."""
    problems = list(check_model(config, model))
    balancer = (config.get("moe_config") or {}).get("load_balancer")
    if isinstance(balancer, str) and not Path(balancer).is_file():
        problems.append(f"moe_config.load_balancer: no such file: {balancer}")
    if problems:
        raise SettingsError("\n".join(problems))


@dataclass(frozen=True)
class WorkerSettings:
    """One worker. ``config``: the merged YAML view of everything; the other fields are what the emulator acts on.

    ``max_batch_size`` and ``max_num_tokens`` are per attention-DP rank. ``mtp``: draft tokens per step.
    """

    model_name: str
    model: Model
    host: str
    port: int
    version: str
    log_level: str
    mapping: Parallelism
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    stream_interval: int
    mtp: int
    tokens_per_block: int
    kv_fraction: float
    kv_max_tokens: int | None
    kv_dtype: str
    block_reuse: bool
    chunked_prefill: bool
    overlap: bool
    balance: AttentionDpBalance | None
    routing: BlockRouting | None
    gathering: PromptGathering | None
    prompt_graphs: bool
    transceiver: str | None
    transfer_timeout_s: float | None
    print_iter_log: bool
    iter_perf_stats: bool
    stats_kept: int
    perf_metrics: bool
    perf_metrics_kept: int
    perf_metrics_folder: str | None
    server_role: str | None
    config: Config
    warnings: tuple[str, ...]


def _drafts(config: Config, version: str) -> int:
    drafts = draft_tokens(config, version)
    kind = (config.get("speculative_config") or {}).get("decoding_type")
    # What a release without a default does then is not known; one draft is what the others do.
    return (1 if kind == "MTP" else 0) if drafts is None else drafts


def worker_settings(
    model_path: str,
    cli: Mapping[str, Any],
    typed: Collection[str],
    config: Config,
    version: str,
    unchecked: Collection[str] = (),
    facts: str = "",
) -> WorkerSettings:
    """Settings of ``serve``. ``cli``: every option by parameter name, ``typed``: those the user gave himself.

    ``unchecked``: dotted keys of ``config`` that are taken as if this version knew them; they change nothing.
    ``facts``: as in :func:`resolve_model`.

    Raises:
        SettingsError: an unknown key, a value or combination the engine refuses, an unknown model.
    """
    merged, warnings = _merge_checked(cli, typed, without(config, unchecked), version)
    model = resolve_model(model_path, facts)
    _check_model(model, merged)
    kv = merged["kv_cache_config"]
    transceiver = merged.get("cache_transceiver_config") or {}
    _check_role(cli)
    return WorkerSettings(
        model_name=cli.get("served_model_name") or Path(model_path).name or model_path,
        model=model,
        host=cli.get("host") or "localhost",
        port=int(cli.get("port") or 0),
        version=version,
        log_level=cli.get("log_level") or "info",
        mapping=_parallelism(merged),
        max_batch_size=int(merged.get("max_batch_size", 2048)),
        max_num_tokens=int(merged.get("max_num_tokens", 8192)),
        max_seq_len=int(merged.get("max_seq_len") or model.max_seq_len),
        stream_interval=int(merged.get("stream_interval", 1)),
        mtp=_drafts(merged, version),
        tokens_per_block=int(kv.get("tokens_per_block", 32)),
        kv_fraction=float(kv.get("free_gpu_memory_fraction", 0.9)),
        kv_max_tokens=kv.get("max_tokens"),
        kv_dtype=str(kv.get("dtype", "auto")),
        block_reuse=bool(kv.get("enable_block_reuse", True)),
        chunked_prefill=bool(merged.get("enable_chunked_prefill", False)),
        balance=_balance(merged.get("attention_dp_config") or {}),
        routing=_routing(merged.get("attention_dp_config") or {}),
        gathering=_gathering(merged),
        prompt_graphs=bool((merged.get("torch_compile_config") or {}).get("enable_piecewise_cuda_graph")),
        overlap=not merged.get("disable_overlap_scheduler", False),
        transceiver=transceiver.get("backend"),
        transfer_timeout_s=_transfer_timeout_s(transceiver, version),
        print_iter_log=bool(merged.get("print_iter_log", False)),
        iter_perf_stats=bool(merged.get("enable_iter_perf_stats", False)),
        stats_kept=int(merged.get("iter_stats_max_iterations") or merged.get("max_stats_len") or 1000),
        perf_metrics=bool(merged.get("return_perf_metrics", False)),
        perf_metrics_kept=int(merged.get("perf_metrics_max_requests", 0)),
        perf_metrics_folder=merged.get("perf_metrics_output_dir"),
        server_role=cli.get("server_role"),
        config=merged,
        warnings=tuple(warnings),
    )


def _merge_checked(
    cli: Mapping[str, Any], typed: Collection[str], config: Config, version: str
) -> tuple[Config, list[str]]:
    _check_config(config, version)
    merged, warnings = _merge(cli, typed, config, version)
    _check_config(merged, version)
    return merged, warnings


def _check_role(cli: Mapping[str, Any]) -> None:
    if cli.get("server_role") is None and (cli.get("metadata_server_config_file") or cli.get("disagg_cluster_uri")):
        raise SettingsError("server_role is required when metadata_server_cfg or disagg_cluster_config is provided")


def _transfer_timeout_s(transceiver: Mapping[str, Any], version: str) -> float | None:
    timeout_ms = transceiver.get("kv_transfer_timeout_ms", None if release_line(version) == "1.2" else 60000)
    return None if timeout_ms is None else timeout_ms / 1000


def _parallelism(config: Config) -> Parallelism:
    tp = int(config.get("tensor_parallel_size", 1))
    ep = config.get("moe_expert_parallel_size")
    if ep is None or ep < 1:
        ep = tp // int(config.get("moe_tensor_parallel_size") or tp)
    return Parallelism(
        tp=tp,
        pp=int(config.get("pipeline_parallel_size", 1)),
        cp=int(config.get("context_parallel_size", 1)),
        ep=ep,
        attention_dp=bool(config.get("enable_attention_dp", False)),
    )


def _balance(config: Config) -> AttentionDpBalance | None:
    if not config.get("enable_balance"):
        return None
    return AttentionDpBalance(int(config.get("timeout_iters", 50)), int(config.get("batching_wait_iters", 10)))


def _gathering(config: Config) -> PromptGathering | None:
    """Not with attention DP, whose ranks would have to agree."""
    iters = int(config.get("batch_wait_timeout_iters") or 0)
    ratio = float(config.get("batch_wait_max_tokens_ratio") or 0)
    if config.get("enable_attention_dp") or not (iters or ratio):
        return None
    return PromptGathering(iters, ratio)


def _routing(config: Config) -> BlockRouting | None:
    if not config.get("enable_kv_cache_aware_routing"):
        return None
    usual = BlockRouting()
    return BlockRouting(
        float(config.get("kv_cache_routing_match_rate_threshold", usual.match_rate)),
        float(config.get("kv_cache_routing_fair_share_multiplier", usual.fair_share)),
    )
