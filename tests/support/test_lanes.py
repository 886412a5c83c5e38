"""Lanes name tests that exist, hold every test on Slurm once, and end together."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest

from tests.support.lanes import SECONDS, SLURM_LANES, TOGETHER, USUAL_S, groups_of
from tests.support.scheduler import Lanes

TESTS = Path(__file__).parents[1]


def test_every_name_is_that_of_a_file_or_test() -> None:
    files = list(TESTS.rglob("test_*.py"))
    text = "".join(file.read_text() for file in files)
    known = {file.name for file in files}
    missing = [name for name in (*TOGETHER, *SECONDS) if name not in known and f"def {name}(" not in text]
    assert missing == []


def test_tests_of_one_group_stay_together_and_others_are_free() -> None:
    tests = ["tests/a/test_kinds.py::test_x", "tests/b/test_modes.py::test_y[1-2]", "tests/c/test_z.py::test_z"]
    assert groups_of(tests) == dict.fromkeys(tests[:2], "timing")


def test_lanes_on_slurm_end_together() -> None:
    long = [f"tests/slurm/test_faults.py::{name}" for name in SECONDS]
    usual = [f"tests/slurm/test_faults.py::test_{k}" for k in range(20)]
    lanes = groups_of([*usual, *long])
    assert lanes.keys() == {*usual, *long} and len(set(lanes.values())) == SLURM_LANES
    seconds: Counter[str] = Counter()
    for test, lane in lanes.items():
        seconds[lane] += SECONDS.get(test.partition("::")[2], USUAL_S)
    assert max(seconds.values()) - min(seconds.values()) <= USUAL_S


class Node:
    """A process of a run: keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, places: list[int]) -> None:
        self.given += places


@pytest.mark.parametrize("processes", [1, SLURM_LANES + 2], ids=["from the front", "from the end"])
def test_what_needs_a_calm_machine_is_given_out_last(processes: int) -> None:
    calm = "tests/d/test_d.py::test_simulated_and_emulated_figures_agree"
    tests = [calm, "tests/a/test_a.py::test_a", "tests/b/test_kinds.py::test_b", calm.replace("_agree", "_are_there")]
    nodes = [Node() for _ in range(processes)]
    lanes: Any = Lanes.__new__(Lanes)
    lanes.assigned_work = {node: {} for node in nodes}
    lanes.registered_collections = dict.fromkeys(nodes, tests)
    lanes.workqueue = OrderedDict((groups_of(tests).get(test, test), {test: False}) for test in tests)
    while lanes.workqueue:
        lanes._assign_work_unit(nodes[-1])
    given = [tests[place] for place in nodes[-1].given]
    assert sorted(given) == sorted(tests) and given[-1] == calm
