"""A real Slurm for the tests below: started once, stopped at the end, skipped loudly where it cannot be.

Tests in several processes (``pytest -n 5``) go in lanes: each process that runs one has a cluster of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import CANNOT, Site, TestCluster

BY_HAND = {"test_mpi_on_slurm.py": "RATEMATCH_TEST_MPI", "test_containers_on_slurm.py": "RATEMATCH_TEST_IMAGE"}
"""Tests that need what CI has not, by the variable that names it (``.ci/extra``)."""

collect_ignore = [file for file, variable in BY_HAND.items() if not os.environ.get(variable)]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Four nodes with accounting."""
    cluster = TestCluster(tmp_path_factory.mktemp("slurm") / "state")
    code, told = cluster.verb("start")
    if code == CANNOT:
        pytest.skip(told)
    assert code == 0, told
    try:
        yield cluster
    finally:
        code, told = cluster.verb("stop")
        assert code == 0, told
        assert cluster.left_over() == []


@pytest.fixture
def cluster_without_accounting(cluster: TestCluster) -> Iterator[TestCluster]:
    """The same, on which sacct knows nothing for a while."""
    cluster.wait_idle()
    code, told = cluster.verb("accounting", "off")
    assert code == 0, told
    try:
        yield cluster
    finally:
        code, told = cluster.verb("accounting", "on")
        assert code == 0, told


@pytest.fixture
def site(tmp_path: Path, cluster: TestCluster, request: pytest.FixtureRequest) -> Iterator[Site]:
    """On a cluster with nothing else on it; what a failed test leaves is cancelled."""
    cluster.wait_idle()
    site = Site(tmp_path, cluster, request.node)
    yield site
    site.end_controllers()
    if cluster.jobs():
        cluster.tell("scancel", "--user=root")
