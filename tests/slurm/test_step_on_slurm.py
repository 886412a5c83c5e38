"""Where a real Slurm puts the ranks of one server."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import pytest

from ratematch.plan.cluster import Cluster, Slurm
from ratematch.plan.launchplan import ProcessSpec, ReadyProbe
from ratematch.slurm.srun import slurm_step
from tests.slurm.cluster import TestCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

NODES = ("node1", "node2")
RANKS_PER_NODE = 4
NAME_THE_NODE = ("sh", "-c", 'echo "rank $SLURM_PROCID on $SLURMD_NODENAME"')


def test_ranks_of_a_server_fill_one_node_after_another(cluster: TestCluster) -> None:
    """The engine takes rank // 4 for the node and rank % 4 for the GPU: a cyclic layout puts two ranks on one GPU.

    The step starts in what a driver has in its environment: Slurm leaves ``SLURM_DISTRIBUTION=cyclic`` there.
    """
    cluster.wait_idle()
    ranks = RANKS_PER_NODE * len(NODES)
    ready = ReadyProbe("http://node1:8000/health", 60.0)
    spec = ProcessSpec("agg-0", "agg", NAME_THE_NODE, (), (), NODES, "node1", 8000, "agg-0.log", ready, ranks=ranks)
    profile = Cluster("four", "gb200", gpus_per_node=4, nodes=4, slurm=Slurm(tasks="gpu", mpi="none"))
    step = ["env", "SLURM_DISTRIBUTION=cyclic", *slurm_step(spec, profile).argv]
    driver = ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", *step]
    allocation = ["salloc", "--quiet", "--exclusive", "--nodelist=" + ",".join(NODES), "--nodes=2", "--mem=0"]
    done = subprocess.run(
        [*allocation, *driver], env=cluster.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, shlex.join(step) + done.stderr
    # A label of the rank stands before each line.
    lines = sorted(line.partition(": ")[2] for line in done.stdout.splitlines())
    assert lines == [f"rank {rank} on {NODES[rank // RANKS_PER_NODE]}" for rank in range(ranks)], done.stderr


@pytest.mark.parametrize("shares", [(4, 2), (2, 4), (1, 3)])
def test_ranks_of_a_server_over_the_border_of_nodes(cluster: TestCluster, shares: tuple[int, ...]) -> None:
    """``packing: compact``: 6 ranks as 4 + 2, and a neighbour's as 2 + 4, in the order of the nodes."""
    cluster.wait_idle()
    ready = ReadyProbe("http://node1:8000/health", 60.0)
    spec = ProcessSpec("agg-0", "agg", NAME_THE_NODE, (), (), NODES, "node1", 8000, "agg-0.log", ready)
    spec = replace(spec, ranks=sum(shares), shares=shares)
    profile = Cluster("four", "gb200", gpus_per_node=4, nodes=4, slurm=Slurm(tasks="gpu", mpi="none"))
    # What a driver has in its environment: the job's own layout, which the step must not inherit.
    step = ["env", "SLURM_DISTRIBUTION=cyclic", "SLURM_NTASKS_PER_NODE=4", *slurm_step(spec, profile).argv]
    driver = ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", *step]
    allocation = ["salloc", "--quiet", "--exclusive", "--nodelist=" + ",".join(NODES), "--nodes=2", "--mem=0"]
    done = subprocess.run(
        [*allocation, *driver], env=cluster.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, shlex.join(step) + done.stderr
    lines = sorted(line.partition(": ")[2] for line in done.stdout.splitlines())
    where = [node for node, share in zip(NODES, shares, strict=True) for _ in range(share)]
    assert lines == [f"rank {rank} on {node}" for rank, node in enumerate(where)], done.stderr
