"""Where the servers of an experiment run, and how long they may take to start."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

from ratematch.engines import find_engine
from ratematch.errors import PortInUse
from ratematch.inputs.catalog import model_of
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.formats import format_bytes
from ratematch.plan.memory import total_params
from ratematch.plan.placement import FIRST_PORT, Placement, count_ports, nodes_on, place
from ratematch.run.machines import Allocation
from ratematch.run.probes import port_is_free

LAST_PORT = 32000
"""Below the range from which the kernel picks ports for outgoing connections, which would come and go."""

READY_FLOOR_S = 600.0
READ_B_S = 0.5e9
"""Weights read per second that a start-up deadline allows for: a busy shared file system, not a good one."""


def place_locally(experiment: Experiment, cluster: Cluster) -> Placement:
    """Put the deployment on this machine: each "node" is this host, on ports that are free now.

    Raises:
        PlacementError: it does not fit. PortInUse: port_base is given and not free, or nothing is.
    """
    deployment = experiment.deployment
    nodes = [f"local{index}" for index in range(nodes_on(deployment, cluster))]
    addresses = dict.fromkeys(nodes, "127.0.0.1")
    return place(deployment, cluster, nodes, _port_base(cluster, _all_ports(experiment)), addresses)


def place_allocated(experiment: Experiment, cluster: Cluster, where: Allocation) -> Placement:
    """Put the deployment on the nodes of an allocation, which are reached by their names.

    Ports differ from job to job and from experiment to experiment, so that a server that an earlier one could not end
    is never taken for ours.

    Raises:
        PlacementError: it does not fit.
    """
    spread = zlib.crc32(f"{where.job_id} {experiment.id}".encode()) % (
        LAST_PORT - FIRST_PORT - _all_ports(experiment)
    )
    return place(experiment.deployment, cluster, where.nodes, cluster.port_base or FIRST_PORT + spread)


def _all_ports(experiment: Experiment) -> int:
    """Ports that a deployment takes, one after another."""
    engine = find_engine(experiment.engine.key)
    return count_ports(experiment.deployment) + engine.spare_ports(experiment)


def _port_base(cluster: Cluster, count: int) -> int:
    if cluster.port_base is not None:
        return cluster.port_base
    for _ in range(200):
        base = random.randrange(FIRST_PORT, LAST_PORT - count)
        if all(port_is_free("127.0.0.1", base + offset) for offset in range(count)):
            return base
    raise PortInUse(f"found no {count} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def as_served(experiment: Experiment, cluster: Cluster) -> Experiment:
    """The experiment with its weights where servers find them."""
    return replace(experiment, model_path=cluster.weights_for_servers(experiment.model_path))


def ready_s(experiment: Experiment, cluster: Cluster) -> float:
    """Seconds that servers may take to become ready: the profile's limit, else by the size of the weights."""
    if cluster.ready_minutes is not None:
        return cluster.ready_minutes * 60
    return READY_FLOOR_S + total_params(model_of(experiment)) * format_bytes("fp8") / READ_B_S
