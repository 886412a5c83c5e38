"""What must agree between the files and processes of one deployment, though each is valid by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.contract import defaults, load_keys
from ratematch.engines.trtllm_serve.release import read_version
from ratematch.engines.trtllm_serve.transceiver import BACKEND as BLOCK
from ratematch.engines.trtllm_serve.transceiver import RUNTIME, may_be_alike, spell_runtimes
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.launchplan import ProcessSpec
from ratematch.plan.model import Model

NAMED_BACKEND_ENV = (
    "TRTLLM_USE_NIXL_KVCACHE",
    "TRTLLM_USE_UCX_KVCACHE",
    "TRTLLM_USE_MOONCAKE_KVCACHE",
    "TRTLLM_USE_MPI_KVCACHE",
)
"""Variables that choose the KV transfer behind ``backend: DEFAULT`` (contract, section 3.6); never set here."""

Layout = Mapping[str, str | int | None]
"""What both sides of a KV transfer must have alike, by key."""

BACKEND_OF_ENV = dict(zip(NAMED_BACKEND_ENV, ("NIXL", "UCX", "MOONCAKE", "MPI"), strict=True))


def as_meant(config: Config, environment: Mapping[str, str]) -> Config:
    """``config`` with the transfer that DEFAULT is in ``environment``: of the first variable that is 1, in the order
    of :data:`NAMED_BACKEND_ENV`, else DEFAULT as it stands, which is NIXL."""
    block = config.get("cache_transceiver_config")
    if not isinstance(block, dict) or block.get("backend") != "DEFAULT":
        return config
    for name in NAMED_BACKEND_ENV:
        if environment.get(name) == "1":
            return {**config, "cache_transceiver_config": {**block, "backend": BACKEND_OF_ENV[name]}}
    return config


NIXL_PLUGIN = "TRTLLM_NIXL_KVCACHE_BACKEND"
NIXL_PLUGINS = ("UCX", "LIBFABRIC")


def draft_tokens(config: Mapping[str, Any], version: str = "1.2") -> int | None:
    """Draft tokens a step of a worker YAML: 0 without speculation, ``None`` when it names no length and the version
    has no default for it."""
    block = config.get("speculative_config")
    if not isinstance(block, dict) or not block:
        return 0
    length = block.get("max_draft_len")
    if block.get("decoding_type") == "MTP":
        rule = load_keys("worker")["speculative_config"]["keys"]["num_nextn_predict_layers"]
        assumed = defaults(rule, read_version(version))
        length = length or block.get("num_nextn_predict_layers") or (assumed[0] if len(assumed) == 1 else None)
    return length if isinstance(length, int) else None


def has_load_balancer(group: ServerGroup) -> bool:
    """Does a server of this group balance its experts (EPLB)?"""
    moe = (group.options if group.config is None else group.config).get("moe_config")
    balancer = moe.get("load_balancer") if isinstance(moe, dict) else None
    return bool(balancer) and not (isinstance(balancer, dict) and balancer.get("num_slots") == 0)


def expert_slots(options: Mapping[str, Any], experts: int) -> int | None:
    """Expert slots of a layer, which ``moe_expert_parallel_size`` must divide: EPLB's ``num_slots`` (each rank holds
    as many of them, whatever the experts), without it the ``experts``; ``None`` where a file of EPLB's says it."""
    moe = options.get("moe_config")
    balancer = moe.get("load_balancer") if isinstance(moe, dict) else None
    if isinstance(balancer, str) and balancer:
        return None
    slots = balancer.get("num_slots") if isinstance(balancer, dict) else None
    return slots if isinstance(slots, int) and not isinstance(slots, bool) and slots > 0 else experts


def hand_over(config: Mapping[str, Any], version: str) -> dict[str, str | int | None]:
    """What both sides of a KV transfer must have alike (contract, sections 3.4, 3.6 and 3.9), by key.

    Nothing negotiates: a pair that differs starts, and its requests fail or give wrong text.
    """
    kv = config.get("kv_cache_config") or {}
    transceiver = config.get("cache_transceiver_config") or {}
    return {
        "kv_cache_config.dtype": kv.get("dtype", "auto"),
        "kv_cache_config.tokens_per_block": kv.get("tokens_per_block", 32),
        BLOCK: transceiver.get("backend"),
        RUNTIME: spell_runtimes(transceiver, read_version(version)),
    }


def differences(ctx: Layout, gen: Layout) -> list[str]:
    """The keys in which two sides of a KV transfer differ for sure. DEFAULT is NIXL. Runtimes are compared by what
    they
    mean, so one that is not given is its default; ``auto`` is either by the model, which one side alone would
    follow."""
    differing = []
    for key, left in ctx.items():
        right = gen.get(key)
        if key == BLOCK:
            left, right = ("NIXL" if side == "DEFAULT" else side for side in (left, right))
        if key == RUNTIME and may_be_alike(str(left), str(right)):
            continue
        if left != right:
            differing.append(key)
    return differing


def check_pair(ctx: Mapping[str, Any], gen: Mapping[str, Any], version: str) -> list[str]:
    """Why a ctx and a gen worker YAML cannot hand KV caches over; empty when they can."""
    left, right = hand_over(ctx, version), hand_over(gen, version)
    problems = [
        f"{key}: ctx has {_spell(left[key])} and gen has {_spell(right[key])}: both sides of a KV transfer must agree"
        for key in differences(left, right)
    ]
    return problems or [f"{BLOCK}: is not set on ctx and gen: KV transfer is off without it"] * (left[BLOCK] is None)


def doubt_pair(ctx: Mapping[str, Any], gen: Mapping[str, Any], version: str) -> Iterator[str]:
    """What the two sides have different though no release is known to refuse it."""
    left, right = hand_over(ctx, version), hand_over(gen, version)
    for key in (BLOCK, RUNTIME):
        if left[key] != right[key] and key not in differences(left, right):
            yield (
                f"{key}: ctx has {_spell(left[key])} and gen has {_spell(right[key])}, "
                "which are alike only where the release takes them so: write the same on both"
            )
    kinds = [(config.get("speculative_config") or {}).get("decoding_type") for config in (ctx, gen)]
    if kinds[0] != kinds[1]:
        # Deployments are run so (Qwen3.5 with MTP on gen alone, 1.3.0rc24), so the engine takes it.
        yield (
            f"speculative_config.decoding_type: ctx has {_spell(kinds[0])} and gen has {_spell(kinds[1])}: prompts "
            "come without the draft layers' KV of the other side, so acceptance may be lower than with both alike"
        )


def _spell(value: str | int | None) -> str:
    return "none" if value is None else str(value)


def check_drafts(config: Mapping[str, Any], group: ServerGroup, version: str) -> Iterator[str]:
    """The plan counts tokens, labels and matches by ``mtp``, so the server must be configured with the same."""
    drafts = draft_tokens(config, version)
    if drafts is not None and drafts != group.mtp:
        yield (
            f"speculative_config: drafts {drafts} tokens a step, and the sweep file says mtp: {group.mtp} for "
            f"{group.role}: write mtp: {drafts}"
        )


def doubt_drafts(config: Mapping[str, Any], version: str) -> Iterator[str]:
    """Speculation by MTP whose length no key gives, where later releases have no default for it any more."""
    block = config.get("speculative_config") or {}
    if block.get("decoding_type") == "MTP" and draft_tokens(config, version) is None:
        yield f"speculative_config.max_draft_len: is not given, and {version} has no default for it: write it"


def check_environment(processes: Sequence[ProcessSpec], configs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A variable that chooses the KV transfer although a backend is named already: one of the two is a mistake."""
    reported: set[str] = set()
    for process in processes:
        backend = (configs.get(process.role, {}).get("cache_transceiver_config") or {}).get("backend")
        for name, value in process.env:
            if (
                name in NAMED_BACKEND_ENV
                and backend not in (None, "DEFAULT", BACKEND_OF_ENV[name])
                and f"{process.role} {name}" not in reported
            ):
                reported.add(f"{process.role} {name}")
                yield (
                    f"{process.role} environment: {name}={value} chooses the KV transfer behind backend DEFAULT, and "
                    f"{BLOCK} is {backend}: keep one of them"
                )
            if name == NIXL_PLUGIN and value not in NIXL_PLUGINS and f"{process.role} {name}" not in reported:
                reported.add(f"{process.role} {name}")
                yield f"{process.role} environment: {name}={value} is none of {', '.join(NIXL_PLUGINS)}"


def check_router(deployment: Deployment) -> Iterator[str]:
    """Arguments that the orchestrator accepts at its start, and with which every request fails."""
    if deployment.router == "load_balancing" and deployment.router_args.get("use_tokens"):
        yield (
            "router: load_balancing with use_tokens refuses generation_only requests, and gen servers get no others: "
            "leave use_tokens out, or set it under orchestrator.context_servers.router"
        )


def check_model(config: Mapping[str, Any], model: Model) -> Iterator[str]:
    """What the engine refuses only once it loads this model."""
    pp = config.get("pipeline_parallel_size", 1)
    if pp > model.layers:
        yield f"pipeline_parallel_size: {pp} is more than the {model.layers} layers of {model.name}"
    if (config.get("speculative_config") or {}).get("decoding_type") == "MTP" and not model.mtp_layers:
        yield f"speculative_config: MTP needs a checkpoint with MTP layers; {model.name} has none"
    balancer = (config.get("moe_config") or {}).get("load_balancer")
    slots = balancer.get("num_slots") if isinstance(balancer, dict) else None
    if slots and model.moe is not None and slots < model.moe.experts:
        yield f"moe_config.load_balancer.num_slots: {slots} is less than the {model.moe.experts} experts"


def doubt_model(config: Mapping[str, Any], model: Model) -> Iterator[str]:
    """What the engine takes for this model without doing anything with it, or in some releases only."""
    ep = config.get("moe_expert_parallel_size")
    if model.moe is None and isinstance(ep, int) and ep > 1:
        yield f"moe_expert_parallel_size: {ep} does nothing, {model.name} has no experts"
    balancer = (config.get("moe_config") or {}).get("load_balancer")
    on = bool(balancer) and not (isinstance(balancer, dict) and balancer.get("num_slots") == 0)
    spread = config.get("enable_attention_dp") is True and isinstance(ep, int) and ep > 1
    if on and not spread:
        yield "moe_config.load_balancer: newer releases take EPLB with attention DP and ep above 1 only"
