"""Where each process of a Dynamo deployment stands, and the port of each: all follow from the placement of workers.

The ports right after the placement's own are given out in this order: the public address where the placement has
none, each frontend behind nginx (or after the first one), etcd's two, NATS's two, side channels of NIXL.
"""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.engines.dynamo.stack import Stack, stack_of
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.placement import Placement


@dataclass(frozen=True)
class Place:
    """``host``: where a process runs and is reached. ``port``: its own; ``further``: the next ones that it has."""

    host: str
    port: int
    further: int = 0


@dataclass(frozen=True)
class Places:
    """``public``: the address that takes the load: of nginx, else of the first frontend. ``hosts``: of all
    processes."""

    public: Place
    frontends: tuple[Place, ...]
    etcd: Place | None
    nats: Place | None
    side_channels: tuple[tuple[str, str, int], ...]
    hosts: tuple[str, ...]


def has_nginx(stack: Stack) -> bool:
    """Is there one public port in front of the frontends?"""
    return stack.nginx


def side_channels(stack: Stack, deployment: Deployment) -> int:
    """Ports for side channels of NIXL: one for each data-parallel rank of a vLLM worker that hands KV caches over."""
    if stack.backend != "vllm" or deployment.ctx is None or deployment.gen is None:
        return 0
    return sum(group.instances * group.mapping.dp_ranks for group in deployment.groups)


def spare_ports(experiment: Experiment) -> int:
    """Ports of a deployment beside those of its placement."""
    stack, deployment = stack_of(experiment.engine), experiment.deployment
    public = 0 if deployment.needs_orchestrator else 1
    frontends = stack.frontends if has_nginx(stack) else stack.frontends - 1
    services = 2 * (stack.discovery == "etcd") + 2 * stack.uses_nats
    return public + frontends + services + side_channels(stack, deployment)


def find_places(experiment: Experiment, placement: Placement) -> Places:
    """The host and port of every process but the workers."""
    stack = stack_of(experiment.engine)
    following = max(placement.ports) + 1
    head = placement.orchestrator_host or placement.instances[0].host

    def take(count: int = 1) -> int:
        nonlocal following
        following += count
        return following - count

    public = Place(head, placement.orchestrator_port or take())
    # One frontend is a process of some cores: they are spread over the nodes that workers begin on.
    hosts = list(dict.fromkeys([head, *(instance.host for instance in placement.instances)]))
    behind = range(stack.frontends) if has_nginx(stack) else range(1, stack.frontends)
    others = tuple(Place(hosts[number % len(hosts)], take()) for number in behind)
    frontends = others if has_nginx(stack) else (public, *others)
    beside = placement.service_host or head
    etcd = Place(beside, first, first + 1) if stack.discovery == "etcd" and (first := take(2)) else None
    nats = Place(beside, first, first + 1) if stack.uses_nats and (first := take(2)) else None
    side: list[tuple[str, str, int]] = []
    if side_channels(stack, experiment.deployment):
        held = {name: (name, host, port) for name, host, port in placement.side_channels}
        groups = {group.role: group for group in experiment.deployment.groups}
        for instance in placement.instances:
            ranks = groups[instance.role].mapping.dp_ranks
            side.append(held.get(instance.name) or (instance.name, instance.host, take(ranks)))
    everywhere = tuple(dict.fromkeys((*hosts, beside)))
    return Places(public, frontends, etcd, nats, tuple(side), everywhere)
