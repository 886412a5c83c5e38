"""Command line, YAML file and environment made into settings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from ratematch.emulator.environment import Faults, parse_duration, parse_faults, read_environment
from ratematch.emulator.errors import BadRequest, SettingsError
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.orchestrator_settings import orchestrator_settings
from ratematch.emulator.trtllm.protocol import parse_request
from ratematch.emulator.trtllm.settings import WorkerSettings, read_yaml, worker_settings
from ratematch.emulator.trtllm.transfer import announce

from .servers import QUICK


def settings(config: dict[str, Any], version: str = "1.2", typed: tuple[str, ...] = (), **cli: Any) -> WorkerSettings:
    return worker_settings("deepseek-r1", cli, typed, config, version)


def test_in_1_2_the_file_beats_the_command_line() -> None:
    found = settings({"max_batch_size": 8}, typed=("max_batch_size",), max_batch_size=64, max_num_tokens=100)
    assert (found.max_batch_size, found.max_num_tokens) == (8, 100)
    assert found.warnings == ()


def test_later_a_typed_option_beats_the_file_with_a_warning() -> None:
    found = settings({"max_batch_size": 8}, "main", ("max_batch_size",), max_batch_size=64)
    assert found.max_batch_size == 64
    assert "Explicit CLI flag(s) ['max_batch_size'] override" in found.warnings[0]
    untyped = settings({"max_batch_size": 8}, "main", max_batch_size=64)
    assert untyped.max_batch_size == 8 and untyped.warnings == ()


RELEASES = ("1.2.1", "1.3.0rc5", "1.3.0rc24", "1.3.0rc27", "1.4.0rc1", "1.4.0rc4")


@pytest.mark.parametrize(
    ("row", "config", "taken"),
    [
        ("A1", {"cache_transceiver_config": {"backend": "UCX"}}, "1111--"),
        ("A1", {"cache_transceiver_config": {"backend": "UCX", "transceiver_runtime": "CPP"}}, "111111"),
        ("A2", {"cache_transceiver_config": {"backend": "NIXL", "kv_transfer_timeout_ms": None}}, "1111--"),
        ("A3", {"internal_request_auth_key": "x"}, "--1111"),
        ("A4", {"attention_dp_config": {"kv_cache_routing": True}}, "------"),
        ("A4", {"attention_dp_config": {"enable_kv_cache_aware_routing": True}}, "-11111"),
        ("A4", {"attention_dp_config": {"kv_cache_routing_new_conv_placement": "least_tokens"}}, "----11"),
        (
            "A5",
            {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1, "acceptance_window": 5}},
            "111---",
        ),
        (
            "A5",
            {
                "speculative_config": {
                    "decoding_type": "MTP",
                    "num_nextn_predict_layers": 1,
                    "acceptance_rate_threshold": 0.5,
                }
            },
            "--1111",
        ),
        ("A6", {"postproc_tokenizer_dir": "/x"}, "------"),
        ("A6", {"postprocess_tokenizer_dir": "/x"}, "111111"),
        ("A7", {"cache_transceiver_config": {"backend": "NIXL", "transceiver_runtime": "auto"}}, "--1111"),
        ("A8", {"moe_config": {"backend": "WIDEEP"}}, "111---"),
        ("A8", {"sampler_type": "TRTLLMSampler"}, "1111--"),
        ("A8", {"backend": "tensorrt"}, "111---"),
        ("B3", {"perf_metrics_output_dir": "/x"}, "--1111"),
        ("C8", {"kv_cache_config": {"iteration_stats_interval": 0}}, "------"),
        ("C8", {"kv_cache_config": {"iteration_stats_interval": 2}}, "-11111"),
        ("D1", {"cache_transceiver_config": {"backend": "NIXL", "agent_bounce_params": {"a": "1"}}}, "----11"),
        ("D1", {"nvfp4_gemm_config": {"allowed_backends": ["marlin"]}}, "-11111"),
        ("D5", {"cache_transceiver_config": {"backend": "NIXL", "kv_cache_bounce_size_mb": 64}}, "-11111"),
        ("D9", {"telemetry_config": {"disabled": True}}, "-11111"),
    ],
)
def test_a_worker_refuses_what_its_release_refuses(row: str, config: dict[str, Any], taken: str) -> None:
    """Rows of the table in docs/contract.md, section 12. Where a release is not known to differ, it takes both."""
    for version, mark in zip(RELEASES, taken, strict=True):
        if mark == "1":
            assert settings(config, version).version == version
        else:
            with pytest.raises(SettingsError):
                settings(config, version)


@pytest.mark.parametrize(
    ("version", "block", "line"),
    [
        ("1.2", {"backend": "NIXL"}, ""),
        ("1.3.0rc27", {"backend": "NIXL"}, ""),
        ("1.4.0rc4", {"backend": "NIXL"}, "Using KvCacheTransceiverV2"),
        ("1.4.0rc4", {"backend": "DEFAULT", "transceiver_runtime": "CPP"}, ""),
        ("1.2", {"backend": "DEFAULT", "transceiver_runtime": "PYTHON"}, "Using KvCacheTransceiverV2"),
        ("1.4", {"backend": "UCX", "transceiver_runtime": "CPP"}, "Using UCX kv-cache transceiver"),
        ("1.2", {"backend": "MPI"}, "MPI CacheTransceiver is deprecated"),
        ("1.3", {}, "cache_transceiver is disabled"),
    ],
)
def test_a_worker_says_which_transceiver_it_runs(version: str, block: dict[str, Any], line: str) -> None:
    log = Log(stream=io.StringIO())
    announce(settings({"cache_transceiver_config": block}, version).config, version, log)
    text = log.stream.getvalue()  # type: ignore[attr-defined]
    assert line in text if line else text == ""


def test_the_orchestrators_of_1_4_and_before() -> None:
    servers = {"urls": ["a:1"], "num_instances": 1}
    key = {"context_servers": servers, "internal_request_auth_key": "x"}
    fleet = {"hostname": "b", "port": 8001, "generation_servers": {"urls": ["b:8000"]}, "num_workers": 2}
    for version, config, words in (
        ("1.2", key, "internal_request_auth_key: unknown key in 1.2"),
        ("1.3.0rc5", key, "internal_request_auth_key: unknown key in 1.3.0rc5"),
        ("1.4", key, ""),
        ("1.3.0rc5", fleet, "num_workers: unknown key"),
        ("1.4", fleet, "b:8000 is where the 2 processes of num_workers meet"),
        ("1.4", fleet | {"disagg_coordinator_url": "http://c:1"}, ""),
    ):
        environment = read_environment({"RATEMATCH_EMULATED_VERSION": version})
        if words:
            with pytest.raises(SettingsError, match=words):
                orchestrator_settings(config, environment, start_timeout_s=1, request_timeout_s=1)
        else:
            orchestrator_settings(config, environment, start_timeout_s=1, request_timeout_s=1)


def test_lifecycle_fields_are_of_1_4() -> None:
    body = {"model": "m", "prompt": [1, 2], "suffix": "", "disaggregated_params": {"logical_request_id": 17}}
    assert parse_request(body, chat=False, vocab=1000, lifecycle=True).disagg == {"logical_request_id": 17}
    with pytest.raises(BadRequest, match="logical_request_id"):
        parse_request(body, chat=False, vocab=1000)


def test_the_kv_block_is_merged_key_by_key() -> None:
    found = settings({"kv_cache_config": {"dtype": "fp8"}}, free_gpu_memory_fraction=0.5)
    assert (found.kv_dtype, found.kv_fraction) == ("fp8", 0.5)
    found = settings({"kv_cache_config": {"free_gpu_memory_fraction": 0.7}}, free_gpu_memory_fraction=0.5)
    assert found.kv_fraction == 0.7


def test_parallelism_and_drafts() -> None:
    found = settings(
        {
            "tensor_parallel_size": 8,
            "moe_tensor_parallel_size": 2,
            "enable_attention_dp": True,
            "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 3},
        }
    )
    assert found.mapping.ep == 4 and found.mapping.dp_ranks == 8 and found.mtp == 3
    later = settings({"speculative_config": {"decoding_type": "MTP", "max_draft_len": 2}}, "main")
    assert later.mtp == 2


def test_defaults_by_version() -> None:
    config = {"cache_transceiver_config": {"backend": "NIXL"}}
    assert settings(config).transfer_timeout_s is None
    assert settings(config, "main").transfer_timeout_s == 60.0
    assert settings({}).max_seq_len == 163840
    assert settings({}).kv_fraction == 0.9


def test_an_unknown_key_stops_the_server() -> None:
    with pytest.raises(SettingsError, match=r"kv_cache_confg: unknown key in 1\.2; did you mean kv_cache_config\?"):
        settings({"kv_cache_confg": {}})


def test_models() -> None:
    with pytest.raises(SettingsError, match="no such file or directory"):
        worker_settings("/no/such/DeepSeek-R1", {}, (), {}, "1.2")
    with pytest.raises(SettingsError, match="is not known"):
        worker_settings("no-such-model", {}, (), {}, "1.2")


def test_what_a_model_cannot_do(tmp_path: Path) -> None:
    for config, words in (
        ({"pipeline_parallel_size": 62}, "more than the 61 layers"),
        ({"moe_config": {"load_balancer": str(tmp_path / "missing.yaml")}}, "no such file"),
        ({"moe_config": {"load_balancer": {"num_slots": 128}}}, "less than the 256 experts"),
    ):
        with pytest.raises(SettingsError, match=words):
            settings(config)
    with pytest.raises(SettingsError, match="qwen3-30b-a3b has none"):
        worker_settings("qwen3-30b-a3b", {}, (), {"speculative_config": {"decoding_type": "MTP"}}, "1.2")


def test_a_model_folder_is_taken_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "DeepSeek-R1-0528"
    folder.mkdir()
    found = worker_settings(str(folder), {}, (), {}, "1.2")
    assert (found.model.name, found.model_name) == ("deepseek-r1", "DeepSeek-R1-0528")
    named = worker_settings(str(folder), {"served_model_name": "r1"}, (), {}, "1.2")
    assert named.model_name == "r1"


def test_service_discovery_needs_a_role() -> None:
    with pytest.raises(SettingsError, match="server_role is required when"):
        settings({}, disagg_cluster_uri="http://a:1")


def test_weights_that_do_not_fit_end_in_the_engines_words() -> None:
    with pytest.raises(SettingsError, match="Executor creation failed due to insufficient GPU memory"):
        build(settings({}), QUICK)


def test_yaml_files(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert read_yaml(str(path)) == {}
    for text, words in (("- 1\n", "must be a mapping"), ("a: [1\n", "no YAML")):
        path.write_text(text)
        with pytest.raises(SettingsError, match=words):
            read_yaml(str(path))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_yaml(str(tmp_path / "missing.yaml"))


def test_environment() -> None:
    found = read_environment(
        {
            "RATEMATCH_EMULATED_VERSION": "1.3.0rc17",
            "RATEMATCH_EMULATED_LOAD_S": "250ms",
            "RATEMATCH_EMULATED_FAULT": "die_after=5s, http_500=0.1,stall=3s@10",
            "TRTLLM_DISAGG_BENCHMARK_GEN_ONLY": "1",
            "TLLM_BENCHMARK_REQ_QUEUES_SIZE": "64",
            "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS": "2",
        }
    )
    assert (found.version, found.load_s, found.gen_only, found.fill_gate) == ("1.3.0rc17", 0.25, True, 64)
    assert found.forced_acceptance == 2.0
    assert found.faults == Faults(die_after_s=5.0, http_500=0.1, stall_s=3.0, stall_at_s=10.0)
    assert read_environment({}).version == "1.2"


@pytest.mark.parametrize("text", ["explode", "die_after=soon", "http_500=2", "stall=3s", "truncate_stream"])
def test_wrong_faults_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RATEMATCH_EMULATED_FAULT|duration"):
        parse_faults(text)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("5s", "250ms", "2m", "1.5")] == [5.0, 0.25, 120.0, 1.5]


def test_orchestrator_settings_copy_worker_limits_into_the_router() -> None:
    config = {
        "context_servers": {"urls": ["a:1"]},
        "generation_servers": {
            "urls": ["b:1"],
            "max_batch_size": 7,
            "kv_cache_config": {"tokens_per_block": 64},
            "router": {"type": "KV_cache_aware"},
        },
        "conditional_disagg_config": {"max_local_prefill_length": 9},
    }
    found = orchestrator_settings(config, QUICK, start_timeout_s=1, request_timeout_s=2)
    assert found.gen.router == "kv_cache_aware"
    assert found.gen.router_args == {"max_batch_size": 7, "tokens_per_block": 64}
    assert (found.max_local_prefill, found.host, found.port) == (9, "localhost", 8000)


def test_orchestrator_settings_name_every_problem() -> None:
    config = {
        "context_servers": {"urls": ["a:1", "a:1"]},
        "generation_servers": {"router": {"type": "x"}, "urls": ["b:1"]},
    }
    with pytest.raises(SettingsError) as caught:
        orchestrator_settings(config, QUICK, start_timeout_s=1, request_timeout_s=2)
    text = str(caught.value)
    assert "Number of hostnames" in text and "Duplicated ctx" in text and "Unsupported router type" in text
