"""Every stored file of the sample and of the folders that were written first: read as a value, written as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratematch.measure import loadrun, measurement
from ratematch.plan import cluster, experiment
from ratematch.store import layout, outcome, progress, provenance, sweeprun
from ratematch.store.files import to_text

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "results" / "sample", ROOT / "tests" / "golden" / "results_v1")

Rewrite = Callable[[dict[str, Any]], dict[str, Any]]


def _load_run(content: dict[str, Any]) -> dict[str, Any]:
    """The load beside the run is the plan's; a load that was cut short has none."""
    load = {"load": content["load"]} if "load" in content else {}
    return load | loadrun.to_json(loadrun.from_json(content))


def _progress(content: dict[str, Any]) -> dict[str, Any]:
    value = progress.from_json(content)
    assert value is not None
    return progress.to_json(value)


SAME: dict[str, tuple[Rewrite, int]] = {
    layout.LOADRUN: (_load_run, 84),
    layout.OUTCOME: (lambda content: outcome.to_json(outcome.from_json(content)), 30),
    layout.PROVENANCE: (lambda content: provenance.to_json(provenance.from_json(content)), 29),
    layout.PROGRESS: (_progress, 11),
    layout.LIMITS: (lambda content: sweeprun.to_json(sweeprun.limits_from_json(content)), 4),
    layout.CONTROLLER: (lambda content: sweeprun.to_json(sweeprun.plan_from_json(content)), 2),
}
LONGER: dict[str, tuple[Rewrite, int]] = {
    layout.MEASUREMENT: (lambda content: measurement.to_json(measurement.from_json(content)), 83),
    layout.EXPERIMENT: (lambda content: experiment.to_json(experiment.from_json(content)), 31),
    layout.CLUSTER: (lambda content: cluster.to_json(cluster.from_json(content)), 31),
}


def files(name: str) -> list[Path]:
    return [file for folder in FOLDERS for file in sorted(folder.rglob(name))]


def limited_to(written: Any, stored: Any) -> Any:
    """``written`` without the keys that ``stored`` does not have, at any depth."""
    if isinstance(written, dict) and isinstance(stored, dict):
        return {key: limited_to(value, stored[key]) for key, value in written.items() if key in stored}
    if isinstance(written, list) and isinstance(stored, list) and len(written) == len(stored):
        return [limited_to(*pair) for pair in zip(written, stored, strict=True)]
    return written


@pytest.mark.parametrize("name", SAME)
def test_a_file_is_written_as_it_was_read(name: str) -> None:
    rewrite, count = SAME[name]
    assert len(files(name)) == count
    for file in files(name):
        assert to_text(rewrite(json.loads(file.read_text()))) == file.read_text(), file


@pytest.mark.parametrize("name", LONGER)
def test_what_was_stored_comes_back_beside_keys_that_came_later(name: str) -> None:
    rewrite, count = LONGER[name]
    assert len(files(name)) == count
    for file in files(name):
        content = json.loads(file.read_text())
        assert limited_to(json.loads(to_text(rewrite(content))), content) == content, file
