"""Rules that hold before anything is launched, each with its arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.errors import PlacementError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.capacity import KvSettings, find_capacity, why_unfit
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Role, ServerGroup
from ratematch.plan.limits import explain_limits, find_limits, with_limits
from ratematch.plan.load import Concurrency, Rate, most_in_flight
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.placement import Instance, NodeGpus, Placement, nodes_needed, place
from ratematch.plan.rules import check_mapping, check_placement
from ratematch.plan.workload import Workload
from tests.support.invented import experiment

R1, QWEN, LLAMA = load_model("deepseek-r1"), load_model("qwen3-235b-a22b"), load_model("llama-3.3-70b")
GB200 = load_gpu("gb200")
RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18)
FP8 = KvSettings(0.85, "fp8")
DEP8 = Parallelism(tp=8, ep=8, attention_dp=True)


@pytest.mark.parametrize(
    ("model", "mapping", "axis", "why"),
    [
        (R1, Parallelism(tp=4, ep=3), "ep", "ep=3 does not divide tp=4: valid ep are 1, 2, 4"),
        (QWEN, Parallelism(tp=3), "tp", "tp=3 does not divide the 64 attention heads"),
        (LLAMA, Parallelism(tp=4, ep=4), "ep", "ep=4 needs an MoE model"),
        (
            load_model("gpt-oss-120b"),
            Parallelism(tp=3, ep=3, attention_dp=True),
            "ep",
            "does not divide the 128 experts",
        ),
        (R1, Parallelism(tp=1, pp=64), "pp", "pp=64 is more than the 61 layers"),
        (R1, Parallelism(tp=6, attention_dp=True), "tp", "needs 6 GPUs, which are not whole nodes of 4"),
        (R1, Parallelism(tp=16, pp=8), "tp", "needs 128 GPUs, and cluster rack has 18 nodes x 4 = 72"),
    ],
)
def test_a_mapping_that_cannot_be(model: object, mapping: Parallelism, axis: str, why: str) -> None:
    (problem,) = check_mapping(mapping, model, RACK)  # type: ignore[arg-type]
    assert problem.axis == axis and why in problem.reason


# ---------------------------------------------------------------------------------------------------- what is held


def group(role: Role = "gen", mapping: Parallelism = DEP8, **limits: int) -> ServerGroup:
    return replace(ServerGroup(role, mapping, mtp=1, max_batch_size=16, max_num_tokens=32), **limits)  # type: ignore[arg-type]


def test_tokens_of_a_step_limit_the_slots() -> None:
    whole = find_capacity(group(), Workload(1000, 100), R1, GB200, FP8)
    assert whole.requests == 128 and "max_batch_size 16 x 8 ranks = 128 sequence slots" in whole.explanation
    half = find_capacity(group(max_num_tokens=17), Workload(1000, 100), R1, GB200, FP8)
    assert half.requests == 64 and "max_num_tokens 17 / (MTP 1 + 1) = 8 requests a step" in half.explanation
    none = find_capacity(group(max_num_tokens=1), Workload(1000, 100), R1, GB200, FP8)
    assert none.requests == 0 and "MTP 1 + 1 tokens a step" in none.explanation


def test_lengths_against_max_seq_len_and_the_model() -> None:
    wanted = Workload(1000, 100)
    assert find_capacity(group(), wanted, R1, GB200, replace(FP8, max_seq_len=1100)).requests > 0
    short = find_capacity(group(), wanted, R1, GB200, replace(FP8, max_seq_len=1099))
    assert (
        short.requests == 0 and "ISL 1000 + OSL 100 = 1100 tokens are more than max_seq_len 1099" in short.explanation
    )
    ctx = group("ctx", max_num_tokens=8192)
    assert find_capacity(ctx, wanted, R1, GB200, replace(FP8, max_seq_len=1001)).requests > 0, "one token there"
    assert find_capacity(ctx, wanted, R1, GB200, replace(FP8, max_seq_len=1000)).requests == 0
    far = find_capacity(group(), Workload(163_800, 100), R1, GB200, FP8)
    assert far.requests == 0 and "163840 that deepseek-r1 was made for" in far.explanation


def test_a_deployment_that_nothing_thins_out() -> None:
    pair = Deployment(ctx=group("ctx", max_num_tokens=8192), gen=group())
    wanted = experiment("e2e", pair, Workload(1000, 100), (Concurrency(500, 1000),))
    assert why_unfit(wanted, R1, GB200, lambda group: FP8) == [], "more in flight than slots only wait, end to end"
    (why,) = why_unfit(replace(wanted, stage="gen"), R1, GB200, lambda group: FP8)
    assert "waits for 500 / 1 servers = 500 requests before its first step, and holds 128" in why, "gen_only"
    two = replace(pair, gen=replace(group(), instances=2))
    fed = replace(wanted, stage="gen", deployment=two, loads=(Concurrency(256, 1000),))
    assert why_unfit(fed, R1, GB200, lambda group: FP8) == [], "each has its share"
    alone = replace(wanted, deployment=replace(pair, gen=group(mapping=Parallelism(tp=1))))
    (why,) = why_unfit(alone, R1, GB200, lambda group: FP8)
    assert why.startswith("gen TP1: ") and "198.0 GB" in why
    (why, _) = why_unfit(wanted, R1, GB200, lambda group: KvSettings(0.8, "fp3"))
    assert "fp3" in why, "a format nobody knows is a message, not a crash"


# ---------------------------------------------------------------------------------------------------- limits


def test_the_largest_closed_load_counts_for_one_instance() -> None:
    assert most_in_flight((Concurrency(10, 1), Concurrency(7, 1)), 3) == 4
    assert most_in_flight((Rate(1.0, 10),), 2) == 128
    assert most_in_flight((Concurrency(1, 1),), 8) == 1


@given(
    role=st.sampled_from(["ctx", "gen", "agg"]),
    tp=st.sampled_from([1, 4, 8]),
    adp=st.booleans(),
    mtp=st.integers(0, 3),
    isl=st.integers(1, 50_000),
    in_flight=st.integers(1, 5000),
)
def test_derived_limits_hold_what_they_are_for(
    role: Role, tp: int, adp: bool, mtp: int, isl: int, in_flight: int
) -> None:
    server = ServerGroup(role, Parallelism(tp=tp, ep=tp, attention_dp=adp), mtp=mtp)
    filled = with_limits(server, Workload(isl, 10), in_flight)
    batch, tokens = filled.max_batch_size, filled.max_num_tokens
    assert batch is not None and tokens is not None
    if role == "ctx":
        assert tokens >= isl + mtp + 1 and batch == max(1, tokens // isl)
    else:
        assert batch * server.mapping.dp_ranks >= in_flight
        assert tokens >= batch * (mtp + 1) + (isl if role == "agg" else 0)
    assert with_limits(filled, Workload(isl, 10), in_flight) == filled, "filled in once is filled in"
    again = explain_limits(filled, Workload(isl, 10), in_flight)
    assert again == find_limits(server, Workload(isl, 10), in_flight), "derived ones are told as such"


# ---------------------------------------------------------------------------------------------------- placement


def instance(index: int, port: int, *places: tuple[str, tuple[int, ...]]) -> Instance:
    return Instance("gen", index, tuple(NodeGpus(node, gpus) for node, gpus in places), places[0][0], port)


@pytest.mark.parametrize(
    ("instances", "why"),
    [
        (
            (instance(0, 1, ("a", (0, 1))), instance(1, 2, ("a", (1, 2)))),
            "GPU 1 of a cannot be gen-1's: it is gen-0's",
        ),
        ((instance(0, 1, ("a", (0, 4))),), "GPU 4 of a"),
        ((instance(0, 1, ("a", (0,))), instance(1, 1, ("a", (1,)))), "port 1 on a is given to gen-0 and to gen-1"),
        ((instance(0, 9, ("a", (0,))),), "port 9 on a is given to gen-0 and to orchestrator"),
        ((instance(0, 1, ("a", (0, 1, 2, 3)), ("b", (0, 1))),), "straddles nodes with 4 + 2 GPUs"),
    ],
)
def test_a_placement_that_gives_something_out_twice(instances: tuple[Instance, ...], why: str) -> None:
    assert any(why in problem for problem in check_placement(Placement(instances, "a", 9), 4))


@given(
    sizes=st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=6),
    per_node=st.sampled_from([1, 4, 8]),
)
def test_every_placement_made_is_sound(sizes: list[int], per_node: int) -> None:
    groups = {"ctx": sizes[0], "gen": sizes[-1]}
    deployment = Deployment(
        **{role: ServerGroup(role, Parallelism(tp=tp), len(sizes)) for role, tp in groups.items()}  # type: ignore[arg-type]
    )
    cluster = replace(RACK, gpus_per_node=per_node, nodes=400)
    nodes = [f"n{k}" for k in range(nodes_needed(deployment, per_node))]
    try:
        placement = place(deployment, cluster, nodes, 8000)
    except PlacementError:
        assert any(size > per_node and size % per_node for size in groups.values())
        return
    assert check_placement(placement, per_node) == []


def test_an_aggregated_server_with_chunked_prefill_has_a_chunk_beside_its_decodes() -> None:
    """As whole configuration too; a limit that is given stays, and other roles know no chunks."""
    mapping, workload = Parallelism(tp=8, ep=8, attention_dp=True), Workload(8192, 1024)
    chunked = {"enable_chunked_prefill": True}
    group = ServerGroup("agg", mapping, mtp=3, options=chunked)
    for server in (group, replace(group, options={}, config=chunked)):
        filled = with_limits(server, workload, 512)
        assert (filled.max_batch_size, filled.max_num_tokens) == (64, 2048 + 64 * 4)
        assert "chunked prefill" in explain_limits(filled, workload, 512)[1].why
    given = with_limits(replace(group, max_num_tokens=4096), workload, 512)
    assert given.max_num_tokens == 4096
    whole = with_limits(replace(group, options={"enable_chunked_prefill": False}), workload, 512)
    assert whole.max_num_tokens == 8192 + 64 * 4
    assert with_limits(replace(group, role="ctx"), workload, 512).max_num_tokens == 8256
