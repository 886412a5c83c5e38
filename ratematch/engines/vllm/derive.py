"""The flags of a server beyond the user's options: each with its derived value and the reason for it."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.settings import Config
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.limits import explain_limits
from ratematch.plan.load import most_in_flight
from ratematch.plan.setting import Setting

LEN_MARGIN = 40
"""Tokens beyond ISL + OSL in ``max_model_len``."""

MEMORY_SHARE = 0.9
"""``gpu_memory_utilization``, the same in all versions (the engine's own default moved from 0.9 to 0.92)."""

BLOCK = 16
"""The engine's default ``block_size`` on GPUs."""

PREFILL_TOKENS = 2048
"""Least ``max_num_batched_tokens`` of a decode server: prompts are computed there too, before the clock."""

KV_ROLE = {"ctx": "kv_producer", "gen": "kv_consumer"}

SYNTHETIC = "synthetic"
"""``rejection_sample_method`` that does not look whether drafts are right."""

LIMITS = {"max_batch_size": "max_num_seqs", "max_num_tokens": "max_num_batched_tokens"}
"""The plan's names of the two limits, and the flags that set them."""


def derive_server(experiment: Experiment, group: ServerGroup) -> tuple[Setting, ...]:
    """Every derived flag of one role's servers, in the order of the command line; options are not in it yet."""
    return (
        *_parallelism(group),
        *_limits(experiment, group),
        _model_len(experiment, group),
        Setting("gpu_memory_utilization", MEMORY_SHARE, "share of a GPU's memory that the server may take in all"),
        _prefix_caching(group),
        *_transfer(group),
        *_drafts(experiment, group),
        Setting("generation_config", "vllm", "a checkpoint's own sampling defaults would change what a step does"),
        Setting("disable_uvicorn_access_log", True, "a log line a request would hide what matters"),
    )


def _parallelism(group: ServerGroup) -> Iterator[Setting]:
    mapping = group.mapping
    if mapping.attention_dp:
        why = (
            f"{mapping.label}: each of the {mapping.tp} ranks is an attention batch of its own; limits count per rank"
        )
        yield Setting("data_parallel_size", mapping.tp, why)
    else:
        yield Setting("tensor_parallel_size", mapping.tp, f"tp of {mapping.label}")
    if mapping.pp > 1:
        yield Setting("pipeline_parallel_size", mapping.pp, f"pp of {mapping.label}")
    if mapping.ep > 1:
        why = f"ep of {mapping.label}; vLLM spreads experts over all tensor and data parallel ranks, or not at all"
        yield Setting("enable_expert_parallel", True, why)


def _limits(experiment: Experiment, group: ServerGroup) -> Iterator[Setting]:
    batch, tokens = explain_limits(group, experiment.workload, most_in_flight(experiment.loads, group.instances))
    yield Setting("max_num_seqs", batch.value, _renamed(batch.why), batch.given)
    value, why = tokens.value, _renamed(tokens.why)
    if group.role == "gen" and not tokens.given and value < PREFILL_TOKENS:
        value, why = PREFILL_TOKENS, f"{why}; at least {PREFILL_TOKENS}, for prompts that are computed here"
    yield Setting("max_num_batched_tokens", value, why, tokens.given)


def _renamed(text: str) -> str:
    for name, flag in LIMITS.items():
        text = text.replace(name, flag)
    return text


def _model_len(experiment: Experiment, group: ServerGroup) -> Setting:
    workload = experiment.workload
    length, words = workload.isl, f"ISL {workload.isl}"
    if group.role != "ctx":
        length, words = length + workload.osl, f"{words} + OSL {workload.osl}"
    value = length + group.mtp + LEN_MARGIN
    return Setting("max_model_len", value, f"{words} + MTP {group.mtp} + margin {LEN_MARGIN} = {value}")


def _prefix_caching(group: ServerGroup) -> Setting:
    if group.role == "gen":
        return Setting(
            "enable_prefix_caching", True, "gen alone finds prompts there that it computed before the clock"
        )
    return Setting("enable_prefix_caching", False, "re-used blocks would make prefill look faster than it is")


def _transfer(group: ServerGroup) -> Iterator[Setting]:
    role = KV_ROLE.get(group.role)
    if role is None:
        return
    key = "kv_transfer_config"
    yield Setting(f"{key}.kv_connector", "NixlConnector", "gen pulls the KV cache from ctx, GPU to GPU")
    yield Setting(f"{key}.kv_role", role, f"what {group.role} servers do with KV caches")
    why = "a prompt computed again on gen would be counted as a transfer that worked"
    yield Setting(f"{key}.kv_load_failure_policy", "fail", why)


def why_not_forced(engine: EngineRef, tokens: float) -> str | None:
    """Every release from 0.20 on, so all that are rendered, accepts by force what ``speculative_config`` says."""
    return None


def forced_config(experiment: Experiment, group: ServerGroup) -> Config:
    """Keys of ``speculative_config`` that force how many drafts are accepted; empty: they are accepted as they are
    right. The method accepts whole drafts always and one more by chance, as TensorRT-LLM's variable does."""
    tokens = experiment.forced_tokens(group)
    return {} if tokens is None else {"rejection_sample_method": SYNTHETIC, "synthetic_acceptance_length": tokens}


def _drafts(experiment: Experiment, group: ServerGroup) -> Iterator[Setting]:
    if not group.mtp:
        return
    key = "speculative_config"
    if "method" not in _option(group, key):
        yield Setting(f"{key}.method", "mtp", f"mtp={group.mtp}: the checkpoint's own draft layers")
    yield Setting(f"{key}.num_speculative_tokens", group.mtp, f"mtp={group.mtp}, the draft length")
    for name, value in forced_config(experiment, group).items():
        yield Setting(f"{key}.{name}", value, f"forced acceptance: {experiment.workload.forced_acceptance}")


def _option(group: ServerGroup, key: str) -> Config:
    """A map among the user's options; empty when there is none."""
    value = group.options.get(key)
    return value if isinstance(value, dict) else {}
