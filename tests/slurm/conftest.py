"""A real Slurm for the tests below: started once, stopped at the end, skipped loudly where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import CANNOT, MATRIX, TestCluster

SKIPPED: list[str] = []


def _start(state: Path, *options: str) -> Iterator[TestCluster]:
    cluster = TestCluster(state)
    code, told = cluster.verb("start", *options)
    if code == CANNOT:
        SKIPPED.append(told)
        pytest.skip(told)
    assert code == 0, told
    try:
        yield cluster
    finally:
        code, told = cluster.verb("stop")
        assert code == 0, told
        assert cluster.left_over() == []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Four nodes with accounting."""
    yield from _start(tmp_path_factory.mktemp("slurm") / "state")


@pytest.fixture
def cluster_without_accounting(tmp_path: Path) -> Iterator[TestCluster]:
    """Another one, on which sacct knows nothing."""
    yield from _start(tmp_path / "state", "--no-accounting")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SKIPPED:
        terminalreporter.section("NO SLURM TESTS ON THIS MACHINE", sep="!")
        terminalreporter.write_line(SKIPPED[0])
    if MATRIX:
        terminalreporter.section("faults on a real Slurm")
        terminalreporter.write_line(f"{'fault':<40} {'noticed after':>13}  outcome")
        for fault, seconds, outcome in MATRIX:
            terminalreporter.write_line(f"{fault:<40} {seconds:>11.1f} s  {outcome}")
