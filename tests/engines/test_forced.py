"""Forced acceptance of drafts: how each engine is told, and that nothing is forced without a word in the results."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ratematch.emulator.environment import Environment, read_environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.settings import worker_settings
from ratematch.emulator.vllm.settings import _forced
from ratematch.engines import find_engine
from ratematch.engines.trtllm_serve.forced import VARIABLE, is_forcing, takes
from ratematch.engines.trtllm_serve.render import worker_config
from ratematch.inputs.catalog import load_model
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import place
from ratematch.plan.workload import Workload
from tests.support.invented import PAIR, experiment

WORKLOAD = Workload(1024, 64, forced_acceptance="1:1.75")
RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18)


def made(engine: EngineRef, deployment: Deployment = PAIR, workload: Workload = WORKLOAD) -> Experiment:
    return replace(experiment("e2e", deployment, workload, emulated=False), engine=engine)


TRTLLM = EngineRef("trtllm-serve", "1.3.0rc15")


def launch(asked: Experiment, cluster: Cluster = RACK) -> LaunchPlan:
    nodes = [f"node{index}" for index in range(8)]
    placement = place(asked.deployment, cluster, nodes, 8000)
    return find_engine(asked.engine.key).plan_launch(asked, placement, cluster, 60.0)


def values(plan: LaunchPlan) -> dict[str, str | None]:
    return {spec.role: dict(spec.env).get(VARIABLE) for spec in plan.processes}


def refusals(asked: Experiment, cluster: Cluster = RACK) -> list[str]:
    found = find_engine(asked.engine.key).check_launch(launch(asked, cluster), asked, load_model(asked.model))
    return [line for line in found if "forces how many drafts" in line]


def test_trtllm_workers_have_the_variable_and_it_counts_drafts() -> None:
    assert values(launch(made(TRTLLM))) == {"ctx": "0.75", "gen": "0.75", "orchestrator": None}
    assert values(launch(made(TRTLLM, workload=Workload(1024, 64)))).get("gen") is None
    unset = {name for spec in launch(made(TRTLLM)).processes for name in spec.unset}
    assert VARIABLE in unset, "one of a login shell would be in no result"
    explained = find_engine("trtllm-serve").explain_settings(made(TRTLLM))["environment"]
    assert any(each.key == VARIABLE and each.value == "0.75" and "1:1.75" in each.why for each in explained)
    assert refusals(made(TRTLLM)) == []


@pytest.mark.parametrize("where", ["group", "cluster"])
def test_a_variable_that_no_result_would_tell_of_is_refused(where: str) -> None:
    assert PAIR.gen is not None
    cluster, deployment = RACK, PAIR
    if where == "cluster":
        cluster = replace(RACK, environment={VARIABLE: "1"})
    else:
        deployment = replace(PAIR, gen=replace(PAIR.gen, environment={VARIABLE: "1"}))
    found = refusals(made(TRTLLM, deployment, Workload(1024, 64)), cluster)
    said = f"gen environment: {VARIABLE}=1 forces how many drafts are accepted, and results say that none are forced"
    assert f"{said}: write forced_acceptance to the workload instead" in found


def speculation(plan: LaunchPlan, role: str) -> dict[str, Any]:
    (argv,) = {spec.argv for spec in plan.processes if spec.role == role}
    content: dict[str, Any] = json.loads(argv[argv.index("--speculative-config") + 1])
    return content


def test_vllm_servers_have_it_in_their_speculative_config() -> None:
    one = Deployment(agg=replace(PAIR.gen, role="agg"))  # type: ignore[arg-type]
    asked = replace(made(EngineRef("vllm", "0.32"), one), stage="ifb")
    given = speculation(launch(asked, replace(RACK, gpus_per_node=8)), "agg")
    assert (given["rejection_sample_method"], given["synthetic_acceptance_length"]) == ("synthetic", 1.75)
    real = replace(asked, workload=Workload(1024, 64))
    assert "rejection_sample_method" not in speculation(launch(real, replace(RACK, gpus_per_node=8)), "agg")


@pytest.mark.parametrize(
    ("own", "workload", "refused"),
    [
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 1.5}, Workload(1024, 64), True),
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.5]}, Workload(1024, 64), True),
        ({"synthetic_acceptance_length": 1.5}, WORKLOAD, True),
        ({"rejection_sample_method": "block"}, Workload(1024, 64), False),
        ({}, WORKLOAD, False),
    ],
)
def test_vllm_options_that_force_something_else_are_refused(
    own: dict[str, Any], workload: Workload, refused: bool
) -> None:
    assert PAIR.gen is not None
    group: ServerGroup = replace(PAIR.gen, role="agg", options={"speculative_config": own} if own else {})
    asked = replace(made(EngineRef("vllm", "0.32"), Deployment(agg=group), workload), stage="ifb")
    found = refusals(asked, replace(RACK, gpus_per_node=8))
    assert bool(found) is refused, found


@pytest.mark.parametrize(("backend", "version"), [("trtllm", "1.3.0rc29"), ("vllm", "0.24.0")])
def test_dynamo_tells_its_workers_as_their_engine_is_told(backend: str, version: str) -> None:
    facts = find_engine(f"dynamo-{backend}").facts
    settings = facts.read_settings("1.6.1", {"backend": backend, "backend_version": version})
    assert isinstance(settings, dict)
    own = {key: value for key, value in settings.items() if not key.startswith("backend")}
    engine = EngineRef("dynamo", "1.6.1", backend, version, own)
    plan = launch(made(engine), replace(RACK, gpus_per_node=8, nodes=9))
    if backend == "trtllm":
        assert values(plan)["gen"] == "0.75"
    else:
        assert speculation(plan, "gen")["synthetic_acceptance_length"] == 1.75


@pytest.mark.parametrize(("version", "kept"), [("1.3.0rc15", 0.75), ("1.3.0rc14", None), ("1.2.0", None)])
def test_the_emulator_takes_the_variable_as_its_version_does(version: str, kept: float | None) -> None:
    asked = made(EngineRef("trtllm-serve", version), Deployment(gen=PAIR.gen))
    assert PAIR.gen is not None
    config = worker_config(asked, PAIR.gen)
    settings = worker_settings("deepseek-r1", {}, (), config, version, (), "")
    emulation = build(settings, Environment(version=version, forced_acceptance=0.75))
    assert emulation.scheduler.config.forced_acceptance == kept
    whole = build(settings, Environment(version=version, forced_acceptance=1.0))
    assert whole.scheduler.config.forced_acceptance == 1.0
    assert takes(version, 1.0) and takes(version, 0.75) is (kept is not None)


def test_zero_forces_nothing() -> None:
    assert read_environment({VARIABLE: "0"}).forced_acceptance is None
    assert read_environment({VARIABLE: "1.49"}).forced_acceptance == 1.49
    assert not is_forcing("0") and is_forcing("3.80", "3.8") and not is_forcing("3.80", "3.7")


@pytest.mark.parametrize(
    ("own", "drafts"),
    [
        ({}, None),
        ({"rejection_sample_method": "block"}, None),
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.5}, 1.5),
    ],
)
def test_the_emulated_vllm_reads_its_own_key(own: dict[str, Any], drafts: float | None) -> None:
    assert _forced({"method": "mtp", "num_speculative_tokens": 3, **own}) == drafts


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"synthetic_acceptance_length": 2.5}, "only valid with rejection_sample_method='synthetic'"),
        ({"rejection_sample_method": "synthetic"}, "requires exactly one"),
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 4.5}, "must be in"),
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.9]}, "not emulated"),
    ],
)
def test_the_emulated_vllm_refuses_what_the_real_one_does(own: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        _forced({"method": "mtp", "num_speculative_tokens": 3, **own})
