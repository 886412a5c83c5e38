"""How a cluster's nodes hang together, as far as Slurm says it: blocks, and what becomes of ``--segment``.

``--segment`` keeps nodes of a job in one block (an NVLink domain), and only the plugin ``topology/block`` knows
blocks: with any other Slurm takes the option and ignores it. Within a job Slurm lists nodes by their names, whatever
their blocks are, so they are put in the order of blocks here before servers get them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ratematch.errors import PlacementError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.finding import Finding
from ratematch.plan.placement import FIRST_PORT, nodes_on, place
from ratematch.slurm.queue import ask_slurm
from ratematch.slurm.sbatch import segment_size

BLOCKS = "topology/block"

MOST_NODES = 100_000
"""A list of nodes that stands for more is none of a cluster."""


@dataclass(frozen=True)
class Block:
    """``nodes``: by name, as Slurm lists them. ``size``: nodes that it plans with, ``None`` where it does not say."""

    name: str
    nodes: tuple[str, ...]
    size: int | None = None


def read_blocks(topology: str) -> tuple[Block, ...]:
    """The blocks of ``scontrol show topology``, in its order; none where the topology has none.

    Blocks of blocks (``AggregatedBlock=``) are left out.
    """
    blocks = []
    for line in topology.splitlines():
        if match := re.search(r"(?:^|\s)BlockName=(\S+)", line):
            nodes, size = re.search(r"\sNodes=(\S+)", line), re.search(r"\sBlockSize=(\d+)", line)
            blocks.append(Block(match[1], expand_nodes(nodes[1]) if nodes else (), int(size[1]) if size else None))
    return tuple(blocks)


def expand_nodes(text: str) -> tuple[str, ...]:
    """The names that a list of nodes stands for: ``gb[01-03,7],login1`` and ``r[1-2]n[1-2]``; empty for ``(null)``.

    A list that cannot be read, or is longer than any cluster, is empty.
    """
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text.strip()):
        for name in _expand(part):
            if len(names) >= MOST_NODES:
                return ()
            names.append(name)
    return tuple(names) if re.fullmatch(r"[\w.,\-\[\]]*", text.strip()) else ()


def _expand(part: str) -> Iterator[str]:
    match = re.fullmatch(r"([^\[]*)\[([\d,\-]+)\](.*)", part)
    if match is None:
        yield part
        return
    begin, ranges, rest = match.groups()
    for numbers in ranges.split(","):
        low, _, high = numbers.partition("-")
        if low.isdigit() and (high or low).isdigit():
            for number in range(int(low), int(high or low) + 1):
                yield from _expand(f"{begin}{number:0{len(low)}d}{rest}")


def order_by_block(nodes: Sequence[str], blocks: Sequence[Block]) -> tuple[str, ...]:
    """``nodes`` with those of a block beside each other; otherwise, and without blocks, as they are."""
    block_of = {node: index for index, block in enumerate(blocks) for node in block.nodes}
    first: dict[int, int] = {}
    for position, node in enumerate(nodes):
        first.setdefault(block_of.get(node, -1 - position), position)
    positions = {node: first[block_of.get(node, -1 - position)] for position, node in enumerate(nodes)}
    return tuple(sorted(nodes, key=lambda node: positions[node]))


def known_blocks() -> tuple[Block, ...]:
    """The blocks of this cluster; none where it has none, or Slurm does not answer."""
    return read_blocks(ask_slurm(["scontrol", "show", "topology"]) or "")


def judge_segment(segment: int) -> Finding:
    """Does Slurm keep ``segment`` nodes in one domain when it is asked to?"""
    name, wanted = "segment", f"{segment} nodes in one domain"
    match = re.search(r"^TopologyPlugin\s*=\s*(\S+)", ask_slurm(["scontrol", "show", "config"]) or "", re.MULTILINE)
    if match is None:
        return Finding(name, True, f"{wanted}: taken; Slurm does not say of which topology its nodes are")
    if match[1] != BLOCKS:
        why = f"Slurm's topology is {match[1]}, which ignores --segment: servers may reach over two domains"
        return Finding(name, False, f"{why}; remove slurm.segment, or have the site set {BLOCKS}")
    sizes = [block.size or len(block.nodes) for block in known_blocks()]
    if sizes and min(sizes) < segment:
        why = f"blocks have {min(sizes)} nodes: a segment of {segment} reaches over two of them"
        return Finding(name, False, f"{why}; set slurm.segment: {min(sizes)}")
    return Finding(name, True, f"{wanted}, blocks of {min(sizes)}" if sizes else wanted)


def warn_of_segments(cluster: Cluster, deployments: Iterable[Deployment]) -> list[str]:
    """Which servers sit on nodes of two segments: of a job whose number of nodes has no fitting divisor, or because
    of what else is placed there. A line each; none where nothing is asked for."""
    if (domain := cluster.slurm.segment) is None:
        return []
    warnings: dict[str, None] = {}
    for deployment in deployments:
        nodes = nodes_on(deployment, cluster)
        size, names = segment_size(nodes, domain), [str(index) for index in range(nodes)]
        try:
            placement = place(deployment, cluster, names, FIRST_PORT)
        except PlacementError:
            continue  # refused elsewhere
        split = [instance for instance in placement.instances if len({int(at) // size for at in instance.nodes}) > 1]
        if split:
            warnings[
                f"{deployment.label}: {split[0].name} has {len(split[0].nodes)} nodes, and a job of {nodes} nodes is "
                f"asked for in segments of {size} (slurm.segment: {domain}): it may reach over two NVLink domains"
            ] = None
    return list(warnings)
