"""What each measurement mode tells each process (contract, section 6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.engines.trtllm_serve import ENGINE
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.placement import nodes_needed, place
from tests.support.invented import AGG, GEN, LAPTOP, PAIR, experiment

LOADS = (Concurrency(8, 32), Concurrency(4, 16), Concurrency(8, 32, repeat=1))
GATE = "TLLM_BENCHMARK_REQ_QUEUES_SIZE"
OVERLAP = "TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP"
NO_CONTEXT = "TRTLLM_DISAGG_BENCHMARK_GEN_ONLY"


def environments(asked: Experiment) -> dict[str, dict[str, str]]:
    nodes = [f"n{k}" for k in range(nodes_needed(asked.deployment, LAPTOP.gpus_per_node))]
    plan = ENGINE.plan_launch(asked, place(asked.deployment, LAPTOP, nodes, 8000), LAPTOP, 1.0)
    return {
        spec.name: {key: value for key, value in spec.env if key in (GATE, OVERLAP, NO_CONTEXT)}
        for spec in plan.processes
    }


def test_gen_only_fills_one_concurrency_a_start() -> None:
    asked = experiment(stage="gen", deployment=PAIR, loads=LOADS)
    assert asked.mode == "gen_only"
    parts = asked.launches()
    assert [[load.label for load in part.loads] for part in parts] == [["c4-n16"], ["c8-n32", "c8-n32-r1"]]
    assert {part.id for part in parts} == {asked.id}, "one experiment, one folder"
    assert environments(parts[1]) == {
        "ctx-0": {OVERLAP: "1"},
        "ctx-1": {OVERLAP: "1"},
        "gen-0": {OVERLAP: "1", GATE: "8"},
        "orchestrator": {},
    }


@pytest.mark.parametrize(("version", "awake"), [("1.2", False), ("1.3.0rc27", False), ("1.4.0rc1", True)])
def test_a_generation_server_of_1_4_stays_awake_while_its_batch_fills(version: str, awake: bool) -> None:
    (asked, *_) = experiment(stage="gen", deployment=PAIR, loads=LOADS, version=version).launches()
    nodes = [f"n{k}" for k in range(nodes_needed(asked.deployment, LAPTOP.gpus_per_node))]
    plan = ENGINE.plan_launch(asked, place(asked.deployment, LAPTOP, nodes, 8000), LAPTOP, 1.0)
    kept = {spec.name: "TRTLLM_GPU_KEEPALIVE" in dict(spec.env) for spec in plan.processes}
    assert kept == {"ctx-0": False, "ctx-1": False, "gen-0": awake, "orchestrator": False}


def test_the_gate_is_each_servers_share_and_never_more() -> None:
    assert PAIR.gen is not None
    asked = experiment(stage="gen", deployment=replace(PAIR, gen=replace(PAIR.gen, instances=3)), loads=LOADS[:1])
    sent = environments(asked)
    assert [sent[f"gen-{k}"][GATE] for k in range(3)] == ["2", "2", "2"]


def test_without_context_every_process_is_told_alike() -> None:
    asked = experiment(stage="gen", deployment=GEN, loads=LOADS)
    assert asked.mode == "gen_only_no_context"
    assert asked.launches() == (asked,)
    assert environments(asked) == {"gen-0": {NO_CONTEXT: "1"}, "orchestrator": {NO_CONTEXT: "1"}}


@pytest.mark.parametrize(
    ("stage", "deployment", "mode"),
    [("e2e", PAIR, "e2e"), ("ifb", AGG, "aggregated"), ("ctx", Deployment(ctx=PAIR.ctx), "ctx_only")],
)
def test_other_modes_add_nothing(stage: str, deployment: Deployment, mode: str) -> None:
    asked = experiment(stage=stage, deployment=deployment, loads=LOADS)  # type: ignore[arg-type]
    assert asked.mode == mode
    assert asked.launches() == (asked,)
    assert not any(environments(asked).values())
