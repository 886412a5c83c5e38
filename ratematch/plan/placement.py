"""Where each instance of a deployment sits: a pure function from values to values.

An instance no larger than a node sits inside one node; a larger one takes whole nodes. With ``packing: compact`` one
that fills no whole nodes sits over their borders, 6 GPUs on nodes of 4 as 4 + 2 and its neighbour as 2 + 4: from the
last free GPUs of one node over whole nodes to the first GPUs of another, so that rank k is on GPU (first + k) of the
row of all GPUs. Each GPU is given out once, each port once in the whole deployment (so the plan also works when all
"nodes" are one machine).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ratematch.errors import PlacementError
from ratematch.plan.cluster import Cluster, Packing
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

    @property
    def shares(self) -> tuple[int, ...]:
        """GPUs on each of ``nodes``, where they differ; else empty."""
        shares = tuple(len(place.gpus) for place in self.places)
        return shares if len(set(shares)) > 1 or self.first else ()

    @property
    def first(self) -> int:
        """The GPU of its first node at which an instance over several nodes begins."""
        return self.places[0].gpus[0] if len(self.places) > 1 else 0


@dataclass(frozen=True)
class Placement:
    """Instances in the order they were placed; the orchestrator (if the deployment needs one) beside the first.
    ``coordinator_port``: on its host, for an orchestrator of several processes (:func:`has_coordinator`).
    ``side_channels``: (name of an instance, address, first port) where they are held for it; else they follow the
    other ports. ``service_node`` and ``service_host``: a node without servers, for what stands beside them, and its
    address."""

    instances: tuple[Instance, ...]
    orchestrator_host: str | None
    orchestrator_port: int | None
    coordinator_port: int | None = None
    side_channels: tuple[tuple[str, str, int], ...] = ()
    service_node: str | None = None
    service_host: str | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node used, each once, in order."""
        own = () if self.service_node is None else (self.service_node,)
        return tuple(dict.fromkeys((*(node for instance in self.instances for node in instance.nodes), *own)))

    @property
    def ports(self) -> tuple[int, ...]:
        others = (self.coordinator_port, self.orchestrator_port)
        return (*(instance.port for instance in self.instances), *(port for port in others if port is not None))


def nodes_needed(deployment: Deployment, gpus_per_node: int, packing: Packing = "whole-nodes") -> int:
    """Nodes that :func:`place` fills, largest instances first (optimal when sizes divide each other)."""
    sizes = _sizes(deployment)
    # As many as there can be at most, each instance on nodes of its own.
    most = sum(-(-gpus // gpus_per_node) for gpus in sizes)
    free = {str(index): list(range(gpus_per_node)) for index in range(most)}
    for gpus in sizes:
        _take(free, gpus, gpus_per_node, packing)
    return sum(len(left) < gpus_per_node for left in free.values()) + deployment.service_nodes


def nodes_on(deployment: Deployment, cluster: Cluster) -> int:
    """Nodes of ``cluster`` that ``deployment`` takes."""
    return nodes_needed(deployment, cluster.gpus_per_node, cluster.packing)


def _sizes(deployment: Deployment) -> list[int]:
    sizes = [group.mapping.gpus for group in deployment.groups for _ in range(group.instances)]
    return sorted(sizes, reverse=True)


def has_coordinator(deployment: Deployment) -> bool:
    """Is the orchestrator several processes that meet at the port before its own? So it is with ``num_workers`` above
    1, unless a ``disagg_coordinator_url`` names another place."""
    workers = deployment.orchestrator.get("num_workers")
    several = isinstance(workers, int) and not isinstance(workers, bool) and workers > 1
    return deployment.needs_orchestrator and several and not deployment.orchestrator.get("disagg_coordinator_url")


def count_ports(deployment: Deployment) -> int:
    """Ports that :func:`place` gives out, one after another from its ``port_base``."""
    return len(_sizes(deployment)) + deployment.needs_orchestrator + has_coordinator(deployment)


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
    held = list(nodes)[len(nodes) - deployment.service_nodes :] if deployment.service_nodes else []
    free = {node: list(range(per_node)) for node in nodes if node not in held}
    wanted = sorted(
        ((group.mapping.gpus, group.role, index) for group in deployment.groups for index in range(group.instances)),
        key=lambda item: -item[0],
    )
    placed: list[Instance] = []
    for number, (gpus, role, index) in enumerate(wanted):
        if gpus > per_node and gpus % per_node and cluster.packing != "compact":
            raise PlacementError(
                f"{role}-{index} of {deployment.label} needs {gpus} GPUs, which are not whole nodes of {per_node}: "
                "packing: compact in the cluster profile lets it share nodes with its neighbours"
            )
        places = _take(free, gpus, per_node, cluster.packing)
        if places is None:
            raise PlacementError(
                f"{deployment.label} does not fit {len(nodes)} nodes x {per_node} GPUs: "
                f"it needs {deployment.gpus} GPUs on {nodes_on(deployment, cluster)} nodes "
                f"({role}-{index} with {gpus} GPUs found no room)"
            )
        host = (addresses or {}).get(places[0].node, places[0].node)
        placed.append(Instance(role, index, places, host, port_base + number))
    instances = tuple(sorted(placed, key=lambda instance: (instance.role, instance.index)))
    own = next(iter(held), None)
    apart = Placement(instances, None, None, None, (), own, own and (addresses or {}).get(own, own))
    if not deployment.needs_orchestrator:
        return apart
    port = port_base + len(placed)
    if has_coordinator(deployment):
        return replace(apart, orchestrator_host=placed[0].host, orchestrator_port=port + 1, coordinator_port=port)
    return replace(apart, orchestrator_host=placed[0].host, orchestrator_port=port)


def _take(free: dict[str, list[int]], gpus: int, per_node: int, packing: Packing) -> tuple[NodeGpus, ...] | None:
    if packing == "compact" and gpus > per_node and gpus % per_node:
        return _take_over_borders(free, gpus, per_node)
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


def _take_over_borders(free: dict[str, list[int]], gpus: int, per_node: int) -> tuple[NodeGpus, ...] | None:
    """From the last GPUs of a node that has some left, where that saves a node, else from an empty node."""
    names = list(free)
    empty = [index for index, node in enumerate(names) if len(free[node]) == per_node]
    choices = []
    for index, node in enumerate(names):
        left = free[node]
        if 0 < len(left) < per_node and left == list(range(left[0], per_node)):
            rest = gpus - len(left)
            following = [other for other in empty if other > index][: -(-rest // per_node)]
            if len(following) * per_node >= rest:
                choices.append((len(following), [index, *following]))
    fresh = empty[: -(-gpus // per_node)]
    if len(fresh) * per_node >= gpus:
        choices.append((len(fresh), fresh))
    if not choices:
        return None
    chosen = min(choices, key=lambda choice: (choice[0], len(choice[1])))[1]
    places, wanted = [], gpus
    for index in chosen:
        taken = _cut(free[names[index]], min(wanted, len(free[names[index]])))
        wanted -= len(taken)
        places.append(NodeGpus(names[index], taken))
    return tuple(places)


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
        and {
            "host": placement.orchestrator_host,
            "port": placement.orchestrator_port,
            **({"coordinator_port": placement.coordinator_port} if placement.coordinator_port else {}),
        },
        **({"services": placement.service_node} if placement.service_node else {}),
    }
