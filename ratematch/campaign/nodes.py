"""Nodes that failed under our jobs, remembered in the results folder with the reason (``nodes.json``); and those that
``ratematch doctor --certify`` found bad, remembered for the user and the cluster
(``~/.cache/ratematch/nodes/<profile>.json``) until it finds them good again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ratematch.errors import ResultsError
from ratematch.store import layout
from ratematch.store.cachefolder import cache_folder
from ratematch.store.files import read_value, write_json
from ratematch.store.folder import Results
from ratematch.store.private import make_private

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


def certified_file(cluster: str) -> Path | None:
    """Where bad nodes of a profile are kept; ``None`` for a user without a home."""
    folder = cache_folder()
    return None if folder is None else folder.parent / "nodes" / (re.sub(r"[^\w.-]", "_", cluster) + ".json")


def remember_certified(cluster: str, bad: Mapping[str, str], good: Iterable[str]) -> None:
    """Keep the nodes ``bad`` (name to reason) out of further jobs of this user on ``cluster``, and let ``good`` in.

    Raises:
        OSError, ResultsError: it cannot be kept.
    """
    file = certified_file(cluster)
    if file is None:
        return
    let_in = {*good}
    known = {node: why for node, why in bad_nodes(cluster).items() if node not in let_in} | dict(bad)
    if known or file.exists():
        make_private(file.parent.parent)
        make_private(file.parent)
        write_json(file, known)


def bad_nodes(cluster: str) -> dict[str, str]:
    """Nodes of ``cluster`` that a check found bad, with the reason; none where the file cannot be used."""
    file = certified_file(cluster)
    if file is None or not file.exists():
        return {}
    try:
        return read_value(file, lambda content: msgspec.convert(content, dict[str, str]))
    except ResultsError:
        return {}


def excluded_nodes(results: Results, cluster: str | None = None) -> dict[str, str]:
    """Nodes that failed too often, with the reason, and those that a check of ``cluster`` found bad. Delete
    ``nodes.json`` once they are repaired."""
    return (bad_nodes(cluster) if cluster else {}) | {
        node: f"failed {len(failures)} times, last {failures[-1].reason}"
        for node, failures in sorted(read_nodes(results).items())
        if len(failures) >= TOO_OFTEN
    }
