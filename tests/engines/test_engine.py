"""The engine boundary: one registry of values, from which further engines can be composed."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from ratematch import engines
from ratematch.engines import ENGINES, find_engine
from ratematch.errors import CatalogError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import Placement, nodes_needed, place
from tests.engines.golden import RACK, experiment_of


def test_every_engine_is_found_by_the_name_that_it_says_itself() -> None:
    assert list(ENGINES) == ["trtllm-serve", "vllm", "dynamo", "triton"], "the first is the default of a sweep file"
    for name, facts in ENGINES.items():
        assert find_engine(name).name == name and find_engine(name).facts is facts
    with pytest.raises(CatalogError, match="unknown engine 'sglang'; known: trtllm-serve, vllm, dynamo, triton"):
        find_engine("sglang")


@pytest.mark.parametrize("name", list(ENGINES))
def test_an_engine_is_a_frozen_value_of_facts_and_functions(name: str) -> None:
    engine = find_engine(name)
    with pytest.raises(FrozenInstanceError):
        engine.product = "another"  # type: ignore[misc]
    facts = {"name", "facts", "product", "reference", "routes", "known_failures", "transfer_costs"}
    assert all(callable(getattr(engine, field.name)) for field in fields(engine) if field.name not in facts)


def test_an_engine_that_shares_most_of_another_is_composed_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that starts the same workers by another command keeps their files, checks, metrics and logs."""
    ours = find_engine("trtllm-serve")

    def command(cluster: Cluster) -> tuple[str, ...]:
        return ("another-server",)

    def plan_launch(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> LaunchPlan:
        plan = ours.plan_launch(experiment, placement, cluster, ready_s)
        old = len(ours.command(cluster))
        processes = (replace(spec, argv=(*command(cluster), *spec.argv[old:])) for spec in plan.processes)
        return replace(plan, processes=tuple(processes))

    other = replace(ours, name="another", product="Another", command=command, plan_launch=plan_launch)
    monkeypatch.setitem(engines._REGISTRY, other.name, other)
    found, experiment = find_engine("another"), experiment_of("ctx2xdep4-gen1xdep8-mtp0", "1.2")
    nodes = [f"node{index}" for index in range(nodes_needed(experiment.deployment, RACK.gpus_per_node))]
    placement = place(experiment.deployment, RACK, nodes, 8000)
    plan = found.plan_launch(experiment, placement, RACK, 60.0)
    assert {spec.argv[0] for spec in plan.processes} == {"another-server"}
    assert plan.files == ours.plan_launch(experiment, placement, RACK, 60.0).files
    assert found.check_launch(plan, experiment) == []
    assert found.routes is ours.routes and found.read_log is ours.read_log


def test_the_guide_has_every_field_and_names_files_that_are_there() -> None:
    root = Path(__file__).parents[2]
    guide = (root / "docs" / "adding-an-engine.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE)
    assert rows == [field.name for field in fields(find_engine("vllm"))], "one row a field, in their order"
    for name in re.findall(r"`((?:ratematch|tests)/[a-z_/]+\.(?:py|md|yaml))`", guide):
        assert (root / name).is_file(), name
    for module in re.findall(r"\| `(\w+\.py)` \|$", guide, re.MULTILINE):
        assert (root / "ratematch" / "engines" / "vllm" / module).is_file(), module


@pytest.mark.parametrize("folder", ["trtllm_serve", "vllm", "triton"])
def test_an_engines_readme_lists_its_modules(folder: str) -> None:
    room = Path(engines.__file__).parent / folder
    listed = set(re.findall(r"`([\w-]+\.(?:py|yaml))`", (room / "README.md").read_text(encoding="utf-8")))
    there = {path.name for path in room.iterdir() if path.suffix in (".py", ".yaml")} - {"__init__.py"}
    assert there <= listed, there - listed
    assert listed - there <= {"contract-command.yaml"}
