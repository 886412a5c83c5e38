"""What the contract refuses, and that it takes what public recipes hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ratematch.engines.trtllm_serve.contract import doubt_map, in_version, load_keys, release_line, worker_keys
from ratematch.engines.trtllm_serve.orchestrator_rules import check_orchestrator_config
from ratematch.engines.trtllm_serve.release import read_version
from ratematch.engines.trtllm_serve.worker_rules import check_worker_config

RECIPE: dict[str, Any] = {
    "backend": "pytorch",
    "trust_remote_code": True,
    "tensor_parallel_size": 16,
    "moe_expert_parallel_size": 16,
    "pipeline_parallel_size": 1,
    "enable_attention_dp": True,
    "enable_lm_head_tp_in_adp": True,
    "attention_dp_config": {"enable_balance": True, "batching_wait_iters": 0, "timeout_iters": 60},
    "max_batch_size": 256,
    "max_num_tokens": 512,
    "max_seq_len": 9256,
    "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4, 8, 256]},
    "print_iter_log": True,
    "kv_cache_config": {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.8, "dtype": "fp8"},
    "moe_config": {
        "backend": "CUTLASS",
        "use_low_precision_moe_combine": True,
        "max_num_tokens": 16384,
        "load_balancer": {"num_slots": 288, "layer_updates_per_iter": 1},
    },
    "nvfp4_gemm_config": {"allowed_backends": ["cutlass", "cublaslt", "cutedsl", "cuda_core"]},
    "cache_transceiver_config": {"backend": "UCX", "max_tokens_in_buffer": 16384},
    "stream_interval": 100,
    "num_postprocess_workers": 4,
    "allreduce_strategy": "MNNVL",
    "enable_chunked_prefill": False,
    "enable_iter_perf_stats": False,
    "enable_iter_req_stats": False,
    "disable_overlap_scheduler": True,
    "gpus_per_node": 4,
    "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 3},
}


def one(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize("version", ["1.2", "1.3", "1.3.0rc14", "1.3.0rc27"])
def test_every_key_of_public_recipes_is_taken(version: str) -> None:
    assert check_worker_config(RECIPE, version) == []
    assert check_worker_config({**RECIPE, "cuda_graph_config": None, "speculative_config": None}, version) == []


@pytest.mark.parametrize("version", ["1.4.0rc1", "1.4.0rc4", "main"])
def test_a_recipe_with_ucx_says_since_1_4_which_transceiver_it_means(version: str) -> None:
    assert "write transceiver_runtime: CPP" in one(check_worker_config(RECIPE, version))
    transceiver = RECIPE["cache_transceiver_config"] | {"transceiver_runtime": "CPP"}
    assert check_worker_config({**RECIPE, "cache_transceiver_config": transceiver}, version) == []


def doubts(config: dict[str, Any], version: str) -> list[str]:
    return list(doubt_map("", config, load_keys("worker"), read_version(version)))


def orchestrator_keys(version: str) -> dict[str, Any]:
    keys = in_version(load_keys("orchestrator"), read_version(version))
    return {name: rule for name, rule in keys.items() if name not in ("server_section", "routers")}


@pytest.mark.parametrize("keys", [worker_keys, orchestrator_keys])
@pytest.mark.parametrize("version", ["1.2", "1.3", "main"])
def test_defaults_satisfy_their_own_rules(keys: Any, version: str) -> None:
    config = {name: rule["default"] for name, rule in keys(version).items()}
    nested = {
        name: {inner: inner_rule["default"] for inner, inner_rule in rule["keys"].items()}
        for name, rule in keys(version).items()
        if "keys" in rule and name not in ("speculative_config", "conditional_disagg_config")
    }
    check = check_worker_config if keys is worker_keys else check_orchestrator_config
    assert check(config, version) == []
    if keys is worker_keys:
        assert check({**config, **nested}, version) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kv_cache_confg": {}}, ["kv_cache_confg: unknown key in 1.2", "kv_cache_config?"]),
        ({"enable_block_reuse": False}, ["it belongs at kv_cache_config.enable_block_reuse"]),
        (
            {"kv_cache_config": {"free_gpu_mem_fraction": 1}},
            ["did you mean kv_cache_config.free_gpu_memory_fraction?"],
        ),
        ({"num_serve_frontends": 2}, ["it came between 1.3.0rc0 and 1.3.0rc24"]),
        ({"cache_transceiver_config": {"backend": "ucx"}}, ["'ucx' is not valid in 1.2", "UCX"]),
        ({"tensor_parallel_size": "8"}, ["tensor_parallel_size: '8' is no int"]),
        ({"enable_attention_dp": 1}, ["enable_attention_dp: 1 is no bool"]),
        ({"stream_interval": 0}, ["stream_interval: 0 must be at least 1"]),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.5}}, ["must be between 0 and 1"]),
        ({"cache_transceiver_config": {"kv_transfer_timeout_ms": 0}}, ["must be greater than 0"]),
        ({"tensor_parallel_size": 4, "moe_expert_parallel_size": 3}, ["3 does not divide", "valid are 1, 2, 4"]),
        (
            {"tensor_parallel_size": 4, "moe_expert_parallel_size": 2, "moe_tensor_parallel_size": 4},
            ["tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size"],
        ),
        (
            {"cuda_graph_config": {"batch_sizes": [1, 2], "max_batch_size": 4}},
            ["must equal the largest of batch_sizes 2"],
        ),
        (
            {
                "moe_expert_parallel_size": 8,
                "tensor_parallel_size": 8,
                "moe_config": {"load_balancer": {"num_slots": 257}},
            },
            ["257 is no multiple"],
        ),
        ({"attention_dp_config": {"enable_balance": True, "timeout_iters": -1}}, ["at least 0"]),
        ({"speculative_config": {"num_nextn_predict_layers": 1}}, ["decoding_type: is required"]),
        ({"speculative_config": {"decoding_type": "NGram", "relaxed_topk": 1}}, ["belongs to MTP"]),
        ({"speculative_config": {"decoding_type": "Eagle3", "max_draft_len": 3}}, ["speculative_model: is required"]),
        ({"speculative_config": {"decoding_type": "MTP", "max_draft_len": 3}}, ["num_nextn_predict_layers in 1.2"]),
        (
            {"cp_config": {"cp_type": "HELIX", "tokens_per_block": 64}},
            ["64 must equal kv_cache_config.tokens_per_block 32"],
        ),
    ],
)
def test_a_wrong_worker_file_is_named(config: dict[str, Any], words: list[str]) -> None:
    problem = one(check_worker_config(config, "1.2"))
    assert "\n" not in problem
    for text in words:
        assert text in problem


def test_versions_differ() -> None:
    wide = {"moe_config": {"backend": "WIDEEP"}}
    assert check_worker_config(wide, "1.2") == []
    assert "WIDEEP" in one(check_worker_config(wide, "main"))
    assert check_worker_config(wide, "1.3") == [], "early candidates of 1.3 take it, later ones do not"
    assert "WIDEEP" in one(doubts(wide, "1.3"))
    new = {"cuda_graph_config": {"mode": "encode"}}
    assert check_worker_config(new, "1.3") == [], "elsewhere 1.3 is like main"
    runtime = {"cache_transceiver_config": {"backend": "NIXL", "transceiver_runtime": "auto"}}
    assert check_worker_config(runtime, "main") == []
    assert check_worker_config(runtime, "1.3") == [], "late candidates of 1.3 take it"
    assert "auto" in one(doubts(runtime, "1.3"))
    assert "auto" in one(check_worker_config(runtime, "1.2"))
    assert "auto" in one(check_worker_config(runtime, "1.3.0rc20"))
    assert doubts(runtime, "1.3.0rc26") == []
    drafts = {"speculative_config": {"decoding_type": "MTP", "max_draft_len": 3}}
    assert check_worker_config(drafts, "main") == []
    both = {"speculative_config": {"decoding_type": "MTP", "max_draft_len": 3, "num_nextn_predict_layers": 2}}
    assert "contradicts" in one(check_worker_config(both, "main"))
    onboard = {"kv_cache_config": {"onboard_blocks": True}}
    assert check_worker_config(onboard, "1.2") == []
    assert "it went in 1.3" in one(check_worker_config(onboard, "main"))
    router = {"generation_servers": {"num_instances": 1, "urls": ["b:1"], "router": {"type": "conversation"}}}
    assert check_orchestrator_config(router, "main") == []
    assert "Unsupported router type: conversation" in one(check_orchestrator_config(router, "1.2"))


@pytest.mark.parametrize(
    ("config", "before", "between", "since"),
    [
        ({"internal_request_auth_key": "x"}, "1.3.0rc22", "1.3.0rc27", "1.4.0rc1"),
        ({"perf_metrics_output_dir": "/x"}, "1.3.0rc21", "1.3.0rc27", "1.4.0rc1"),
        ({"attention_dp_config": {"enable_kv_cache_aware_routing": True}}, "1.2.1", "1.3.0rc5", "1.3.0rc27"),
        ({"attention_dp_config": {"enable_packed_sync": True}}, "1.3.0rc27", "1.4.0rc1", "1.4.0rc4"),
        (
            {"speculative_config": {"decoding_type": "MTP", "max_draft_len": 1, "acceptance_rate_threshold": 0.5}},
            *("1.3.0rc22", "1.3.0rc24", "1.3.0rc27"),
        ),
        (
            {"speculative_config": {"decoding_type": "MTP", "max_draft_len": 1, "moe_backend": "CUTEDSL_FC12"}},
            *("1.3.0rc27", "1.3.0rc29", "1.4.0rc1"),
        ),
        (
            {"cache_transceiver_config": {"backend": "NIXL", "agent_bounce_params": {"a": "1"}}},
            *("1.3.0rc27", "1.3.0rc28", "1.4.0rc1"),
        ),
        ({"kv_cache_config": {"pool_ratio": [1, 2]}}, "1.2", "1.3.0rc14.post1", "1.3.0rc27"),
        ({"nvfp4_gemm_config": {"allowed_backends": ["marlin"]}}, "1.2", "1.3", "main"),
    ],
)
def test_a_key_of_later_releases_is_refused_then_doubted_then_taken(
    config: dict[str, Any], before: str, between: str, since: str
) -> None:
    assert re.search("came between|renamed between|each must be of", one(check_worker_config(config, before)))
    assert check_worker_config(config, between) == []
    assert "is not known" in one(doubts(config, between))
    assert (check_worker_config(config, since), doubts(config, since)) == ([], [])


@pytest.mark.parametrize(
    ("config", "last", "between", "first", "now"),
    [
        ({"sampler_type": "auto"}, "1.3.0rc27", "1.3.0rc29", "1.4.0rc1", ""),
        ({"moe_config": {"backend": "wideep"}}, "1.3.0rc0", "1.3.0rc9", "1.3.0rc27", ""),
        ({"backend": "tensorrt"}, "1.2", "1.3", "1.4", ""),
        ({"cp_config": {"cp_type": "star"}}, "1.2", "1.3.0rc14", "1.4", ""),
        ({"cp_config": {"cp_anchor_size": 1}}, "1.2", "1.3.0rc14", "1.4", ""),
        (
            {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1, "acceptance_window": 5}},
            *("1.3.0rc22", "1.3.0rc24", "1.3.0rc27", "speculative_config.acceptance_rate_window_size"),
        ),
        (
            {
                "speculative_config": {
                    "decoding_type": "MTP",
                    "num_nextn_predict_layers": 1,
                    "acceptance_length_threshold": 2,
                }
            },
            *("1.2", "1.3.0rc24", "main", "speculative_config.acceptance_rate_threshold"),
        ),
        (
            {
                "speculative_config": {
                    "decoding_type": "MTP",
                    "num_nextn_predict_layers": 1,
                    "mtp_eagle_one_model": True,
                }
            },
            *("1.2", "1.3", "1.4.0rc4", ""),
        ),
    ],
)
def test_a_key_of_earlier_releases_is_taken_then_doubted_then_refused(
    config: dict[str, Any], last: str, between: str, first: str, now: str
) -> None:
    assert (check_worker_config(config, last), doubts(config, last)) == ([], [])
    assert check_worker_config(config, between) == []
    assert "is not known" in one(doubts(config, between))
    problem = one(check_worker_config(config, first))
    assert now in problem and first in problem


def test_both_names_of_a_key_are_one_too_many() -> None:
    both = {"acceptance_window": 5, "acceptance_rate_window_size": 5}
    config = {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1, **both}}
    assert "give the one that the release has" in one(check_worker_config(config, "1.3.0rc24"))


@pytest.mark.parametrize(
    ("config", "meant"),
    [
        ({"attention_dp_config": {"kv_cache_routing": True}}, "attention_dp_config.enable_kv_cache_aware_routing?"),
        (
            {"attention_dp_config": {"kv_cache_routing_load_weight": 1.0}},
            "attention_dp_config.kv_cache_routing_load_balance_weight?",
        ),
        ({"postproc_tokenizer_dir": "/x"}, "postprocess_tokenizer_dir?"),
    ],
)
def test_a_name_that_no_release_has_is_refused_with_the_one_that_is_meant(config: dict[str, Any], meant: str) -> None:
    for version in ("1.3", "1.3.0rc27", "1.4.0rc4", "main"):
        assert meant in one(check_worker_config(config, version))
    assert check_worker_config({"postprocess_tokenizer_dir": "/x"}, "1.2") == []


def test_values_that_a_release_takes_or_not() -> None:
    def statistics(value: Any) -> dict[str, Any]:
        return {"kv_cache_config": {"iteration_stats_interval": value}}

    assert "null is not valid; the default is 1" in one(check_worker_config(statistics(None), "1.4"))
    assert "must be greater than 0" in one(check_worker_config(statistics(0), "1.3"))
    nulls = {"kv_transfer_poll_interval_ms": None, "kv_transfer_sender_future_timeout_ms": None}
    assert check_worker_config({"cache_transceiver_config": nulls}, "1.4") == []
    rate = {"speculative_config": {"decoding_type": "MTP", "max_draft_len": 1, "acceptance_rate_threshold": 2.0}}
    assert "between 0 and 1" in one(check_worker_config(rate, "1.4"))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"backend": "UCX"}, "takes backend NIXL only, and it is UCX: write transceiver_runtime: CPP"),
        ({"backend": "MPI", "transceiver_runtime": "PYTHON"}, "takes backend NIXL only, and it is MPI"),
        ({"backend": "NIXL", "kv_transfer_timeout_ms": None}, "takes no null; write a large number"),
        ({"backend": "UCX", "transceiver_runtime": "CPP", "kv_transfer_timeout_ms": None}, None),
        ({"backend": "NIXL", "kv_transfer_timeout_ms": 3600000}, None),
        ({"backend": "NIXL", "transceiver_runtime": None, "kv_transfer_timeout_ms": None}, None),
        ({"backend": None}, None),
        ({"backend": "NIXL", "enable_pipelined_transfer": True}, "needs enable_chunked_prefill: true"),
    ],
)
def test_the_transceivers_of_1_4(block: dict[str, Any], words: str | None) -> None:
    problems = check_worker_config({"cache_transceiver_config": block}, "1.4.0rc1")
    assert problems == [] if words is None else words in one(problems)


def test_release_lines() -> None:
    lines = {
        "1.2": ("1.2", "1.2.1", "v1.2.0rc3", "1.2.0rc2.post2"),
        "1.3": ("1.3", "1.3.0rc17", "1.3.0rc14.post1", "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc18-arm64"),
        "1.4": ("1.4", "1.4.0", "1.4.0rc4+0cfda24b", "main", "1.5.0rc1", "2.0", "/images/trtllm-1.4.0rc4.sqsh"),
    }
    for line, versions in lines.items():
        assert {release_line(version) for version in versions} == {line}
    for wrong in ("0.21", "latest", "", "1.3.0rcx", "ai-dynamo/tensorrtllm-runtime:1.3.0", "1.1.0rc5"):
        with pytest.raises(ValueError, match="is not known"):
            release_line(wrong)


def test_releases_are_ordered() -> None:
    texts = (
        "1.2.0rc3",
        "1.2.0",
        "1.2.1",
        "1.3.0rc9",
        "1.3.0rc14",
        "1.3.0rc14.post1",
        "1.3.0rc15",
        "1.3.0",
        "1.4.0rc1",
    )
    releases = [read_version(text).first for text in texts]
    assert releases == sorted(releases)


GOOD: dict[str, Any] = {
    "hostname": "node1",
    "port": 8333,
    "backend": "pytorch",
    "context_servers": {"num_instances": 1, "urls": ["a:1"], "tensor_parallel_size": 4},
    "generation_servers": {"num_instances": 2, "urls": ["b:1", "b:2"], "router": {"type": "load_balancing"}},
}


def test_a_sound_orchestrator_file() -> None:
    assert check_orchestrator_config(GOOD, "1.2") == []
    no_context = {**GOOD, "context_servers": {"num_instances": 0, "urls": []}}
    assert check_orchestrator_config(no_context, "1.2") == []
    cluster = {"hostname": "a", "port": 1, "disagg_cluster": {"cluster_uri": "http://a:1"}}
    assert check_orchestrator_config(cluster, "main") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"context_servers": {"num_instances": 2, "urls": ["a:1"]}},
            "Number of hostnames (1) should be equal to the",
        ),
        ({"context_servers": {"urls": ["a:1", "a:1"], "num_instances": 2}}, "Duplicated ctx server config: a:1"),
        ({"generation_servers": {"urls": ["a:2", "a:2"], "num_instances": 2}}, "Duplicated gen server config"),
        ({"context_servers": {"urls": ["http://a:1"]}}, "is no host:port"),
        ({"context_servers": {"urls": ["::1:80"]}}, "is no host:port"),
        (
            {"context_servers": {"urls": ["a:1"], "backend": "trt"}},
            "both in the top-level and in the 'context_servers'",
        ),
        ({"generation_servers": {"urls": ["a:1"]}}, "a:1 is a context server too, with different arguments"),
        ({"generation_servers": {"urls": ["b:1"], "router": {"type": "x"}}}, "Unsupported router type: x."),
        (
            {"generation_servers": {"urls": ["b:1"], "router": {"type": "round_robin", "use_tokens": True}}},
            "use_tokens: unknown key",
        ),
        ({"conditional_disagg_config": {"max_local_prefill_length": 5}}, "Generation router must be kv_cache_aware"),
        (
            {"disagg_cluster": {"inactive_interval_sec": 5}},
            "Key inactive_interval_sec not found in DisaggClusterConfig",
        ),
        ({"max_retry": 5}, "did you mean max_retries?"),
        ({"schedule_style": "generation_first"}, "it came in 1.3"),
        ({"generation_servers": {"num_instances": 1}}, "urls: is required"),
        ({"port": 99999}, "between 0 and 65535"),
    ],
)
def test_a_wrong_orchestrator_file_is_named(change: dict[str, Any], words: str) -> None:
    assert words in one(check_orchestrator_config({**GOOD, **change}, "1.2"))


def test_checks_do_not_change_the_file() -> None:
    before = repr(RECIPE)
    check_worker_config(RECIPE, "1.2")
    assert repr(RECIPE) == before


# ------------------------------------------------------------------------------------- an orchestrator's coordinator


def fleet(host: str = "node0", port: int = 8003, **keys: Any) -> dict[str, Any]:
    return {
        "hostname": host,
        "port": port,
        "backend": "pytorch",
        "num_workers": 3,
        "context_servers": {"num_instances": 1, "urls": ["node0:8000"]},
        "generation_servers": {"num_instances": 2, "urls": ["node0:8002", "node1:8002"]},
        **keys,
    }


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (fleet(), "generation_servers.urls: node0:8002 is where the 3 processes of num_workers meet"),
        (fleet(port=8001), "context_servers.urls: node0:8000"),
        (fleet(port=1), "port: 1 leaves no port before it"),
        (
            fleet("0.0.0.0", generation_servers={"num_instances": 1, "urls": ["localhost:8002"]}),
            "generation_servers.urls: localhost:8002",
        ),
    ],
)
def test_a_server_where_the_orchestrators_processes_meet_is_refused(config: dict[str, Any], where: str) -> None:
    problem = one(check_orchestrator_config(config, "main"))
    assert problem.startswith(where) and "disagg_coordinator_url" in problem


@pytest.mark.parametrize(
    "config",
    [
        fleet(port=8004),
        fleet("node2"),
        fleet(num_workers=1),
        fleet(disagg_coordinator_url="http://node5:7000"),
    ],
)
def test_where_nobody_is_in_their_way_it_is_taken(config: dict[str, Any]) -> None:
    assert check_orchestrator_config(config, "main") == []


@pytest.mark.parametrize("name", ["kv_cache_routing", "kv_cache_routing_load_weight"])
def test_a_name_that_means_a_later_key_is_said_to_mean_it(name: str) -> None:
    """And not to be near one that has nothing to do with it."""
    (refusal,) = check_worker_config({"attention_dp_config": {name: True}}, "1.2")
    assert "which it means, came between 1.2 and 1.3.0rc27" in refusal and "did you mean" not in refusal
