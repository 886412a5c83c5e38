"""The flags of one server: derived ones with the user's laid over them, and what they say of its memory."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.settings import Config, fold, lay_over
from ratematch.engines.vllm.contract import flag_name, option_name, serve_flags
from ratematch.engines.vllm.derive import BLOCK, LIMITS, MEMORY_SHARE, derive_server
from ratematch.plan.capacity import KvSettings
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment

OWN = {
    "host": "it follows from where the server is placed",
    "port": "it follows from where the server is placed",
    "tensor_parallel_size": "write tp or mapping",
    "pipeline_parallel_size": "write pp or mapping",
    "data_parallel_size": "write attention_dp or mapping, such as DEP8",
    "enable_expert_parallel": "write ep or mapping, such as TEP4",
    "max_num_seqs": "write max_batch_size, as an axis or of a deployment",
    "max_num_batched_tokens": "write max_num_tokens, as an axis or of a deployment",
}
"""Flags that follow from keys with a place of their own, by which the plan counts too."""

KV_FORMATS = {"nvfp4": "nvfp4", "nvfp4_4over6": "nvfp4"}
"""Number format behind a ``kv_cache_dtype`` that does not begin with fp8; anything else is taken as 16-bit."""


def spell_options(options: Config, version: str) -> Config:
    """``options`` under the names that derived flags have: ``dp`` -> ``data_parallel_size``."""
    also = {other: name for name, rule in serve_flags(version).items() for other in rule.get("also", ())}
    return {option_name(also.get(flag_name(key), flag_name(key))): value for key, value in options.items()}


def server_options(experiment: Experiment, group: ServerGroup) -> Config:
    """The configuration of a server of ``group`` by option, without host and port."""
    if group.config is not None:
        return group.config
    derived = fold(derive_server(experiment, group))
    return lay_over(derived, spell_options(group.options, experiment.engine.version))


def check_own(group: ServerGroup, version: str) -> Iterator[str]:
    """Options that contradict the plan, because the plan sets them from keys of their own."""
    given = spell_options(group.options, version) if group.config is None else {}
    for name in given.keys() & OWN.keys():
        yield f"{name}: is set from the plan: {OWN[name]}"
    config = group.config or {}
    for name, value in spell_options(config, version).items():
        if name in ("host", "port"):
            yield f"{name}: {OWN[name]}"
        elif name in LIMITS.values() and value is not None and value != _limit(group, name):
            yield f"{name}: {value} contradicts {_limit(group, name)} of the deployment"


def _limit(group: ServerGroup, flag: str) -> int | None:
    return group.max_batch_size if flag == "max_num_seqs" else group.max_num_tokens


def kv_settings(group: ServerGroup) -> KvSettings:
    """What the engine does with memory: a share of the whole GPU holds weights, activations and KV cache."""
    given = {option_name(flag_name(key)): value for key, value in (group.config or group.options).items()}
    share = given.get("gpu_memory_utilization")
    dtype, block, length = (
        str(given.get("kv_cache_dtype", "auto")),
        given.get("block_size"),
        given.get("max_model_len"),
    )
    return KvSettings(
        fraction=1.0,
        dtype="fp8" if dtype.startswith("fp8") else KV_FORMATS.get(dtype, "bf16"),
        chunked_prefill=given.get("enable_chunked_prefill") is not False,
        max_seq_len=length if isinstance(length, int) else None,
        block=block if isinstance(block, int) and block > 0 else BLOCK,
        left_alone=1 - (float(share) if isinstance(share, (int, float)) and 0 < share <= 1 else MEMORY_SHARE),
        by_checkpoint=dtype == "auto",
    )
