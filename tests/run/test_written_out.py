"""Deployments written out in a sweep file, by the commands a person types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.plan.experiment import load_from_json
from ratematch.store.folder import Results
from tests.support.sites import LAPTOP, sweep_inside

TWICE = """\
name: twice
about: One deployment in three entries that differ in their loads only, one of them twice, and another deployment.
model: deepseek-r1
cluster: laptop
workloads:
  - {isl: 64, osl: 8}
deployments:
  - agg: {mapping: TEP4, max_batch_size: 8, max_num_tokens: 2048}
    loads: {concurrency: [1, 4], min_requests: 8, requests_per_slot: 2}
  - agg: {mapping: TEP4, max_batch_size: 8, max_num_tokens: 2048}
    loads: {req_s: 10, seconds: 1, min_requests: 10}
  - agg: {mapping: TEP4, max_batch_size: 4, max_num_tokens: 2048}
    loads: {concurrency: 2, min_requests: 8, requests_per_slot: 2}
  - agg: {mapping: TEP4, max_batch_size: 8, max_num_tokens: 2048}
    loads: {concurrency: [2, 4], min_requests: 8, requests_per_slot: 2}
"""
LOADS = [["c1-n8-w1", "c4-n8-w1", "poisson10-n10-w1", "c2-n8-w1"], ["c2-n8-w1"]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "slurm" / "clusters").mkdir(parents=True)
    (tmp_path / "slurm" / "clusters" / "laptop.yaml").write_text(LAPTOP)
    (tmp_path / "twice.yaml").write_text(TWICE)
    return tmp_path


def test_one_deployment_in_several_entries_is_planned_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    done = CliRunner().invoke(main, ["plan", "twice.yaml", "--json"])
    assert done.exit_code == 0, done.stderr
    experiments = json.loads(done.stdout)["experiments"]
    assert [[load_from_json(load).label for load in each["loads"]] for each in experiments] == LOADS
    assert len({each["id"] for each in experiments}) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "results"), [("simulate", "twice-simulated"), ("local", "twice")])
def test_one_deployment_in_several_entries_is_measured_once_at_all_its_loads(
    site: Path, executor: str, results: str
) -> None:
    code, _, err = sweep_inside(site, "twice.yaml", "--executor", executor)
    assert code in (0, 3), err  # 3: so few requests are no steady load on a busy machine
    folders = Results(site / "results" / results).folders()
    assert all(folder.done() for folder in folders), err
    assert {tuple(sorted(stored.load.label for stored in folder.loads())) for folder in folders} == {
        tuple(sorted(labels)) for labels in LOADS
    }
    assert all(len(list(folder.path.glob("launch/*"))) == 1 for folder in folders), "one start of the servers"
