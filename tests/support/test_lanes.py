"""Lanes name tests that exist, hold every test on Slurm once, and end together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.lanes import SECONDS, SLURM_LANES, TOGETHER, USUAL_S, groups_of

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
