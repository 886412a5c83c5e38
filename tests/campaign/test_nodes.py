"""Nodes that failed under jobs: kept with the results, and no longer asked for when they fail too often."""

from __future__ import annotations

import json
from pathlib import Path

from ratematch.campaign.nodes import TOO_OFTEN, excluded_nodes, read_nodes, remember_nodes
from ratematch.store.folder import Results


def test_a_node_that_fails_too_often_is_excluded_with_its_last_reason(tmp_path: Path) -> None:
    results = Results(tmp_path)
    remember_nodes(results, {}, "gen")
    assert read_nodes(results) == {} and not (tmp_path / "nodes.json").exists()
    for number in range(TOO_OFTEN):
        assert excluded_nodes(results) == {}
        remember_nodes(results, {"node7": f"reason {number}"}, "gen")
    assert excluded_nodes(results) == {"node7": f"failed {TOO_OFTEN} times, last reason {TOO_OFTEN - 1}"}
    (first, *_) = json.loads((tmp_path / "nodes.json").read_text())["node7"]
    assert set(first) == {"time", "reason", "experiment"} and first["experiment"] == "gen"
