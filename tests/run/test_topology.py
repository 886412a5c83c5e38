"""Blocks of a cluster: read, ordered by, and what becomes of ``--segment``."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.campaign.jobs.executor import Executor
from ratematch.campaign.jobs.slurm import JobPacking
from ratematch.plan.cluster import Cluster, Slurm
from ratematch.plan.deployment import Deployment
from ratematch.plan.parallelism import Parallelism
from ratematch.run.script import BY_BLOCK
from ratematch.slurm import allocation, topology
from ratematch.slurm.topology import Block, expand_nodes, judge_segment, order_by_block, read_blocks, warn_of_segments
from tests.run.test_site import stand_in
from tests.support.examples import examples
from tests.support.invented import experiment, group

TWO = """\
BlockName=b1 BlockIndex=0 Nodes=node[1,3] BlockSize=2
BlockName=b2 BlockIndex=1 Nodes=node[2,4] BlockSize=2
AggregatedBlock=b1,b2 BlockIndex=2 Nodes=node[1-4] BlockSize=4
"""


def test_blocks_are_read_and_nodes_of_a_block_stand_side_by_side() -> None:
    blocks = read_blocks(TWO)
    assert blocks == (Block("b1", ("node1", "node3"), 2), Block("b2", ("node2", "node4"), 2))
    assert order_by_block(("node1", "node2", "node3", "node4"), blocks) == ("node1", "node3", "node2", "node4")
    assert order_by_block(("node2", "node3", "node4"), blocks) == ("node2", "node4", "node3")
    assert order_by_block(("a", "node2", "b", "node4"), blocks) == ("a", "node2", "node4", "b"), "some are in none"
    for other in ("", "SwitchName=s1 Level=0 LinkSpeed=1 Nodes=node[1-4]", "No topology information available"):
        assert read_blocks(other) == () and order_by_block(("n2", "n1"), read_blocks(other)) == ("n2", "n1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("gb[01-03,7],login1", ["gb01", "gb02", "gb03", "gb7", "login1"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("a-b[1]-ib.site,c", ["a-b1-ib.site", "c"]),
        ("(null)", []),
        ("n[1-999999999]", []),
    ],
)
def test_lists_of_nodes(text: str, names: list[str]) -> None:
    assert list(expand_nodes(text)) == names


@given(st.lists(st.sampled_from([f"n{k}" for k in range(9)]), unique=True), st.permutations(range(9)))
@settings(max_examples=examples(60), deadline=None)
def test_ordering_keeps_all_nodes_and_makes_blocks_whole(nodes: list[str], mixed: list[int]) -> None:
    blocks = [Block(str(at), tuple(f"n{k}" for k in mixed[at : at + 3])) for at in (0, 3)]
    ordered = order_by_block(nodes, blocks)
    assert sorted(ordered) == sorted(nodes)
    for block in blocks:
        places = [at for at, node in enumerate(ordered) if node in block.nodes]
        assert not places or places[-1] - places[0] == len(places) - 1
    assert order_by_block(ordered, blocks) == ordered and order_by_block(nodes, ()) == tuple(nodes)


def say(monkeypatch: pytest.MonkeyPatch, config: str | None, blocks: str = "") -> None:
    """What ``scontrol show config`` and ``show topology`` print."""
    answers = {"config": config, "topology": blocks}
    monkeypatch.setattr(topology, "ask_slurm", lambda argv: answers[argv[2]])


@pytest.mark.parametrize(
    ("config", "blocks", "segment", "ok", "said"),
    [
        ("TopologyPlugin          = topology/block", TWO, 2, True, "2 nodes in one domain, blocks of 2"),
        (
            "TopologyPlugin          = topology/block",
            TWO,
            3,
            False,
            "blocks have 2 nodes: a segment of 3 reaches over",
        ),
        ("TopologyPlugin          = topology/block", "", 4, True, "4 nodes in one domain"),
        ("A = b\nTopologyPlugin = topology/flat\n", "", 4, False, "topology/flat, which ignores --segment"),
        ("TopologyPlugin = topology/tree", "", 4, False, "topology/tree, which ignores --segment"),
        ("TopologyPlugin = topology/default", "", 4, False, "topology/default, which ignores"),
        (None, "", 4, True, "Slurm does not say"),
    ],
)
def test_a_segment_that_slurm_ignores_or_spreads_is_named(
    monkeypatch: pytest.MonkeyPatch, config: str | None, blocks: str, segment: int, ok: bool, said: str
) -> None:
    say(monkeypatch, config, blocks)
    finding = judge_segment(segment)
    assert finding.ok == ok and said in finding.found and "\n" not in finding.found


RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18, slurm=Slurm(segment=4))


@pytest.mark.parametrize(
    ("instances", "tp", "nodes", "split"),
    [
        (2, 16, 8, False),
        (1, 20, 5, True),
        (5, 8, 10, False),
        (2, 20, 10, True),
        (7, 4, 7, False),
        (6, 8, 12, False),
        (3, 12, 9, False),
    ],
)
def test_a_server_over_two_segments_is_named(instances: int, tp: int, nodes: int, split: bool) -> None:
    deployment = Deployment(agg=group("agg", Parallelism(tp=tp), instances))
    warnings = warn_of_segments(RACK, [deployment, deployment])
    assert len(warnings) == split
    if split:
        assert f"a job of {nodes} nodes" in warnings[0] and "slurm.segment: 4" in warnings[0]
    assert warn_of_segments(replace(RACK, slurm=Slurm()), [deployment]) == []


def test_a_sweep_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "TopologyPlugin = topology/flat")
    wide = [experiment("ifb", Deployment(agg=group("agg", Parallelism(tp=20))))]
    ignored, split = Executor("slurm").warnings(RACK, wide)
    assert "ignores --segment" in ignored and "may reach over two NVLink domains" in split
    (_, packed) = Executor("slurm", packing=JobPacking(10, 60.0)).warnings(RACK, wide)
    assert "nodes of a pack are given out by time" in packed
    assert Executor("allocation").warnings(RACK, wide) == []


def test_a_driver_takes_its_nodes_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "printf 'node1\\nnode2\\nnode3\\nnode4\\n'"
    stand_in(tmp_path, "scontrol", f"case $2 in hostnames) {listed};; *) echo '{TWO}';; esac")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-4]")
    assert allocation.own_nodes() == ("node1", "node3", "node2", "node4")


def test_a_rendered_script_takes_its_nodes_in_the_same_order(tmp_path: Path) -> None:
    lists = ("node[1-4],other", "node[1,3]", "node[2,4]", "node[1-4]")
    known = "".join(f"'{text}') printf '%s\\n' {' '.join(expand_nodes(text))};;" for text in lists)
    stand_in(tmp_path, "scontrol", f'case $2 in topology) echo "{TWO}";; *) case $3 in {known} esac;; esac')
    script = f'mapfile -t NODES < <(scontrol show hostnames "node[1-4],other")\n{BY_BLOCK}\necho "${{NODES[@]}}"'
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    names = ("node1", "node2", "node3", "node4", "other")
    assert tuple(done.stdout.split()) == order_by_block(names, read_blocks(TWO)), done.stderr
    stand_in(tmp_path, "scontrol", "case $2 in topology) exit 1;; *) printf 'n2\\nn1\\n';; esac")
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["n2", "n1"]
