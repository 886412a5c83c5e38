"""What a trtllm-serve deployment is told: files, argv, environment."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ratematch.engines import find_engine
from ratematch.errors import CatalogError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.mapping import Mapping
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from tests.invented import AGG, GEN, PAIR, experiment

REAL = Cluster("rack", "gb200", gpus_per_node=4, nodes=18, environment={"UCX_NET_DEVICES": "mlx5_0:1"})
ENGINE = find_engine("trtllm-serve")


def launch(asked: Experiment, cluster: Cluster = REAL) -> LaunchPlan:
    nodes = [f"n{index}" for index in range(nodes_needed(asked.deployment, cluster.gpus_per_node))]
    return ENGINE.plan_launch(asked, place(asked.deployment, cluster, nodes, 8000), cluster, 60.0)


def config(plan: LaunchPlan, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(next(file.content for file in plan.files if file.path == name))
    return content


def test_a_disaggregated_pair() -> None:
    asked = experiment("e2e", PAIR, Workload(1000, 200))
    plan = launch(asked)
    assert [file.path for file in plan.files] == ["ctx.yaml", "gen.yaml", "orchestrator.yaml"]
    assert [(spec.name, spec.wave) for spec in plan.processes] == [
        ("ctx-0", 0),
        ("ctx-1", 0),
        ("gen-0", 0),
        ("orchestrator", 1),
    ]
    ctx, gen = config(plan, "ctx.yaml"), config(plan, "gen.yaml")
    assert (ctx["tensor_parallel_size"], ctx["moe_expert_parallel_size"], ctx["enable_attention_dp"]) == (4, 4, True)
    assert (gen["tensor_parallel_size"], gen["moe_expert_parallel_size"], gen["enable_attention_dp"]) == (8, 8, False)
    assert ctx["max_seq_len"] > 1000 and gen["max_seq_len"] > 1200
    assert ctx["disable_overlap_scheduler"] is True and gen["disable_overlap_scheduler"] is False
    assert ctx["cuda_graph_config"] is None and gen["cuda_graph_config"]["max_batch_size"] == 64
    assert gen["max_num_tokens"] == 128
    for role in (ctx, gen):
        assert role["kv_cache_config"] == {"enable_block_reuse": False, "dtype": "fp8"}
        assert role["speculative_config"] == {"decoding_type": "MTP", "num_nextn_predict_layers": 1}
        assert role["cache_transceiver_config"] == {"backend": "DEFAULT", "max_tokens_in_buffer": 1024}
        assert role["print_iter_log"] and role["enable_iter_perf_stats"] and role["return_perf_metrics"]
    orchestrator = config(plan, "orchestrator.yaml")
    urls = {spec.name: f"{spec.host}:{spec.port}" for spec in plan.processes}
    assert orchestrator["context_servers"] == {"num_instances": 2, "urls": [urls["ctx-0"], urls["ctx-1"]]}
    assert orchestrator["generation_servers"] == {"num_instances": 1, "urls": [urls["gen-0"]]}
    assert plan.endpoint == f"http://{urls['orchestrator']}"


def test_version_decides_spelling() -> None:
    asked = experiment("e2e", PAIR, version="main")
    plan = launch(asked)
    gen = config(plan, "gen.yaml")
    assert gen["speculative_config"] == {"decoding_type": "MTP", "max_draft_len": 1}
    assert gen["cache_transceiver_config"] == {"backend": "DEFAULT"}
    assert "--config" in plan.processes[0].argv
    old = launch(experiment("e2e", PAIR))
    assert "--extra_llm_api_options" in old.processes[0].argv and "--config" not in old.processes[0].argv


def test_gen_alone_runs_behind_an_orchestrator_that_invents_the_context() -> None:
    plan = launch(experiment("gen", GEN))
    assert config(plan, "orchestrator.yaml")["context_servers"] == {"num_instances": 0, "urls": []}
    for spec in plan.processes:
        assert ("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "1") in spec.env
    assert not any(
        key == "TRTLLM_DISAGG_BENCHMARK_GEN_ONLY"
        for spec in launch(experiment("e2e", PAIR)).processes
        for key, _ in spec.env
    )


def test_aggregated_server_answers_itself() -> None:
    plan = launch(experiment())
    (server,) = plan.processes
    assert plan.endpoint == "http://n0:8000"
    assert server.argv == (
        *("trtllm-serve", "serve", "deepseek-r1", "--host", "n0", "--port", "8000"),
        *("--extra_llm_api_options", "agg.yaml"),
    )
    assert "cache_transceiver_config" not in config(plan, "agg.yaml")


def test_environment_of_a_server() -> None:
    half = Deployment(agg=ServerGroup("agg", Mapping(tp=2), max_batch_size=8, max_num_tokens=8192))
    (shared,) = launch(experiment(deployment=half)).processes
    assert dict(shared.env)["CUDA_VISIBLE_DEVICES"] == "0,1"
    (whole,) = launch(experiment(deployment=AGG)).processes
    assert "CUDA_VISIBLE_DEVICES" not in dict(whole.env)
    assert dict(whole.env)["UCX_NET_DEVICES"] == "mlx5_0:1"
    assert "UCX_TLS" in whole.unset
    assert not any(key.startswith("RATEMATCH") for key in dict(whole.env)), (
        "real servers know nothing of the emulator"
    )


def test_options_of_the_user_win_key_by_key() -> None:
    options = {"kv_cache_config": {"free_gpu_memory_fraction": 0.7, "dtype": "auto"}, "stream_interval": 20}
    group = ServerGroup("agg", Mapping(tp=4), max_batch_size=8, max_num_tokens=8192, options=options)
    worker = config(launch(experiment(deployment=Deployment(agg=group))), "agg.yaml")
    assert worker["kv_cache_config"] == {
        "enable_block_reuse": False,
        "dtype": "auto",
        "free_gpu_memory_fraction": 0.7,
    }
    assert worker["stream_interval"] == 20


@pytest.mark.parametrize("version", ["1.2", "1.3", "main"])
@pytest.mark.parametrize("deployment", [AGG, GEN, PAIR])
def test_the_contract_accepts_what_is_rendered(version: str, deployment: Deployment) -> None:
    asked = experiment(deployment=deployment, version=version)
    assert ENGINE.check_launch(launch(asked), asked) == []


def test_the_contract_refuses_unknown_options() -> None:
    group = ServerGroup("agg", Mapping(tp=4), max_batch_size=8, max_num_tokens=8192, options={"max_batch_sise": 4})
    asked = experiment(deployment=Deployment(agg=group))
    (problem,) = ENGINE.check_launch(launch(asked), asked)
    assert "agg.yaml" in problem and "max_batch_sise" in problem and "max_batch_size" in problem


@pytest.mark.parametrize(
    ("log", "remedy"),
    [
        ("RuntimeError: Failed to bind socket to n0:8000: in use", "port"),
        ("Executor creation failed due to insufficient GPU memory", "free_gpu_memory_fraction"),
        ("ValueError: Insufficient KV cache for gen-only benchmark mode: 3 request(s)", "free_gpu_memory_fraction"),
        ("UCX CUDA support was not found", "UCX_TLS"),
        ("bufferCoverTargetNum:0 < targetNum:1, may use dynamic buffer which will fail", "max_tokens_in_buffer"),
        ("Assertion failed: status == NIXL_SUCCESS", "RDMA"),
        ("ValueError: tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size", "ep that divides tp"),
        ("ValueError: Number of hostnames (1) should be equal to the number of instances (2)", "num_instances"),
        ("ValueError: Unsupported router type: x. Supported types are: []", "router"),
        ("ValueError: No generation servers available", "worker has gone"),
        ("Client error to n0:8000: boom - last retry 1 of 1", "worker's log"),
        ("kv_cache_transceiver is disabled", "cache_transceiver_config.backend"),
        ("Couldn't find the requested block in the reuse tree", "enable_block_reuse"),
        ("cuMemImportFromShareableHandle failed: invalid resource handle", "MNNVL"),
        ("PMIx is detected, but OMPI_COMM_WORLD_RANK is not set", "pmix"),
        ("All nodes which are allocated for this job are already filled", "trtllm-llmapi-launch"),
        ("The sum of prompt length (9), query length (1) should not exceed max_num_tokens (8)", "max_num_tokens"),
        ("slurmstepd: error: *** JOB 7 CANCELLED AT x DUE TO TIME LIMIT ***", "time limit"),
    ],
)
def test_known_log_strings_have_a_remedy(log: str, remedy: str) -> None:
    told = ENGINE.diagnose(f"noise\n{log}\nmore noise")
    assert told is not None and remedy in told


def test_unknown_logs_and_engines_are_not_guessed_at() -> None:
    assert ENGINE.diagnose("all is well") is None
    with pytest.raises(CatalogError, match="trtllm-serve"):
        find_engine("vllm")
