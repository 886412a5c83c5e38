"""Keys of published deployments, by the release that their image names: each takes its own, to the last one.

A table of what was seen (key and a usual value), not of files. The recipes that it was counted from: 562 of two
public collections and 94 of a third, of autumn 2025 to August 2026.
"""

from __future__ import annotations

from typing import Any

import pytest

from ratematch.engines.trtllm_serve.worker_rules import check_worker_config

ALWAYS: dict[str, Any] = {
    "allreduce_strategy": "MNNVL",
    "attention_dp_config.batching_wait_iters": 0,
    "attention_dp_config.enable_balance": True,
    "attention_dp_config.timeout_iters": 60,
    "backend": "pytorch",
    "cache_transceiver_config.backend": "UCX",
    "cache_transceiver_config.kv_transfer_timeout_ms": 600000,
    "cache_transceiver_config.max_tokens_in_buffer": 16384,
    "cuda_graph_config.batch_sizes": [1, 2, 4],
    "cuda_graph_config.enable_padding": True,
    "disable_overlap_scheduler": True,
    "enable_attention_dp": True,
    "enable_chunked_prefill": False,
    "enable_iter_perf_stats": False,
    "enable_iter_req_stats": False,
    "enable_lm_head_tp_in_adp": True,
    "gpus_per_node": 4,
    "kv_cache_config.dtype": "fp8",
    "kv_cache_config.enable_block_reuse": False,
    "kv_cache_config.free_gpu_memory_fraction": 0.6,
    "max_batch_size": 16,
    "max_num_tokens": 16384,
    "max_seq_len": 9256,
    "moe_config.load_balancer.layer_updates_per_iter": 1,
    "moe_config.load_balancer.num_slots": 256,
    "moe_config.max_num_tokens": 16384,
    "moe_config.use_low_precision_moe_combine": True,
    "moe_expert_parallel_size": 8,
    "num_postprocess_workers": 4,
    "nvfp4_gemm_config.allowed_backends": ["cutlass", "cublaslt", "cutedsl", "cuda_core"],
    "pipeline_parallel_size": 1,
    "print_iter_log": True,
    "speculative_config.decoding_type": "MTP",
    "stream_interval": 100,
    "tensor_parallel_size": 8,
    "trust_remote_code": True,
}
BESIDES: dict[str, dict[str, Any]] = {
    "1.2": {"moe_config.backend": "WIDEEP", "speculative_config.num_nextn_predict_layers": 3},
    "1.3.0rc11": {
        "custom_tokenizer": "a.b.Tokenizer",
        "kv_cache_config.tokens_per_block": 128,
        "moe_config.backend": "WIDEEP",
        "speculative_config.max_draft_len": 3,
    },
    "1.3.0rc14": {"moe_config.backend": "DEEPGEMM", "speculative_config.num_nextn_predict_layers": 1},
    "1.3.0rc18": {
        "scheduler_config.capacity_scheduler_policy": "MAX_UTILIZATION",
        "scheduler_config.context_chunking_policy": "FIRST_COME_FIRST_SERVED",
        "speculative_config.max_draft_len": 3,
        "speculative_config.use_mtp_vanilla": False,
    },
    "1.3.0rc19": {
        "cache_transceiver_config.backend": "NIXL",
        "cache_transceiver_config.transceiver_runtime": "PYTHON",
        "kv_cache_config.tokens_per_block": 128,
        "moe_config.backend": "MEGAMOE_DEEPGEMM",
        "moe_config.load_balancer": "/balancer.yaml",
        "speculative_config.max_draft_len": 1,
    },
    "1.3.0rc22.post1": {
        "attention_dp_config.enable_kv_cache_aware_routing": False,
        "attention_dp_config.kv_cache_routing_conversation_affinity": True,
        "attention_dp_config.kv_cache_routing_max_sessions": 65536,
        "cache_transceiver_config.backend": "NIXL",
        "cache_transceiver_config.kv_cache_bounce_size_mb": 5120,
        "cache_transceiver_config.transceiver_runtime": "PYTHON",
        "kv_cache_config.event_buffer_max_size": 0,
        "kv_cache_config.host_cache_size": 137438953472,
        "perf_metrics_max_requests": 100000,
        "return_perf_metrics": False,
        "sparse_attention_config.algorithm": "dsa",
        "sparse_attention_config.use_cute_dsl_topk": True,
        "speculative_config.max_draft_len": 5,
    },
    "1.3.0rc24": {
        "attention_dp_config.kv_cache_routing_conversation_affinity": True,
        "cache_transceiver_config.backend": "NIXL",
        "cache_transceiver_config.kv_transfer_sender_future_timeout_ms": 20,
        "cache_transceiver_config.transceiver_runtime": "PYTHON",
        "kv_cache_config.avg_seq_len": 200000,
        "kv_cache_config.block_reuse_config.max_num_turns": 5,
        "kv_cache_config.block_reuse_config.policy": "per_conversation",
        "kv_cache_config.mamba_state_config.additional_snapshot_offsets_from_end": [2],
        "kv_cache_config.mamba_state_config.periodic_snapshot_interval": 0,
        "kv_cache_config.pool_ratio": [0.8, 0.2],
        "kv_cache_config.use_kv_cache_manager_v2": True,
        "num_serve_frontends": 8,
        "speculative_config.max_draft_len": 7,
        "torch_compile_config.capture_num_tokens": [1, 2, 4],
        "torch_compile_config.enable_piecewise_cuda_graph": True,
    },
}


def nested(keys: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, value in keys.items():
        *path, last = key.split(".")
        place = config
        for part in path:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                break  # given as a whole by a later release
            place = inner
        else:
            place[last] = value
    return config


@pytest.mark.parametrize("version", BESIDES)
def test_a_release_takes_what_is_published_for_it(version: str) -> None:
    assert check_worker_config(nested(BESIDES[version] | ALWAYS | BESIDES[version]), version) == []


def test_what_is_published_for_late_candidates_is_refused_by_early_ones() -> None:
    problems = check_worker_config(nested(BESIDES["1.3.0rc24"]), "1.2")
    for key in ("avg_seq_len", "pool_ratio", "mamba_state_config", "block_reuse_config", "num_serve_frontends"):
        assert any(key in problem and "it came" in problem for problem in problems)


def test_what_is_published_for_1_2_needs_a_word_in_1_4() -> None:
    """620 of 660 published files say UCX and no runtime: 1.4 would end each of those servers."""
    config = nested(ALWAYS | {"speculative_config.max_draft_len": 3})
    assert check_worker_config(config, "1.3.0rc27") == []
    (problem,) = check_worker_config(config, "1.4")
    assert "write transceiver_runtime: CPP" in problem
