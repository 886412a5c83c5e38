"""Which combinations a model and a cluster can run at all, with the arithmetic why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratematch.plan.cluster import Cluster, Packing
from ratematch.plan.model import Model
from ratematch.plan.parallelism import Parallelism, spell_divisors
from ratematch.plan.placement import Instance, Placement


@dataclass(frozen=True)
class Impossible:
    """One reason: ``axis`` is the sweep axis to change, ``reason`` the arithmetic and what would be valid."""

    axis: str
    reason: str


def _one_each(experts: int) -> int | None:
    return experts


def check_mapping(
    mapping: Parallelism, model: Model, cluster: Cluster, slots_of: Callable[[int], int | None] = _one_each
) -> list[Impossible]:
    """Why ``model`` cannot run with ``mapping`` on ``cluster``; empty when it can.

    ``slots_of``: the model's experts to the expert slots that ``ep`` must divide, more where a load balancer keeps
    copies; ``None`` where that is not known.
    """
    problems = [Impossible("ep" if "ep=" in reason else "tp", reason) for reason in mapping.problems()]
    if problems:
        return problems
    if not mapping.attention_dp and model.heads % mapping.tp:
        problems.append(
            Impossible(
                "tp",
                f"tp={mapping.tp} does not divide the {model.heads} attention heads of {model.name}: "
                f"valid tp are {spell_divisors(model.heads)}",
            )
        )
    if model.moe is None:
        if mapping.ep > 1:
            problems.append(
                Impossible("ep", f"ep={mapping.ep} needs an MoE model, and {model.name} is dense: write ep: 1")
            )
    else:
        experts = model.moe.experts
        slots = slots_of(experts)
        if slots is not None and slots % mapping.ep:
            what = f"{experts} experts" if slots == experts else f"{slots} expert slots"
            problems.append(
                Impossible(
                    "ep",
                    f"ep={mapping.ep} does not divide the {what} of {model.name}: "
                    f"valid ep are {spell_divisors(slots)}",
                )
            )
    if mapping.pp > model.layers:
        problems.append(Impossible("pp", f"pp={mapping.pp} is more than the {model.layers} layers of {model.name}"))
    problems.extend(_check_nodes(mapping, cluster))
    return problems


def _check_nodes(mapping: Parallelism, cluster: Cluster) -> list[Impossible]:
    gpus, node = mapping.gpus, cluster.gpus_per_node
    if gpus > cluster.gpus:
        return [
            Impossible(
                "tp",
                f"{mapping.label} needs {gpus} GPUs, and cluster {cluster.name} has "
                f"{cluster.nodes} nodes x {node} = {cluster.gpus}",
            )
        ]
    if gpus > node and gpus % node and cluster.packing != "compact":
        return [
            Impossible(
                "tp",
                f"{mapping.label} needs {gpus} GPUs, which are not whole nodes of {node}: "
                "an instance larger than a node takes whole nodes, unless the cluster profile has packing: compact",
            )
        ]
    return []


def check_mtp(mtp: int, model: Model, *, draft_model: bool) -> list[Impossible]:
    """Why ``mtp`` draft tokens a step are not to be had. ``draft_model``: a speculative_config is given by hand."""
    if mtp and not model.mtp_layers and not draft_model:
        return [
            Impossible(
                "mtp",
                f"mtp={mtp} needs MTP layers, and the checkpoint of {model.name} has none: "
                "write mtp: 0, or give options.speculative_config",
            )
        ]
    return []


def check_placement(placement: Placement, gpus_per_node: int, packing: Packing = "whole-nodes") -> list[str]:
    """What is wrong with where instances sit: a GPU or port given out twice, an instance uneven over its nodes."""
    problems: list[str] = []
    owner: dict[tuple[str, int], str] = {}
    for instance in placement.instances:
        whole = all(len(place.gpus) == gpus_per_node for place in instance.places)
        if len(instance.places) > 1 and not whole and not (packing == "compact" and _is_row(instance, gpus_per_node)):
            shares = " + ".join(str(len(place.gpus)) for place in instance.places)
            problems.append(
                f"{instance.name} straddles nodes with {shares} GPUs: it must take whole nodes of {gpus_per_node}"
            )
        for place in instance.places:
            for gpu in place.gpus:
                other = owner.setdefault((place.node, gpu), instance.name)
                if other != instance.name or not 0 <= gpu < gpus_per_node:
                    problems.append(
                        f"GPU {gpu} of {place.node} cannot be {instance.name}'s: it is {other}'s or not there"
                    )
    ports = [(instance.host, instance.port, instance.name) for instance in placement.instances]
    if placement.orchestrator_host is not None and placement.orchestrator_port is not None:
        ports.append((placement.orchestrator_host, placement.orchestrator_port, "orchestrator"))
        if placement.coordinator_port is not None:
            ports.append((placement.orchestrator_host, placement.coordinator_port, "the orchestrator's coordinator"))
    taken: dict[tuple[str, int], str] = {}
    for host, port, name in ports:
        if taken.setdefault((host, port), name) != name:
            problems.append(f"port {port} on {host} is given to {taken[host, port]} and to {name}")
    return problems


def _is_row(instance: Instance, gpus_per_node: int) -> bool:
    """Do the GPUs follow one another over the borders of nodes: the last of one, whole ones, the first of another?"""
    row = [index * gpus_per_node + gpu for index, place in enumerate(instance.places) for gpu in place.gpus]
    return row == list(range(row[0], row[0] + len(row)))
