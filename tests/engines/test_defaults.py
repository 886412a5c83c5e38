"""What servers are started with where a sweep file leaves it open: the transceiver's name, telemetry, idle GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from ratematch.campaign.precheck import explain_settings
from ratematch.engines.trtllm_serve import ENGINE
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from tests.support.invented import AGG, GEN, LAPTOP, PAIR, experiment

TELEMETRY, KEEPALIVE = "TRTLLM_NO_USAGE_STATS", "TRTLLM_GPU_KEEPALIVE"
UCX, NIXL = {"TRTLLM_USE_UCX_KVCACHE": "1"}, {"TRTLLM_USE_NIXL_KVCACHE": "1"}
LOADS = (Concurrency(8, 32),)
LATER = ("1.3", "1.3.0rc4", "1.3.0rc29", "1.4.0rc4")


def launch(asked: Experiment, cluster: Cluster = LAPTOP) -> LaunchPlan:
    nodes = [f"n{k}" for k in range(nodes_needed(asked.deployment, cluster.gpus_per_node))]
    return ENGINE.plan_launch(asked, place(asked.deployment, cluster, nodes, 8000), cluster, 1.0)


def transceivers(plan: LaunchPlan) -> list[dict[str, Any]]:
    files = [yaml.safe_load(file.content) for file in plan.files if file.path in ("ctx.yaml", "gen.yaml")]
    return [content["cache_transceiver_config"] for content in files]


def with_environment(**environment: str) -> Deployment:
    assert PAIR.ctx is not None and PAIR.gen is not None
    ctx, gen = (replace(group, environment=environment) for group in (PAIR.ctx, PAIR.gen))
    return replace(PAIR, ctx=ctx, gen=gen)


@pytest.mark.parametrize("version", ["1.2", *LATER])
def test_the_transceiver_is_named(version: str) -> None:
    asked = experiment("e2e", PAIR, version=version)
    assert [each["backend"] for each in transceivers(launch(asked))] == ["NIXL", "NIXL"]
    why = {each.key: each.why for each in ENGINE.explain_settings(asked)["gen"]}["cache_transceiver_config.backend"]
    assert "DEFAULT" in why


@pytest.mark.parametrize("name", ["TRTLLM_USE_UCX_KVCACHE", "TRTLLM_USE_MOONCAKE_KVCACHE"])
def test_a_variable_that_chooses_the_transceiver_still_does(name: str) -> None:
    """In the sweep file and in a cluster profile, and such a launch is not refused."""
    own = experiment("e2e", with_environment(**{name: "1"}))
    profile = replace(LAPTOP, environment={name: "1"})
    for asked, cluster in ((own, LAPTOP), (experiment("e2e", PAIR), profile)):
        plan = launch(asked, cluster)
        assert [each["backend"] for each in transceivers(plan)] == ["DEFAULT", "DEFAULT"]
        assert ENGINE.check_launch(plan, asked) == []
    why = {each.key: each.why for each in ENGINE.explain_settings(own)["ctx"]}["cache_transceiver_config.backend"]
    assert name in why


@pytest.mark.parametrize("version", ["1.2", *LATER])
def test_the_runtime_fits_the_transfer_that_a_variable_chooses(version: str) -> None:
    """The Python transceiver, the default of 1.4, takes NIXL only, by whatever way another one is chosen."""
    ucx, nixl, both = (experiment("e2e", with_environment(**env), version=version) for env in (UCX, NIXL, UCX | NIXL))
    assert [each["transceiver_runtime"] for each in transceivers(launch(ucx))] == ["CPP", "CPP"]
    assert all(each["max_tokens_in_buffer"] for each in transceivers(launch(ucx)))
    plain = transceivers(launch(experiment("e2e", PAIR, version=version)))
    for asked in (nixl, both, experiment("e2e", with_environment(TRTLLM_USE_UCX_KVCACHE="0"), version=version)):
        assert [each | {"backend": "NIXL"} for each in transceivers(launch(asked))] == plain


def test_explained_is_what_is_written_where_a_profile_chooses_the_transfer() -> None:
    asked = experiment("e2e", PAIR, version="1.4.0rc4")
    settings = {each.key: each.value for part in explain_settings([asked], UCX) for each in part.settings}
    (written, _) = transceivers(launch(asked, replace(LAPTOP, environment=UCX)))
    said = {key.rpartition(".")[2]: value for key, value in settings.items() if key.startswith("cache_transceiver")}
    assert said == written and written["transceiver_runtime"] == "CPP"


def test_a_variable_that_chooses_another_transfer_is_compared_as_what_it_chooses() -> None:
    assert PAIR.ctx is not None
    one_side = experiment("e2e", replace(PAIR, ctx=replace(PAIR.ctx, environment=UCX)), version="1.4.0rc4")
    refusals = ENGINE.check_launch(launch(one_side), one_side)
    assert any("backend: ctx has UCX and gen has NIXL" in refusal for refusal in refusals)


@pytest.mark.parametrize(
    ("version", "runtime", "refused", "doubted"),
    [
        ("1.2", None, False, False),
        ("1.3.0rc26", None, False, True),
        ("1.4.0rc4", None, True, False),
        ("1.4.0rc4", "CPP", False, False),
        ("1.3.0rc4", "PYTHON", True, False),
    ],
)
def test_own_files_are_judged_by_the_transfer_that_a_variable_chooses(
    version: str, runtime: str | None, refused: bool, doubted: bool
) -> None:
    assert PAIR.ctx is not None and PAIR.gen is not None
    block = {"backend": "DEFAULT"} | ({} if runtime is None else {"transceiver_runtime": runtime})
    own = [
        replace(group, config={"cache_transceiver_config": block}, options={}, environment=UCX)
        for group in (PAIR.ctx, PAIR.gen)
    ]
    asked = experiment("e2e", replace(PAIR, ctx=own[0], gen=own[1]), version=version)
    plan = launch(asked)
    said = [text for text in ENGINE.check_launch(plan, asked) if "it is UCX" in text]
    assert len(said) == (2 if refused else 0) and all("transceiver_runtime: CPP" in text for text in said)
    if not refused:
        assert any("backend UCX fails" in text for text in ENGINE.doubt_launch(plan, asked)) == doubted


def test_the_cpp_transceiver_of_a_later_release_gets_a_buffer_for_the_longest_prompt() -> None:
    assert PAIR.ctx is not None and PAIR.gen is not None
    options = {"cache_transceiver_config": {"transceiver_runtime": "CPP"}}
    cpp = replace(PAIR, ctx=replace(PAIR.ctx, options=options), gen=replace(PAIR.gen, options=options))
    for version, deployment, tokens in (("1.3.0rc4", PAIR, 1024), ("1.4", cpp, 1024), ("1.4", PAIR, None)):
        asked = experiment("e2e", deployment, Workload(1000, 10), version=version)
        for each in transceivers(launch(asked)):
            assert each.get("max_tokens_in_buffer") == tokens and each["kv_transfer_timeout_ms"] == 600_000


@pytest.mark.parametrize("deployment", [AGG, PAIR])
def test_nothing_is_sent_home_while_it_is_measured(deployment: Deployment) -> None:
    for version in LATER:
        asked = experiment("e2e" if deployment.gen else "ifb", deployment, version=version)
        assert all(dict(spec.env)[TELEMETRY] == "1" for spec in launch(asked).processes), "the orchestrator too"
        (setting,) = ENGINE.explain_settings(asked)["environment"]
        assert setting.key == TELEMETRY and "telemetry" in setting.why
    old = experiment("e2e" if deployment.gen else "ifb", deployment)
    assert not any(TELEMETRY in dict(spec.env) for spec in launch(old).processes)
    assert "environment" not in ENGINE.explain_settings(old)


def test_telemetry_is_on_for_whoever_says_so() -> None:
    wanted = replace(LAPTOP, environment={TELEMETRY: "0"})
    plan = launch(experiment("e2e", PAIR, version="1.4.0rc4"), wanted)
    assert {dict(spec.env)[TELEMETRY] for spec in plan.processes} == {"0"}
    own = experiment("e2e", with_environment(**{TELEMETRY: "0"}), version="1.4.0rc4")
    workers = [spec for spec in launch(own).processes if spec.role != "orchestrator"]
    assert {dict(spec.env)[TELEMETRY] for spec in workers} == {"0"}
    assert "environment" not in ENGINE.explain_settings(own)


@pytest.mark.parametrize(
    ("version", "stage", "deployment", "busy"),
    [
        ("1.4.0rc4", "gen", PAIR, {"gen-0"}),
        ("1.4.1", "gen", PAIR, {"gen-0"}),
        ("1.3.0rc29", "gen", PAIR, set()),
        ("1.2", "gen", PAIR, set()),
        ("1.4.0rc4", "e2e", PAIR, set()),
        ("1.4.0rc4", "gen", GEN, set()),
    ],
)
def test_gpus_are_kept_busy_where_a_batch_fills(
    version: str, stage: Any, deployment: Deployment, busy: set[str]
) -> None:
    asked = experiment(stage, deployment, loads=LOADS, version=version)
    assert {spec.name for spec in launch(asked).processes if KEEPALIVE in dict(spec.env)} == busy
    explained = [each.key for each in ENGINE.explain_settings(asked).get("environment", ())]
    assert (KEEPALIVE in explained) == bool(busy)


@pytest.mark.parametrize(("version", "margin"), [("1.2", 0), ("1.3.0rc9", 1), ("1.3", 1), ("1.4.0rc4", 0)])
def test_a_batch_that_gen_only_fills_exactly_has_a_slot_more_where_the_router_needs_it(
    version: str, margin: int
) -> None:
    facts = ENGINE.facts
    assert facts.fill_margin(version) == margin
    for label, in_flight, exact in (("DEP8", 256, True), ("DEP8", 200, False), ("TEP8", 256, False)):
        group = ServerGroup("gen", parse_mapping(label), mtp=1)
        without = with_limits(group, Workload(1000, 100), in_flight)
        filled = with_limits(group, Workload(1000, 100), in_flight, facts.fill_margin(version))
        assert filled.max_batch_size == (without.max_batch_size or 0) + (margin if exact else 0)
        assert filled.max_num_tokens == 2 * (filled.max_batch_size or 0)
        asked = experiment(
            "gen", replace(PAIR, gen=filled), Workload(1000, 100), (Concurrency(in_flight, 999),), version
        )
        setting = next(each for each in ENGINE.explain_settings(asked)["gen"] if each.key == "max_batch_size")
        assert not setting.given and ("wait for ever" in setting.why) == (exact and bool(margin))


@pytest.mark.parametrize(("version", "warned"), [("1.2", False), ("1.3.0rc9", True), ("1.4.0rc4", False)])
def test_an_exact_fill_given_by_hand_is_a_warning_where_it_may_wait_for_ever(version: str, warned: bool) -> None:
    full = ServerGroup("gen", parse_mapping("DEP8"), 1, 1, max_batch_size=32, max_num_tokens=128)
    for gen, doubted in ((full, warned), (replace(full, max_batch_size=33), False)):
        loads = (Concurrency(256, 999),)
        asked = experiment("gen", replace(PAIR, gen=gen), Workload(1000, 100), loads, version)
        doubts = [doubt for doubt in ENGINE.doubt_launch(launch(asked), asked) if "last slot" in doubt]
        assert len(doubts) == doubted
        assert all("max_batch_size: 33" in doubt for doubt in doubts)


def test_no_server_is_placed_where_the_orchestrators_processes_meet() -> None:
    """All on one node: the orchestrator's port, the one before it and every server's are different ports."""
    assert PAIR.ctx is not None and PAIR.gen is not None
    ctx, gen = (replace(group, mapping=parse_mapping("TP1")) for group in (PAIR.ctx, PAIR.gen))
    small = replace(PAIR, ctx=ctx, gen=gen)
    asked = experiment("e2e", replace(small, orchestrator={"num_workers": 4}), version="main")
    plan = launch(asked)
    assert ENGINE.check_launch(plan, asked) == []
    *servers, orchestrator = plan.processes
    assert orchestrator.further_ports == (orchestrator.port - 1,)
    assert orchestrator.port - 1 not in {spec.port for spec in servers}
    assert all(spec.further_ports == () for spec in servers)
    elsewhere = replace(small, orchestrator={"num_workers": 4, "disagg_coordinator_url": "http://n9:7000"})
    assert launch(experiment("e2e", elsewhere, version="main")).processes[-1].further_ports == ()


def test_what_makes_a_baseline_one_is_explained_though_it_is_given() -> None:
    options = {
        "attention_dp_config": {"enable_balance": True, "timeout_iters": 60, "batching_wait_iters": 0},
        "enable_chunked_prefill": True,
    }
    group = ServerGroup("agg", parse_mapping("DEP8"), options=options)
    agg = with_limits(group, Workload(8192, 1024), 256)
    asked = experiment("ifb", Deployment(agg=agg), Workload(8192, 1024), (Concurrency(256, 999),))
    why = {each.key: each.why for each in ENGINE.explain_settings(asked)["agg"]}
    assert "slowest rank" in why["attention_dp_config.enable_balance"]
    assert "published" in why["attention_dp_config.timeout_iters"]
    assert "published" in why["attention_dp_config.batching_wait_iters"]
    assert "piece by piece" in why["enable_chunked_prefill"]
    assert "2048 + 32 x (MTP 0 + 1)" in why["max_num_tokens"]
