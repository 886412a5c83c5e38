"""Nodes that failed under our jobs, remembered in the results folder with the reason (``nodes.json``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ratematch.store.files import read_json, write_json
from ratematch.store.folder import Results

TOO_OFTEN = 2
"""Failures after which a node is no longer asked for in this sweep."""


def remember_nodes(results: Results, broken: Mapping[str, str], experiment: str) -> None:
    """Take down that each of the nodes ``broken`` (name to reason) failed under ``experiment``."""
    if not broken:
        return
    known = read_nodes(results)
    for node, reason in broken.items():
        known.setdefault(node, []).append({"time": time.time(), "reason": reason, "experiment": experiment})
    write_json(results.path / "nodes.json", known)


def read_nodes(results: Results) -> dict[str, list[dict[str, Any]]]:
    """All failures by node."""
    file = results.path / "nodes.json"
    return dict(read_json(file)) if file.exists() else {}


def excluded_nodes(results: Results) -> dict[str, str]:
    """Nodes that failed too often, with the reason. Delete ``nodes.json`` once they are repaired."""
    return {
        node: f"failed {len(failures)} times, last {failures[-1]['reason']}"
        for node, failures in sorted(read_nodes(results).items())
        if len(failures) >= TOO_OFTEN
    }
