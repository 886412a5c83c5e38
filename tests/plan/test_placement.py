"""Placement on invented racks: who sits where, and the arithmetic when it does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.errors import PlacementError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.placement import Placement, count_ports, nodes_needed, place


def deployment(ctx_tp: int, x: int, gen_tp: int, y: int) -> Deployment:
    return Deployment(
        ctx=ServerGroup("ctx", Parallelism(tp=ctx_tp), instances=x),
        gen=ServerGroup("gen", Parallelism(tp=gen_tp), instances=y),
    )


def rack(nodes: int, per_node: int) -> Cluster:
    return Cluster("rack", "gb200", gpus_per_node=per_node, nodes=nodes)


def names(nodes: int) -> list[str]:
    return [f"n{index}" for index in range(nodes)]


def where(placement: Placement) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    return {instance.name: [(p.node, p.gpus) for p in instance.places] for instance in placement.instances}


def test_small_instances_share_a_node_and_large_ones_take_whole_nodes() -> None:
    placement = place(deployment(2, 2, 8, 1), rack(18, 4), names(3), 8000)
    assert where(placement) == {
        "ctx-0": [("n2", (0, 1))],
        "ctx-1": [("n2", (2, 3))],
        "gen-0": [("n0", (0, 1, 2, 3)), ("n1", (0, 1, 2, 3))],
    }
    assert placement.ports == (8001, 8002, 8000, 8003)
    assert (placement.orchestrator_host, placement.orchestrator_port) == ("n0", 8003)


def test_one_laptop_serves_all_nodes_on_its_own_address() -> None:
    placement = place(deployment(4, 1, 4, 1), rack(18, 4), names(2), 9000, {"n0": "127.0.0.1", "n1": "127.0.0.1"})
    assert {instance.host for instance in placement.instances} == {"127.0.0.1"}
    assert len(set(placement.ports)) == 3


def test_aggregated_server_needs_no_orchestrator() -> None:
    only = Deployment(agg=ServerGroup("agg", Parallelism(tp=8)))
    placement = place(only, rack(13, 8), names(1), 8000)
    assert placement.orchestrator_host is None and placement.orchestrator_port is None
    assert count_ports(only) == 1


def test_no_room_tells_the_arithmetic() -> None:
    with pytest.raises(PlacementError, match=r"does not fit 2 nodes x 4 GPUs: it needs 12 GPUs on 3 nodes"):
        place(deployment(4, 1, 8, 1), rack(18, 4), names(2), 8000)


def test_instances_that_are_not_whole_nodes_are_refused() -> None:
    with pytest.raises(PlacementError, match="not whole nodes of 4"):
        place(deployment(1, 1, 6, 1), rack(18, 4), names(4), 8000)


@given(
    per_node=st.sampled_from([4, 8]),
    ctx=st.sampled_from([1, 2, 4, 8, 16]),
    x=st.integers(1, 6),
    gen=st.sampled_from([1, 2, 4, 8, 16]),
    y=st.integers(1, 6),
)
def test_every_gpu_and_port_is_given_out_once_and_small_instances_never_straddle(
    per_node: int, ctx: int, x: int, gen: int, y: int
) -> None:
    wanted = deployment(ctx, x, gen, y)
    count = nodes_needed(wanted, per_node)
    placement = place(wanted, rack(count, per_node), names(count), 8000)
    gpus = [(p.node, gpu) for instance in placement.instances for p in instance.places for gpu in p.gpus]
    assert len(gpus) == len(set(gpus)) == wanted.gpus
    assert len(set(placement.ports)) == len(placement.ports) == count_ports(wanted)
    assert len(placement.nodes) == count, "no node is asked for and left empty"
    for instance in placement.instances:
        size = ctx if instance.role == "ctx" else gen
        assert len(instance.nodes) == max(1, size // per_node)
