"""What configures an emulated ``vllm serve``: its flags made into one validated value, with vLLM's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.emulator.errors import SettingsError
from ratematch.errors import CatalogError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.model import Gpu, Model
from ratematch.plan.modelfile import parse_model
from ratematch.plan.parallelism import Parallelism

BLOCK = 16
"""``block_size`` on GPUs where no flag sets it."""

MEMORY_SHARE = {"0.24": 0.9}
"""``gpu_memory_utilization`` by release line; lines after the last one here have :data:`LATER_MEMORY_SHARE`."""
LATER_MEMORY_SHARE = 0.92

LEASE_S = 30
"""How long a prefill server keeps blocks that nobody asks for (``kv_lease_duration``)."""

GIB = 2**30

_KV_FORMATS = {"nvfp4": "nvfp4"}
_TRANSFER_ROLES = ("kv_producer", "kv_consumer", "kv_both")


@dataclass(frozen=True)
class TransferSettings:
    """``--kv-transfer-config``. ``lease_s``: of blocks that wait to be fetched."""

    role: str
    lease_s: float


@dataclass(frozen=True)
class ServeSettings:
    """One server. Limits count per data-parallel rank. ``names``: what the ``model`` field of requests may say.

    ``drafts``: draft tokens a step. ``forced_acceptance``: how many of them are accepted whether they are right or
    not, ``None``: those that are. ``kv_format``: number format of the KV cache; ``kv_dtype``: as the flag says.
    """

    path: str
    names: tuple[str, ...]
    model: Model
    gpu: Gpu
    host: str | None
    port: int
    version: str
    mapping: Parallelism
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    memory_share: float
    num_blocks: int | None
    kv_dtype: str
    kv_format: str
    prefix_caching: bool
    chunked_prefill: bool
    async_scheduling: bool
    drafts: int
    forced_acceptance: float | None
    stream_interval: int
    transfer: TransferSettings | None
    log_stats: bool
    given: Mapping[str, Any]


def _kv_format(dtype: str, model: Model) -> str:
    """Number format of the KV cache; ``auto`` is what the checkpoint asks for, else 16 bits."""
    if dtype == "auto" and model.kv_precision:
        return model.kv_precision
    return "fp8" if dtype.startswith("fp8") else _KV_FORMATS.get(dtype, "bf16")


NOT_EMULATED = ("config", "grpc", "headless", "data-parallel-external-lb", "data-parallel-hybrid-lb", "enable-lora")
"""Flags that would make another server of it."""


def serve_settings(
    model: str, given: Mapping[str, Any], version: str, gpu_name: str, facts: str = ""
) -> ServeSettings:
    """Settings of ``vllm serve model``. ``given``: the flags that were typed, by name without dashes. ``facts``:
    JSON of a model file's keys, for a model that the catalog does not know.

    Raises:
        SettingsError: a value or combination that the engine refuses, or one that is not emulated; an unknown model.
    """
    if others := sorted(name for name in NOT_EMULATED if given.get(name)):
        raise SettingsError(f"--{others[0]} is not emulated")
    loaded, gpu = _look_up(model, facts, gpu_name)
    seqs, tokens = _default_limits(gpu)
    length = _model_len(given.get("max-model-len"), loaded)
    chunked = given.get("enable-chunked-prefill", True)
    seqs = int(given.get("max-num-seqs", seqs))
    tokens = int(given.get("max-num-batched-tokens", tokens if chunked else max(tokens, length)))
    if tokens < length and not chunked:
        raise SettingsError(
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}). This effectively limits "
            "the maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. Please "
            "increase max_num_batched_tokens or decrease max_model_len."
        )
    if tokens < seqs:
        raise SettingsError(
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs})."
        )
    kv_dtype = str(given.get("kv-cache-dtype", "auto"))
    names = given.get("served-model-name") or (model,)
    return ServeSettings(
        path=model,
        names=(names,) if isinstance(names, str) else tuple(names),
        model=loaded,
        gpu=gpu,
        host=given.get("host"),
        port=int(given.get("port", 8000)),
        version=version,
        mapping=_mapping(given),
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=length,
        block_size=int(given.get("block-size") or BLOCK),
        memory_share=float(given.get("gpu-memory-utilization", MEMORY_SHARE.get(version, LATER_MEMORY_SHARE))),
        num_blocks=given.get("num-gpu-blocks-override"),
        kv_dtype=kv_dtype,
        kv_format=_kv_format(kv_dtype, loaded),
        prefix_caching=given.get("enable-prefix-caching", True),
        chunked_prefill=chunked,
        async_scheduling=given.get("async-scheduling", True),
        drafts=_drafts(given.get("speculative-config")),
        forced_acceptance=_forced(given.get("speculative-config")),
        stream_interval=int(given.get("stream-interval", 1)),
        transfer=_transfer(given.get("kv-transfer-config")),
        log_stats=not given.get("disable-log-stats", False),
        given=given,
    )


def _look_up(model: str, facts: str, gpu_name: str) -> tuple[Model, Gpu]:
    """The model, by ``facts`` or by its name in the catalog, and the GPU."""
    try:
        loaded = parse_model(facts, "RATEMATCH_EMULATED_MODEL") if facts else load_model(model.rstrip("/"))
        gpu = load_gpu(gpu_name)
    except CatalogError as error:
        raise SettingsError(str(error)) from None
    if not facts and model.startswith(("/", ".")) and not Path(model).exists():
        raise SettingsError(f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': {model!r}")
    return loaded, gpu


def _default_limits(gpu: Gpu) -> tuple[int, int]:
    """``max_num_seqs`` and ``max_num_batched_tokens`` of the API server, which depend on the GPU's memory."""
    if gpu.memory_b >= 160 * GIB:
        return 1024, 16384
    return (1024, 8192) if gpu.memory_b >= 70 * GIB else (256, 2048)


def _model_len(given: Any, model: Model) -> int:
    if given in (None, "auto", -1):
        return model.max_seq_len
    if int(given) > model.max_seq_len:
        raise SettingsError(
            f"User-specified max_model_len ({given}) is greater than the derived max_model_len "
            f"(max_position_embeddings={model.max_seq_len} or model_max_length=None in model's config.json)."
        )
    return int(given)


def _mapping(given: Mapping[str, Any]) -> Parallelism:
    """GPUs of the server. Data-parallel ranks are attention-DP ranks to the scheduler; experts span all of them."""
    tp, dp = int(given.get("tensor-parallel-size", 1)), int(given.get("data-parallel-size", 1))
    pp = int(given.get("pipeline-parallel-size", 1))
    if dp > 1 and tp * pp > 1:
        raise SettingsError("data parallelism together with tensor or pipeline parallelism is not emulated")
    size = max(tp, dp)
    ep = size if given.get("enable-expert-parallel") else 1
    return Parallelism(tp=size, pp=pp, cp=1, ep=ep, attention_dp=dp > 1)


def _drafts(config: Any) -> int:
    if not config:
        return 0
    if not isinstance(config, dict) or "num_speculative_tokens" not in config:
        raise SettingsError("num_speculative_tokens must be provided with speculative model or method")
    if not str(config.get("method")).endswith("mtp"):
        raise SettingsError(f"speculative method {config.get('method')!r} is not emulated; emulated: mtp")
    return int(config["num_speculative_tokens"])


def _forced(config: Any) -> float | None:
    """Accepted drafts of ``rejection_sample_method: synthetic``, which takes a length or rates of positions."""
    if not isinstance(config, dict) or config.get("rejection_sample_method") != "synthetic":
        if isinstance(config, dict) and any(key.startswith("synthetic_acceptance") for key in config):
            raise SettingsError(
                "synthetic_acceptance_rates / synthetic_acceptance_length are only valid with "
                "rejection_sample_method='synthetic'."
            )
        return None
    length, rates = config.get("synthetic_acceptance_length"), config.get("synthetic_acceptance_rates")
    if (length is None) == (rates is None):
        raise SettingsError(
            "rejection_sample_method='synthetic' requires exactly one of synthetic_acceptance_rates or "
            "synthetic_acceptance_length."
        )
    if length is None:
        raise SettingsError("synthetic_acceptance_rates are not emulated; give synthetic_acceptance_length")
    if not 1 <= float(length) <= int(config["num_speculative_tokens"]) + 1:
        raise SettingsError(f"synthetic_acceptance_length must be in [1, num_speculative_tokens + 1], got {length}")
    return float(length) - 1


def _transfer(config: Any) -> TransferSettings | None:
    if not config or not config.get("kv_connector"):
        return None
    role = config.get("kv_role")
    if role is None:
        raise SettingsError(f"Please specify kv_role when kv_connector is set, supported roles are {_TRANSFER_ROLES}")
    if role not in _TRANSFER_ROLES:
        raise SettingsError(f"Unsupported kv_role: {role}. Supported roles are {_TRANSFER_ROLES}")
    if config["kv_connector"] != "NixlConnector":
        raise SettingsError(f"KV connector {config['kv_connector']!r} is not emulated; emulated: NixlConnector")
    if config.get("kv_load_failure_policy", "fail") != "fail":
        raise SettingsError("kv_load_failure_policy other than fail is not emulated")
    extra = config.get("kv_connector_extra_config") or {}
    return TransferSettings(
        role=role,
        lease_s=float(extra.get("kv_lease_duration", LEASE_S)),
    )
