"""What the start-up, or the first request, of a planned deployment would fail at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ratematch.engines.installed import InstalledSchema
from ratematch.engines.settings import Config, without
from ratematch.engines.vllm.contract import check_options, release_line
from ratematch.engines.vllm.derive import BLOCK, SYNTHETIC, forced_config
from ratematch.engines.vllm.options import check_own, server_options, spell_options
from ratematch.engines.vllm.router import check_router
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model

TRANSFER_KEYS = (
    *("kv_connector", "engine_id", "kv_buffer_device", "kv_buffer_size", "kv_role", "kv_rank", "kv_parallel_size"),
    *("kv_ip", "kv_port", "kv_connector_extra_config", "kv_connector_module_path", "enable_permute_local_kv"),
    "kv_load_failure_policy",
)
FORCING = (
    *("rejection_sample_method", "synthetic_acceptance_length", "synthetic_acceptance_rates"),
    "synthetic_acceptance_rate",
)
"""Keys of ``speculative_config`` that say how drafts are accepted."""
KV_ROLES = ("kv_producer", "kv_consumer", "kv_both")


def check_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """Problems of each role's flags, and of what must agree between them; empty when there are none.

    Options marked ``!unchecked`` are not checked. ``model``: what the servers load; ``None`` leaves out the rules
    that depend on it. ``installed`` is not looked at: vLLM is not asked for a schema.
    """
    version, deployment = experiment.engine.version, experiment.deployment
    configured: dict[str, Config] = {}
    problems: list[str] = []
    for group in deployment.groups:
        own = [f"{group.role}: {problem}" for problem in check_own(group, version)]
        configured[group.role] = server_options(experiment, group)
        judged = without(configured[group.role], group.unchecked)
        problems += [*own, *(f"{group.role}: {problem}" for problem in check_options(judged, version))]
        problems += [f"{group.role}: {problem}" for problem in _check_group(group, judged, plan, model)]
        problems += [f"{group.role}: {problem}" for problem in _check_forced(experiment, group, judged)]
    if not problems and deployment.ctx is not None and deployment.gen is not None:
        problems += why_no_hand_over(configured["ctx"], configured["gen"], version)
    if deployment.needs_orchestrator:
        problems += check_router(deployment)
    return problems


def _check_group(
    group: ServerGroup, options: Mapping[str, Any], plan: LaunchPlan, model: Model | None
) -> Iterator[str]:
    mapping = group.mapping
    if mapping.cp > 1:
        yield f"mapping: {mapping.label}: context parallelism is not rendered for vLLM"
    if mapping.ep not in (1, mapping.tp):
        yield f"mapping: {mapping.label}: vLLM spreads experts over all ranks or none: ep must be 1 or {mapping.tp}"
    if mapping.ep > 1 and model is not None and model.moe is None:
        yield f"mapping: {mapping.label}: expert parallelism needs an MoE model, and {model.name} is dense"
    if mapping.attention_dp and mapping.pp > 1:
        yield f"mapping: {mapping.label}: attention DP is not rendered together with PP for vLLM"
    if group.role == "gen" and mapping.pp > 1:
        yield f"mapping: {mapping.label}: NixlConnector hands no KV cache to a server with pipeline parallelism"
    if any(len(spec.nodes) > 1 for spec in plan.processes if spec.role == group.role):
        yield f"mapping: {mapping.label}: a vLLM server that spans nodes is not rendered; it has to fit one node"
    batch, tokens = options.get("max_num_seqs"), options.get("max_num_batched_tokens")
    if isinstance(batch, int) and isinstance(tokens, int) and tokens < batch:
        yield f"max_num_batched_tokens: {tokens} is less than max_num_seqs {batch}"
    yield from _check_transfer(options.get("kv_transfer_config"))
    speculation = options.get("speculative_config")
    drafts = speculation.get("num_speculative_tokens", 0) if isinstance(speculation, dict) else 0
    if isinstance(drafts, int) and drafts != group.mtp:
        yield (
            f"speculative_config: drafts {drafts} tokens a step, and the sweep file says mtp: {group.mtp}: "
            f"write mtp: {drafts}"
        )
    own_drafts = isinstance(speculation, dict) and speculation.get("method") == "mtp"
    if own_drafts and model is not None and not model.mtp_layers:
        yield f"speculative_config: mtp needs a checkpoint with MTP layers; {model.name} has none"


def _check_forced(experiment: Experiment, group: ServerGroup, options: Mapping[str, Any]) -> Iterator[str]:
    """Drafts that are accepted by force though the experiment does not say so, or in another number."""
    given = options.get("speculative_config")
    forcing = {key: value for key, value in given.items() if key in FORCING} if isinstance(given, dict) else {}
    if forcing.get("rejection_sample_method") != SYNTHETIC and len(forcing) <= 1:
        forcing.pop("rejection_sample_method", None)
    if forcing != forced_config(experiment, group):
        words = ", ".join(f"{key}: {value}" for key, value in forcing.items()) or "nothing in it"
        yield (
            f"speculative_config: {words} forces how many drafts are accepted, and results say "
            f"{experiment.workload.forced_acceptance or 'that none are forced'}: write forced_acceptance to the "
            "workload instead"
        )


def _check_transfer(config: Any) -> Iterator[str]:
    if not isinstance(config, dict):
        return
    where = "kv_transfer_config"
    for name in sorted(config.keys() - set(TRANSFER_KEYS)):
        yield f"{where}.{name}: is no key of it; known: {', '.join(TRANSFER_KEYS)}"
    role, policy = config.get("kv_role"), config.get("kv_load_failure_policy", "fail")
    if role not in KV_ROLES:
        yield f"{where}.kv_role: {role!r} is not valid; choose from {', '.join(KV_ROLES)}"
    if policy not in ("fail", "recompute"):
        yield f"{where}.kv_load_failure_policy: {policy!r} is not valid; choose from fail, recompute"


def why_no_hand_over(ctx: Mapping[str, Any], gen: Mapping[str, Any], version: str) -> list[str]:
    """Why servers with these options cannot hand KV caches over; empty when they can.

    Blocks of gen may hold several of ctx, and not the other way round (since 0.24 at the latest); before a transfer
    both sides compare a hash of model, number format and connector, and refuse each other when it differs.
    """
    release_line(version)
    left, right = _block(ctx), _block(gen)
    problems = []
    if right % left:
        problems.append(f"block_size: {right} of gen is no multiple of {left} of ctx: blocks cannot be handed over")
    for key, default in (("kv_cache_dtype", "auto"), ("dtype", "auto")):
        if ctx.get(key, default) != gen.get(key, default):
            a, b = ctx.get(key, default), gen.get(key, default)
            problems.append(f"{key}: ctx has {a} and gen has {b}: both sides of a KV transfer must agree")
    one, other = (side.get("kv_transfer_config") or {} for side in (ctx, gen))
    if one.get("kv_connector") != other.get("kv_connector"):
        a, b = one.get("kv_connector"), other.get("kv_connector")
        problems.append(f"kv_transfer_config.kv_connector: ctx has {a} and gen has {b}")
    return problems


def _block(options: Mapping[str, Any]) -> int:
    given = options.get("block_size")
    return given if isinstance(given, int) and given > 0 else BLOCK


def kv_layout(group: ServerGroup, version: str) -> str:
    """The layout of the KV cache in words: matching puts servers of one layout together.

    Blocks of different sizes can be handed over, in pieces of the smaller one: more work than either side's own.
    """
    options = spell_options(group.options if group.config is None else group.config, version)
    format_ = options.get("kv_cache_dtype", "auto")
    return f"{_block(options)} tokens a block, {format_}"
