"""Nodes that failed under our jobs, remembered in the results folder with the reason (``nodes.json``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from ratematch.store import layout
from ratematch.store.files import read_value, write_json
from ratematch.store.folder import Results

TOO_OFTEN = 2
"""Failures after which a node is no longer asked for in this sweep."""


@dataclass(frozen=True)
class NodeFailure:
    """One failure of a node: when (seconds since the epoch), the scheduler's reason, and the label of the experiment
    that ran on it."""

    time: float
    reason: str
    experiment: str


def remember_nodes(results: Results, broken: Mapping[str, str], experiment: str) -> None:
    """Write that each of the nodes ``broken`` (name to reason) failed under ``experiment`` (label)."""
    if not broken:
        return
    known = read_nodes(results)
    for node, reason in broken.items():
        known.setdefault(node, []).append(NodeFailure(time.time(), reason, experiment))
    content = {node: [asdict(failure) for failure in failures] for node, failures in known.items()}
    write_json(results.path / layout.NODES, content)


def read_nodes(results: Results) -> dict[str, list[NodeFailure]]:
    """All failures by node."""
    file = results.path / layout.NODES
    return read_value(file, _from_json) if file.exists() else {}


def _from_json(content: Any) -> dict[str, list[NodeFailure]]:
    return msgspec.convert(content, dict[str, list[NodeFailure]])


def excluded_nodes(results: Results) -> dict[str, str]:
    """Nodes that failed too often, with the reason. Delete ``nodes.json`` once they are repaired."""
    return {
        node: f"failed {len(failures)} times, last {failures[-1].reason}"
        for node, failures in sorted(read_nodes(results).items())
        if len(failures) >= TOO_OFTEN
    }
