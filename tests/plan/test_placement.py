"""Placement on invented racks: who sits where, and the arithmetic when it does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.errors import PlacementError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.placement import Placement, count_ports, nodes_needed, nodes_on, place
from ratematch.plan.rules import check_placement


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


# ------------------------------------------------------------------------------------------------ over the borders


def compact(nodes: int, per_node: int) -> Cluster:
    return replace(rack(nodes, per_node), packing="compact")


def test_odd_instances_share_nodes_where_the_profile_asks_for_it() -> None:
    """6 on nodes of 4: 4 + 2 and 2 + 4; small ones fill what is left and never straddle."""
    wanted = deployment(2, 1, 6, 3)
    assert nodes_on(wanted, compact(18, 4)) == 5, "3 x 6 + 2 = 20 GPUs"
    placement = place(wanted, compact(18, 4), names(5), 8000)
    assert where(placement) == {
        "gen-0": [("n0", (0, 1, 2, 3)), ("n1", (0, 1))],
        "gen-1": [("n1", (2, 3)), ("n2", (0, 1, 2, 3))],
        "gen-2": [("n3", (0, 1, 2, 3)), ("n4", (0, 1))],
        "ctx-0": [("n4", (2, 3))],
    }
    gens = [instance for instance in placement.instances if instance.role == "gen"]
    assert [(gen.shares, gen.first) for gen in gens] == [((4, 2), 0), ((2, 4), 2), ((4, 2), 0)]
    assert check_placement(placement, 4, "compact") == []
    assert any("straddles nodes with 4 + 2" in problem for problem in check_placement(placement, 4))


@pytest.mark.parametrize(("gpus", "shares"), [(5, (4, 1)), (6, (4, 2)), (7, (4, 3)), (9, (4, 4, 1)), (8, ())])
def test_an_odd_instance_alone_begins_on_a_node_of_its_own(gpus: int, shares: tuple[int, ...]) -> None:
    only = Deployment(agg=ServerGroup("agg", Parallelism(pp=gpus)))
    (instance,) = place(only, compact(18, 4), names(nodes_on(only, compact(18, 4))), 8000).instances
    assert instance.shares == shares and instance.first == 0


@given(
    per_node=st.sampled_from([4, 8]),
    ctx=st.integers(1, 19),
    x=st.integers(1, 6),
    gen=st.integers(1, 19),
    y=st.integers(1, 6),
)
def test_compact_gives_every_gpu_once_in_rows(per_node: int, ctx: int, x: int, gen: int, y: int) -> None:
    wanted = deployment(ctx, x, gen, y)
    cluster = compact(400, per_node)
    count = nodes_on(wanted, cluster)
    assert count <= sum(-(-size // per_node) for size in [ctx] * x + [gen] * y), "never more than apart"
    placement = place(wanted, cluster, names(count), 8000)
    gpus = [(p.node, gpu) for instance in placement.instances for p in instance.places for gpu in p.gpus]
    assert len(gpus) == len(set(gpus)) == wanted.gpus
    assert len(placement.nodes) == count
    assert check_placement(placement, per_node, "compact") == []
    for instance in placement.instances:
        size = ctx if instance.role == "ctx" else gen
        assert len(instance.places) == 1 or size > per_node, "what fits a node sits in one"
        order = [int(node[1:]) for node in instance.nodes]
        assert order == sorted(order), "Slurm numbers nodes so"
        if size <= per_node or size % per_node == 0:
            assert instance.shares == ()
        else:
            assert sum(instance.shares) == size


# ------------------------------------------------------------------------------------------------------ coordinator


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({}, False),
        ({"num_workers": 1}, False),
        ({"num_workers": 2}, True),
        ({"num_workers": 4, "disagg_coordinator_url": None}, True),
        ({"num_workers": 4, "disagg_coordinator_url": "http://n9:7000"}, False),
    ],
)
def test_the_port_before_an_orchestrator_of_several_processes_is_kept_free(keys: dict[str, Any], kept: bool) -> None:
    wanted = replace(deployment(2, 2, 8, 1), orchestrator=keys)
    placement = place(wanted, rack(18, 4), names(3), 8000)
    servers = [instance.port for instance in placement.instances]
    assert placement.orchestrator_port == 8003 + kept
    assert placement.coordinator_port == (8003 if kept else None)
    assert sorted(servers) == [8000, 8001, 8002]
    assert len(set(placement.ports)) == len(placement.ports) == count_ports(wanted) == 4 + kept
    assert check_placement(placement, 4) == []
    if kept:
        clash = replace(placement, coordinator_port=8000)
        assert any("coordinator" in problem for problem in check_placement(clash, 4))


def test_an_aggregated_server_has_no_coordinator() -> None:
    only = Deployment(agg=ServerGroup("agg", Parallelism(tp=8)), orchestrator={"num_workers": 3})
    assert place(only, rack(13, 8), names(1), 8000).ports == (8000,) and count_ports(only) == 1
