"""What is wrong with a worker YAML: its keys one by one, and the rules that span several of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.contract import check_map, in_version, load_keys, release_line
from ratematch.engines.trtllm_serve.release import Version, read_version
from ratematch.engines.trtllm_serve.transceiver import check_transfer
from ratematch.plan.parallelism import Parallelism


def check_worker_config(config: Config, version: str) -> list[str]:
    """What is wrong with a worker YAML for a version; empty when the server would take it.

    Raises:
        ValueError: the version is not known.
    """
    release = read_version(version)
    problems = list(check_map("", config, load_keys("worker"), release))
    if not problems:
        for rule in (
            _check_parallelism,
            _check_attention_dp,
            _check_eplb,
            _check_cuda_graphs,
            _check_speculation,
            check_transfer,
        ):
            problems += rule(config, release)
    return problems


def _size(config: Config, name: str) -> int | None:
    """An expert-parallel size; ``None`` when it is left to the engine (null or -1)."""
    value = config.get(name)
    return None if value is None or value < 1 else int(value)


def _check_parallelism(config: Config, version: Version) -> Iterator[str]:
    tp = config.get("tensor_parallel_size", 1)
    ep, moe_tp = _size(config, "moe_expert_parallel_size"), _size(config, "moe_tensor_parallel_size")
    cluster = _size(config, "moe_cluster_parallel_size") or 1
    cp = config.get("context_parallel_size", 1)
    if ep is not None and tp % ep and (tp * cp) % ep:
        divisors = ", ".join(str(n) for n in range(1, tp + 1) if tp % n == 0)
        yield (
            f"moe_expert_parallel_size: {ep} does not divide tensor_parallel_size {tp}; valid are {divisors} "
            "(tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size)"
        )
    elif ep is not None and moe_tp is not None and moe_tp * ep * cluster not in (tp, tp * cp):
        yield (
            f"moe_tensor_parallel_size: tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size, but "
            f"{tp} != {moe_tp} * {ep} * {cluster}"
        )
    elif ep is None and moe_tp is not None and tp % moe_tp:
        yield f"moe_tensor_parallel_size: {moe_tp} does not divide tensor_parallel_size {tp}"
    helix = config.get("cp_config") or {}
    block = (config.get("kv_cache_config") or {}).get("tokens_per_block", 32)
    if str(helix.get("cp_type", "")).upper() == "HELIX" and helix.get("tokens_per_block", block) != block:
        yield (
            f"cp_config.tokens_per_block: {helix['tokens_per_block']} must equal "
            f"kv_cache_config.tokens_per_block {block}"
        )


def _check_attention_dp(config: Config, version: Version) -> Iterator[str]:
    block = config.get("attention_dp_config") or {}
    if block.get("enable_balance"):
        for name in ("timeout_iters", "batching_wait_iters"):
            if block.get(name, 0) < 0:
                yield f"attention_dp_config.{name}: {block[name]} must be at least 0 when enable_balance is true"


def _check_eplb(config: Config, version: Version) -> Iterator[str]:
    block = (config.get("moe_config") or {}).get("load_balancer")
    if not isinstance(block, dict):
        return
    slots, ep = block.get("num_slots"), _size(config, "moe_expert_parallel_size") or 1
    if slots is not None and slots % ep:
        yield f"moe_config.load_balancer.num_slots: {slots} is no multiple of moe_expert_parallel_size {ep}"


def _check_cuda_graphs(config: Config, version: Version) -> Iterator[str]:
    block = config.get("cuda_graph_config") or {}
    sizes, most = block.get("batch_sizes"), block.get("max_batch_size") or 0
    if sizes is None:
        return
    if not sizes or any(size < 1 for size in sizes):
        yield "cuda_graph_config.batch_sizes: must hold at least one size, each at least 1"
    elif most and most != max(sizes):
        yield (
            f"cuda_graph_config.max_batch_size: {most} must equal the largest of batch_sizes {max(sizes)}; "
            "give only one of them"
        )


def _check_speculation(config: Config, version: Version) -> Iterator[str]:
    block = config.get("speculative_config")
    if not block:
        return
    where = "speculative_config"
    kind = block.get("decoding_type")
    if kind is None:
        yield f"{where}.decoding_type: is required; MTP for DeepSeek-style drafts"
        return
    for name, rule in in_version(load_keys("worker")[where]["keys"], version).items():
        if name in block and kind not in rule.get("types", (kind,)):
            yield f"{where}.{name}: is no key of decoding_type {kind}; it belongs to {', '.join(rule['types'])}"
    if kind == "MTP":
        old, new = block.get("num_nextn_predict_layers"), block.get("max_draft_len")
        if version.line == "1.2" and new is not None and old is None:
            yield f"{where}.max_draft_len: MTP takes its length from num_nextn_predict_layers in {version.text}"
        elif old is not None and new is not None and old != new:
            yield f"{where}.max_draft_len: {new} contradicts num_nextn_predict_layers {old}; give only one of them"
    if kind in ("Eagle", "Eagle3"):
        if not block.get("max_draft_len"):
            yield f"{where}.max_draft_len: must be greater than 0 for {kind}"
        if not (block.get("speculative_model") or block.get("speculative_model_dir")):
            yield f"{where}.speculative_model: is required for {kind}"


def idle_options(options: Mapping[str, Any], mapping: Parallelism) -> dict[str, str]:
    """Options that change nothing with ``mapping``, by dotted path, and why."""
    block = options.get("attention_dp_config")
    if not mapping.attention_dp and isinstance(block, dict) and block.get("enable_balance") is True:
        why = f"{mapping.label} has no attention-DP ranks to balance requests over"
        return {"attention_dp_config.enable_balance": why}
    return {}


def fill_margin(version: str) -> int:
    """Slots a rank beyond a gen_only batch that is filled exactly: some 1.3 release candidates' router could give one
    attention-DP rank a request more than its share, which then waited for ever (1.2 has no such router, 1.4 the fix).
    """
    return 1 if release_line(version) == "1.3" else 0
