"""``search: adaptive`` in a whole sweep: every choice and skip on record, and the same ones after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ratematch.store.folder import Results
from tests.support.processes import wait_until
from tests.support.sites import make_site, ratematch, read, sweep_inside

pytestmark = pytest.mark.slow

SWEEP = """\
name: adaptive
about: A small space searched by expected gain.
model: deepseek-r1
cluster: laptop
workloads:
  - {isl: 1024, osl: 32}
constraints: {ttft_ms: 2000}
budget: {max_gpus: 16}
search: adaptive
ctx:
  axes: {mapping: [DEP4, TEP4], mtp: [0, 1]}
  loads: {concurrency: [1, 4, 8], min_requests: 24, requests_per_slot: 6}
gen:
  axes: {mapping: [TEP4, DEP4, TEP8], mtp: [0, 1]}
  loads: {concurrency: [1, 4, 16, 64], min_requests: 16, requests_per_slot: 5}
ifb:
  axes: {mapping: [TEP4, DEP4], mtp: [1]}
  loads: {concurrency: [1, 8, 32], min_requests: 16, requests_per_slot: 5}
e2e:
  deployments: 1
  loads: {around: [1.0], min_requests: 24, requests_per_slot: 5}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path, adaptive=SWEEP)


def search(results: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / "search.json").read_text())
    return content


def choices(results: Path) -> list[dict[str, Any]]:
    file = results / "choice.json"
    return list(json.loads(file.read_text())) if file.exists() else []


def test_a_killed_search_resumes_to_the_same_decisions(site: Path) -> None:
    argv = ("adaptive.yaml", "--executor", "simulate", "--max-jobs", "1", "--max-gpu-hours", "40")
    code, out, err = sweep_inside(site, *argv, "-o", "whole", "--json")
    assert code == 0, err
    whole = search(site / "whole")
    assert len(whole["decisions"]) >= 3
    assert whole["decisions"][0]["label"].startswith("ctx")
    assert all(decision["why"] for decision in whole["decisions"])
    assert whole["ended"]
    decided = {decision["experiment"] for decision in whole["decisions"]}
    assert decided | {skip["experiment"] for skip in whole["skips"]} >= {
        folder.read().id for folder in Results(site / "whole").folders() if folder.read().stage in ("ctx", "gen")
    }
    assert any("GPU-hours" in skip["why"] or "front" in skip["why"] for skip in whole["skips"])
    measured = sum(len(folder.loads()) for folder in Results(site / "whole").folders())
    assert measured < 4 * 3 + 6 * 4 + 2 * 3  # fewer loads than the grid of ctx, gen and ifb alone
    assert {item["stage"] for item in json.loads(out)["experiments"]} == {"ctx", "gen", "ifb", "e2e"}
    # An end-to-end run that brings more per GPU-hour than the next server does not wait for it.
    (chosen,) = choices(site / "whole")
    assert 1 < chosen["after"] < len(whole["decisions"])
    assert chosen["chance_on_front"] > 0.5

    process = ratematch(site, "sweep", *argv, "-o", "killed")
    killed = site / "killed"
    wait_until(lambda: choices(killed), "an end-to-end run to be chosen", 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(folder.held() for folder in Results(killed).folders()), "its jobs to end", 30)
    assert sweep_inside(site, *argv, "-o", "killed")[0] == 0
    assert search(killed)["decisions"] == whole["decisions"]
    assert search(killed)["skips"] == whole["skips"]
    assert choices(killed) == choices(site / "whole")
    code, out, err = read(site, "status", "killed")
    assert code == 0, err
    assert "end-to-end runs chosen" in out and f"after choice {chosen['after']}" in out


def test_the_budget_is_kept(site: Path) -> None:
    code, _, err = sweep_inside(site, "adaptive.yaml", "--executor", "simulate", "--max-gpu-hours", "12")
    assert code in (0, 2), err
    results = site / "results" / "adaptive-simulated"
    spent = sum(folder.gpu_hours() for folder in Results(results).folders())
    assert spent <= 12
    assert any("are left" in skip["why"] for skip in search(results)["skips"])
