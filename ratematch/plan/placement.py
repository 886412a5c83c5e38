"""Where each instance of a deployment sits: a pure function from values to values.

An instance no larger than a node sits inside one node; a larger one takes whole nodes. Each GPU is given out once,
each port once in the whole deployment (so the plan also works when all "nodes" are one machine).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ratematch.errors import PlacementError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Role

FIRST_PORT = 18000
"""From here on servers get their ports where neither the profile nor a person names one."""


@dataclass(frozen=True)
class NodeGpus:
    """GPU indices that an instance uses on one node."""

    node: str
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Instance:
    """One server of the deployment. ``host``: address at which its first node answers HTTP, on ``port``."""

    role: Role
    index: int
    places: tuple[NodeGpus, ...]
    host: str
    port: int

    @property
    def name(self) -> str:
        return f"{self.role}-{self.index}"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(place.node for place in self.places)


@dataclass(frozen=True)
class Placement:
    """Instances in the order they were placed; the orchestrator (if the deployment needs one) beside the first."""

    instances: tuple[Instance, ...]
    orchestrator_host: str | None
    orchestrator_port: int | None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node used, each once, in order."""
        return tuple(dict.fromkeys(node for instance in self.instances for node in instance.nodes))

    @property
    def ports(self) -> tuple[int, ...]:
        ports = tuple(instance.port for instance in self.instances)
        return ports if self.orchestrator_port is None else (*ports, self.orchestrator_port)


def nodes_needed(deployment: Deployment, gpus_per_node: int) -> int:
    """Nodes that :func:`place` fills, largest instances first (optimal when sizes divide each other)."""
    free: list[int] = []
    for gpus in _sizes(deployment):
        if gpus >= gpus_per_node:
            free.extend([0] * (gpus // gpus_per_node))
            continue
        for index, left in enumerate(free):
            if left >= gpus:
                free[index] -= gpus
                break
        else:
            free.append(gpus_per_node - gpus)
    return len(free)


def _sizes(deployment: Deployment) -> list[int]:
    sizes = [group.mapping.gpus for group in deployment.groups for _ in range(group.instances)]
    return sorted(sizes, reverse=True)


def count_ports(deployment: Deployment) -> int:
    """Ports that :func:`place` gives out, one after another from its ``port_base``."""
    return len(_sizes(deployment)) + deployment.needs_orchestrator


def place(
    deployment: Deployment,
    cluster: Cluster,
    nodes: Sequence[str],
    port_base: int,
    addresses: Mapping[str, str] | None = None,
) -> Placement:
    """Give every instance its GPUs and port; ports run from ``port_base`` up.

    ``addresses``: where a node is reached, for nodes that are not reached by their name.

    Raises:
        PlacementError: it does not fit; the message holds the arithmetic.
    """
    per_node = cluster.gpus_per_node
    free = {node: list(range(per_node)) for node in nodes}
    wanted = sorted(
        ((group.mapping.gpus, group.role, index) for group in deployment.groups for index in range(group.instances)),
        key=lambda item: -item[0],
    )
    placed: list[Instance] = []
    for number, (gpus, role, index) in enumerate(wanted):
        if gpus > per_node and gpus % per_node:
            raise PlacementError(
                f"{role}-{index} of {deployment.label} needs {gpus} GPUs, which are not whole nodes of {per_node}"
            )
        places = _take(free, gpus, per_node)
        if places is None:
            raise PlacementError(
                f"{deployment.label} does not fit {len(nodes)} nodes x {per_node} GPUs: "
                f"it needs {deployment.gpus} GPUs on {nodes_needed(deployment, per_node)} nodes "
                f"({role}-{index} with {gpus} GPUs found no room)"
            )
        host = (addresses or {}).get(places[0].node, places[0].node)
        placed.append(Instance(role, index, places, host, port_base + number))
    orchestrated = deployment.needs_orchestrator
    return Placement(
        tuple(sorted(placed, key=lambda instance: (instance.role, instance.index))),
        placed[0].host if orchestrated else None,
        port_base + len(placed) if orchestrated else None,
    )


def _take(free: dict[str, list[int]], gpus: int, per_node: int) -> tuple[NodeGpus, ...] | None:
    if gpus >= per_node:
        count = gpus // per_node
        empty = [node for node, left in free.items() if len(left) == per_node][:count]
        if len(empty) < count:
            return None
        return tuple(NodeGpus(node, _cut(free[node], per_node)) for node in empty)
    for node, left in free.items():
        if len(left) >= gpus:
            return (NodeGpus(node, _cut(left, gpus)),)
    return None


def _cut(left: list[int], count: int) -> tuple[int, ...]:
    taken = tuple(left[:count])
    del left[:count]
    return taken


def placement_to_json(placement: Placement) -> dict[str, Any]:
    return {
        "instances": [
            {
                "name": instance.name,
                "host": instance.host,
                "port": instance.port,
                "places": [{"node": place.node, "gpus": list(place.gpus)} for place in instance.places],
            }
            for instance in placement.instances
        ],
        "orchestrator": placement.orchestrator_port
        and {"host": placement.orchestrator_host, "port": placement.orchestrator_port},
    }
