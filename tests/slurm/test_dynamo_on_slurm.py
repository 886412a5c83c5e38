"""A whole sweep behind NVIDIA Dynamo's real frontend on a real Slurm: etcd, workers and frontends on four nodes."""

from __future__ import annotations

import json

import pytest

from tests.slurm.cluster import Site, TestCluster
from tests.support.dynamo import needs_dynamo, needs_services
from tests.support.processes import wait_until
from tests.support.sites import DYNAMO_MINI, analyse, check_fronts

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.dynamo, needs_dynamo, needs_services]

SWEEP = DYNAMO_MINI.replace("cluster: laptop", "cluster: four").replace("discovery: file", "discovery: etcd")


def test_from_a_sweep_file_to_the_three_fronts_with_etcd(site: Site, cluster: TestCluster) -> None:
    site.set_sweep(SWEEP)
    controller = site.sweep()
    assert controller.wait(240) == 0, site.said()
    analysis = analyse(site.path)
    assert analysis["emulated"] is True
    check_fronts(analysis["workloads"]["256/12"], site.path / "results" / "mini")
    (placed,) = (site.path / "results" / "mini").glob("e2e-*/launch/*/placement.json")
    assert len(json.loads(placed.read_text())["instances"]) == 5
    wait_until(lambda: not cluster.jobs() and not site.processes(), "all processes to end", 30)
