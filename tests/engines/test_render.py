"""What a trtllm-serve deployment is told: files, argv, environment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from ratematch.engines import find_engine
from ratematch.engines.trtllm_serve.derive import graph_sizes
from ratematch.engines.trtllm_serve.reasons import leaves
from ratematch.errors import CatalogError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment, from_json, to_json
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from tests.support.invented import AGG, GEN, PAIR, experiment

REAL = Cluster("rack", "gb200", gpus_per_node=4, nodes=18, environment={"UCX_NET_DEVICES": "mlx5_0:1"})
ENGINE = find_engine("trtllm-serve")


def launch(asked: Experiment, cluster: Cluster = REAL) -> LaunchPlan:
    nodes = [f"n{index}" for index in range(nodes_needed(asked.deployment, cluster.gpus_per_node))]
    return ENGINE.plan_launch(asked, place(asked.deployment, cluster, nodes, 8000), cluster, 60.0)


def config(plan: LaunchPlan, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(next(file.content for file in plan.files if file.path == name))
    return content


def group_of(deployment: Deployment, role: str) -> ServerGroup:
    return next(group for group in deployment.groups if group.role == role)


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
    assert ctx["cuda_graph_config"] is None and gen["cuda_graph_config"]["batch_sizes"][-1] == 64
    assert gen["max_num_tokens"] == 128
    for role in (ctx, gen):
        assert (role["kv_cache_config"]["enable_block_reuse"], role["kv_cache_config"]["dtype"]) == (False, "fp8")
        assert role["speculative_config"] == {"decoding_type": "MTP", "num_nextn_predict_layers": 1}
        assert role["cache_transceiver_config"] == {
            "backend": "NIXL",
            "transceiver_runtime": "CPP",
            "max_tokens_in_buffer": 1024,
        }
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
    assert gen["cache_transceiver_config"] == {
        "backend": "NIXL",
        "transceiver_runtime": "PYTHON",
        "kv_transfer_timeout_ms": 600000,
    }
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
    half = Deployment(agg=ServerGroup("agg", Parallelism(tp=2), max_batch_size=8, max_num_tokens=8192))
    (shared,) = launch(experiment(deployment=half)).processes
    assert dict(shared.env)["CUDA_VISIBLE_DEVICES"] == "0,1"
    (whole,) = launch(experiment(deployment=AGG)).processes
    assert "CUDA_VISIBLE_DEVICES" not in dict(whole.env)
    assert dict(whole.env)["UCX_NET_DEVICES"] == "mlx5_0:1"
    assert "UCX_TLS" in whole.unset
    assert not any(key.startswith("RATEMATCH") for key in dict(whole.env)), (
        "real servers know nothing of the emulator"
    )


@pytest.mark.parametrize(
    ("version", "eight"), [("1.2", False), ("1.3.0rc27", False), ("1.4.0rc1", True), ("main", True)]
)
def test_inherited_ucx_settings_go_and_given_ones_stay(version: str, eight: bool) -> None:
    for server in launch(experiment("e2e", PAIR, version=version)).processes:
        assert ("UCX_IB_SL" in server.unset, "UCX_NET_DEVICES" in server.unset) == (eight, eight)
        assert dict(server.env)["UCX_NET_DEVICES"] == "mlx5_0:1", "what is set is set after it"
        assert ("TRTLLM_PRESERVE_UCX_ENV" in dict(server.env)) is eight
    plain = replace(REAL, environment={})
    for server in launch(experiment("e2e", PAIR, version=version), plain).processes:
        assert "TRTLLM_PRESERVE_UCX_ENV" not in dict(server.env)


@pytest.mark.parametrize("version", ["1.2", "1.3.0rc27", "1.3.0rc29", "1.4.0rc1", "1.4.0rc4", "main"])
def test_the_auth_key_is_in_all_files_or_in_none(version: str) -> None:
    asked = experiment("e2e", PAIR, version=version)
    plan = launch(asked)
    there = ["internal_request_auth_key" in config(plan, file.path) for file in plan.files]
    assert there == [version[:3] in ("1.4", "mai")] * 3
    private = [word for spec in plan.processes for word in spec.argv if word.startswith("private/")]
    assert len(private) == (4 if there[0] else 0)
    assert {file.secret for file in plan.files} == {there[0]}
    alone = launch(experiment(version=version))
    assert "internal_request_auth_key" not in config(alone, "agg.yaml"), "nobody hands anything over"


def test_the_auth_key_changes_no_id_and_no_whole_file_of_the_user() -> None:
    assert experiment("e2e", PAIR, version="1.4").id == experiment("e2e", PAIR, version="1.4").id
    transceiver = {"cache_transceiver_config": {"backend": "NIXL"}}
    assert PAIR.ctx is not None and PAIR.gen is not None
    whole = replace(PAIR, ctx=replace(PAIR.ctx, config=transceiver))
    plan = launch(experiment("e2e", whole, version="1.4"))
    assert config(plan, "ctx.yaml") == transceiver
    assert not any(file.secret for file in plan.files)


@pytest.mark.parametrize(
    ("version", "backend", "runtime", "buffered"),
    [
        ("1.2", "DEFAULT", "CPP", True),
        ("1.3", "NIXL", "CPP", True),
        ("1.3.0rc14.post1", "UCX", "CPP", True),
        ("1.3.0rc24", "NIXL", "CPP", True),
        ("1.3.0rc26", "NIXL", "auto", False),
        ("1.3.0rc29", "DEFAULT", "auto", False),
        ("1.3.0rc27", "MOONCAKE", "CPP", True),
        ("1.4.0rc4", "NIXL", "PYTHON", False),
        ("1.5.0", "DEFAULT", "PYTHON", False),
        ("main", "MPI", "CPP", True),
    ],
)
def test_the_transceivers_runtime_is_written_out(version: str, backend: str, runtime: str, buffered: bool) -> None:
    assert PAIR.ctx is not None and PAIR.gen is not None
    options = {"cache_transceiver_config": {"backend": backend}}
    asked = replace(PAIR, ctx=replace(PAIR.ctx, options=options), gen=replace(PAIR.gen, options=options))
    plan = launch(experiment("e2e", asked, version=version))
    for name in ("ctx.yaml", "gen.yaml"):
        block = config(plan, name)["cache_transceiver_config"]
        assert (block["backend"], block["transceiver_runtime"]) == (backend, runtime)
        assert ("max_tokens_in_buffer" in block) is buffered
    assert ENGINE.check_launch(plan, experiment("e2e", asked, version=version)) == []


def test_options_of_the_user_win_key_by_key() -> None:
    options = {"kv_cache_config": {"free_gpu_memory_fraction": 0.7, "dtype": "auto"}, "stream_interval": 20}
    group = ServerGroup("agg", Parallelism(tp=4), max_batch_size=8, max_num_tokens=8192, options=options)
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
    group = ServerGroup(
        "agg", Parallelism(tp=4), max_batch_size=8, max_num_tokens=8192, options={"max_batch_sise": 4}
    )
    asked = experiment(deployment=Deployment(agg=group))
    (problem,) = ENGINE.check_launch(launch(asked), asked)
    assert "agg.yaml" in problem and "max_batch_sise" in problem and "max_batch_size" in problem


def test_unknown_engines_are_not_guessed_at() -> None:
    with pytest.raises(CatalogError, match="known: trtllm-serve, vllm"):
        find_engine("vlm")


@pytest.mark.parametrize(("full", "line"), [("1.2.1", "1.2"), ("v1.2.0", "1.2"), ("1.3.0rc17", "1.3")])
def test_a_full_version_renders_like_its_release_line(full: str, line: str) -> None:
    assert launch(experiment("e2e", PAIR, version=full)).files == launch(experiment("e2e", PAIR, version=line)).files
    assert ENGINE.check_launch(launch(asked := experiment("e2e", PAIR, version=full)), asked) == []


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (16, [1, 2, 4, 8, 16]),
        (20, [1, 2, 4, 8, 16, 20]),
        (384, [1, 2, 4, *range(8, 257, 8), 288, 320, 352, 384]),
    ],
)
def test_cuda_graphs_end_at_the_largest_batch(largest: int, sizes: list[int]) -> None:
    assert graph_sizes(largest) == sizes


def test_a_graph_list_or_limit_of_the_user_replaces_the_derived_list() -> None:
    for graphs in ({"max_batch_size": 64}, {"batch_sizes": [1, 8]}, {"batch_sizes": [1, 8], "max_batch_size": 8}):
        group = replace(group_of(PAIR, "gen"), options={"cuda_graph_config": graphs})
        asked = experiment("e2e", replace(PAIR, gen=group))
        assert config(launch(asked), "gen.yaml")["cuda_graph_config"] == {"enable_padding": True, **graphs}
        assert ENGINE.check_launch(launch(asked), asked) == []


def test_each_server_that_balances_experts_has_a_shared_memory_name_of_its_own() -> None:
    balanced = {"moe_config": {"load_balancer": {"num_slots": 288}}}
    deployment = replace(PAIR, ctx=replace(group_of(PAIR, "ctx"), options=balanced))
    names = [dict(spec.env).get("TRTLLM_EPLB_SHM_NAME") for spec in launch(experiment("e2e", deployment)).processes]
    assert names[0] and names[1] and names[0] != names[1], "the two ctx servers"
    assert names[2:] == [None, None], "gen and orchestrator"
    off = replace(group_of(PAIR, "ctx"), options={"moe_config": {"load_balancer": {"num_slots": 0}}})
    assert not any(
        "TRTLLM_EPLB_SHM_NAME" in dict(s.env) for s in launch(experiment("e2e", replace(PAIR, ctx=off))).processes
    )


def test_a_router_with_arguments_stands_in_both_sections() -> None:
    deployment = replace(PAIR, router="kv_cache_aware", router_args={"use_tokens": True})
    plan = launch(experiment("e2e", deployment))
    orchestrator = config(plan, "orchestrator.yaml")
    for section, batch in (("context_servers", 8), ("generation_servers", 64)):
        told = {"type": "kv_cache_aware", "max_batch_size": batch, "tokens_per_block": 32, "use_tokens": True}
        assert orchestrator[section]["router"] == told
    for name in ("ctx.yaml", "gen.yaml"):
        kv = config(plan, name)["kv_cache_config"]
        assert kv["enable_block_reuse"] is True and kv["event_buffer_max_size"] > 0, "what the router looks at"


def test_variables_that_choose_the_transfer_are_never_inherited() -> None:
    for spec in launch(experiment("e2e", PAIR)).processes:
        assert {"UCX_TLS", "TRTLLM_USE_NIXL_KVCACHE", "TRTLLM_USE_UCX_KVCACHE"} <= set(spec.unset)
        assert not any(key.startswith("TRTLLM_USE_") for key, _ in spec.env)


def test_environment_of_a_server_beats_that_of_its_cluster_and_both_the_defaults() -> None:
    group = replace(group_of(PAIR, "gen"), environment={"UCX_NET_DEVICES": "mlx5_1:1", "TLLM_LOG_LEVEL": "DEBUG"})
    plan = launch(experiment("e2e", replace(PAIR, gen=group)))
    told = {spec.name: dict(spec.env) for spec in plan.processes}
    assert (told["gen-0"]["UCX_NET_DEVICES"], told["gen-0"]["TLLM_LOG_LEVEL"]) == ("mlx5_1:1", "DEBUG")
    assert (told["ctx-0"]["UCX_NET_DEVICES"], told["ctx-0"]["TLLM_LOG_LEVEL"]) == ("mlx5_0:1", "INFO")


# ---------------------------------------------------------------------------------------------------- !unchecked


def test_unchecked_options_go_through_and_only_they() -> None:
    given = {"moe_config": {"brand_new": 1, "backend": "CUTLASS"}, "newer": {"a": 2}, "max_batch_sise": 4}
    group = replace(group_of(PAIR, "gen"), options=given, unchecked=("moe_config.brand_new", "newer"))
    asked = experiment("e2e", replace(PAIR, gen=group, orchestrator={"x": 1}, unchecked=("x",)))
    plan = launch(asked, replace(REAL, emulated=True))
    told = config(plan, "gen.yaml")
    assert (told["moe_config"]["brand_new"], told["newer"]) == (1, {"a": 2}), "verbatim in the file"
    (problem,) = ENGINE.check_launch(plan, asked)
    assert "max_batch_sise" in problem, "a typo beside them is still one"
    assert from_json(json.loads(json.dumps(to_json(asked)))) == asked, "experiment.json remembers them"
    env = {spec.name: dict(spec.env).get("RATEMATCH_EMULATED_UNCHECKED") for spec in plan.processes}
    assert env == {"ctx-0": None, "ctx-1": None, "gen-0": "moe_config.brand_new,newer", "orchestrator": "x"}


# ---------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize("version", ["1.2", "main"])
@pytest.mark.parametrize("deployment", [AGG, GEN, PAIR])
def test_every_key_of_a_worker_is_explained_with_its_value(version: str, deployment: Deployment) -> None:
    options = {"stream_interval": 20, "kv_cache_config": {"dtype": "auto"}, "cuda_graph_config": None}
    groups = {group.role: replace(group, options=options) for group in deployment.groups}
    given = replace(deployment, ctx=groups.get("ctx"), gen=groups.get("gen"), agg=groups.get("agg"))
    asked = experiment("e2e", given, version=version)
    explained = ENGINE.explain_settings(asked)
    for group in given.groups:
        told = config(launch(asked), f"{group.role}.yaml")
        settings = {setting.key: setting for setting in explained[group.role]}
        assert {key: setting.value for key, setting in settings.items()} == dict(leaves(told))
        assert all(setting.why for setting in settings.values())
        assert settings["kv_cache_config.dtype"].given and "derived: fp8" in settings["kv_cache_config.dtype"].why
        assert settings["stream_interval"].given and not settings["max_seq_len"].given
    assert ("orchestrator" in explained) == deployment.needs_orchestrator


def test_reasons_hold_the_arithmetic() -> None:
    gen = with_limits(ServerGroup("gen", Parallelism(tp=8, ep=8, attention_dp=True), mtp=3), Workload(1000, 200), 100)
    asked = experiment("gen", Deployment(gen=gen), Workload(1000, 200), (Concurrency(100, 800),))
    why = {setting.key: setting.why for setting in ENGINE.explain_settings(asked)["gen"]}
    assert "100 requests in flight on one instance / 8 attention-DP ranks = 13 a rank" in why["max_batch_size"]
    assert "max_batch_size 16 x (MTP 3 + 1)" in why["max_num_tokens"]
    assert "ISL 1000 + OSL 200 + MTP 3 + margin 40 = 1243" in why["max_seq_len"]
    assert "ISL 1000 up to a multiple of 32" in why["cache_transceiver_config.max_tokens_in_buffer"]
    fixed = ENGINE.explain_settings(replace(asked, deployment=Deployment(gen=replace(gen, max_batch_size=20))))["gen"]
    batch = next(setting for setting in fixed if setting.key == "max_batch_size")
    assert (batch.value, batch.why, batch.given) == (20, "given in the sweep file", True)


def test_limits_among_the_options_count_like_axes() -> None:
    group = ServerGroup("gen", Parallelism(tp=8), mtp=1, options={"max_batch_size": 12})
    filled = with_limits(group, Workload(100, 10), 500)
    assert (filled.max_batch_size, filled.max_num_tokens) == (12, 24)
    told = config(launch(experiment("gen", Deployment(gen=filled))), "gen.yaml")
    assert (told["max_batch_size"], told["max_num_tokens"]) == (12, 24)
    assert told["cuda_graph_config"]["batch_sizes"][-1] == 12
