"""The committed launch files are what is rendered today, and the contract takes them."""

from __future__ import annotations

import pytest

from ratematch.engines import find_engine
from ratematch.plan.placement import nodes_needed, place
from tests.engines.golden import CASES, FOLDER, RACK, VERSIONS, experiment_of, render


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
def test_rendered_files_are_the_committed_ones(name: str, version: str) -> None:
    """After a change that was meant: python -m tests.engines.golden, and read the diff."""
    assert render(CASES[name], version) == (FOLDER / f"{name}.{version}.txt").read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
def test_the_contract_takes_every_case(name: str, version: str) -> None:
    asked, engine = experiment_of(CASES[name], version), find_engine("trtllm-serve")
    nodes = [f"node{index}" for index in range(nodes_needed(asked.deployment, RACK.gpus_per_node))]
    placement = place(asked.deployment, RACK, nodes, 8000)
    assert engine.check_launch(engine.plan_launch(asked, placement, RACK, 600.0), asked) == []


def test_no_file_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{name}.{version}.txt" for name in CASES for version in VERSIONS
    }
