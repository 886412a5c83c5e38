"""``search: adaptive`` against servers that are processes: one that is up is asked for further loads."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from ratematch.store.folder import Results
from tests.support.sites import alive, make_site, sweep_inside

pytestmark = pytest.mark.slow

SWEEP = """\
name: searched
about: One server a stage, whose loads are decided one by one.
model: deepseek-r1
cluster: laptop
workloads:
  - {isl: 256, osl: 12}
budget: {max_gpus: 8}
search: adaptive
ctx:
  axes: {mapping: DEP4}
  loads: {concurrency: [1, 4], min_requests: 24, requests_per_slot: 6}
gen:
  axes: {mapping: TEP4}
  loads: {concurrency: [1, 4, 16], min_requests: 12, requests_per_slot: 6}
"""


def test_a_server_that_is_up_is_asked_for_further_loads_and_started_once(tmp_path: Path) -> None:
    make_site(tmp_path, searched=SWEEP)
    code, _, err = sweep_inside(tmp_path, "searched.yaml", "--max-jobs", "1")
    assert code == 0, err
    assert alive(tmp_path) == []

    results = Results(tmp_path / "results" / "searched")
    decisions = json.loads((results.path / "search.json").read_text())["decisions"]
    (gen,) = [folder for folder in results.folders() if folder.read().stage == "gen"]
    mine = [each for each in decisions if each["experiment"] == gen.read().id]
    assert [each["start"] for each in mine] == [True] + [False] * (len(mine) - 1)
    assert len(mine) > 1
    # One start of its servers, and every load that was decided on was measured by it.
    assert len(list(gen.path.glob("launch/*"))) == 1
    assert len(gen.loads()) == len(mine)
    assert not gen.missing() and gen.done()
    # Each further load was decided on when those before it were known.
    for before, each in pairwise(mine):
        assert before["number"] in each["knew"]
