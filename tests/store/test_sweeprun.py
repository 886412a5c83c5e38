"""What the store keeps of a sweep and of where its figures come from, as values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.errors import ResultsError
from ratematch.plan.load import Constraints
from ratematch.store import provenance
from ratematch.store.files import write_json
from ratematch.store.folder import Results
from ratematch.store.provenance import Provenance, ServerVersion
from ratematch.store.sweeprun import ControllerPlan, SweepLimits


def test_limits_come_back_and_their_absence_is_explained(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with pytest.raises(ResultsError, match=r"limits\.json: no such file or directory; `ratematch verify`"):
        results.limits()
    constraints = Constraints(1000.0, None, 95)
    results.write_limits(SweepLimits.of("mini", constraints, 72))
    assert results.limits() == SweepLimits("mini", 72, 1000.0, None, 95)
    assert results.limits().constraints == constraints
    results.write_limits(SweepLimits.of("mini", replace(constraints, ttft_of="deployment"), 72))
    assert results.limits().constraints.ttft_of == "deployment"
    write_json(tmp_path / "limits.json", {"name": "mini"})
    with pytest.raises(ResultsError, match=r"limits\.json: not what this version writes there \(.*max_gpus"):
        results.limits()


def test_a_second_sweep_into_a_folder_keeps_the_file_of_the_first(tmp_path: Path) -> None:
    results, limits = Results(tmp_path), [SweepLimits.of(name, Constraints(), 8) for name in ("first", "second")]
    results.write_sweep("name: first\n", limits[0])
    results.write_sweep("name: first\n", limits[0])
    assert not (tmp_path / "replaced").exists(), "a sweep that goes on is no second one"
    results.write_sweep("name: second\n", limits[1])
    results.write_sweep("name: third\n", limits[1])
    kept = {file.name: file.read_text() for file in (tmp_path / "replaced").iterdir()}
    assert (kept["sweep.1.yaml"], kept["sweep.2.yaml"]) == ("name: first\n", "name: second\n")
    assert [json.loads(kept[f"limits.{number}.json"])["name"] for number in (1, 2)] == ["first", "second"]
    assert (tmp_path / "sweep.yaml").read_text() == "name: third\n" and results.folders() == []


def test_the_plan_of_a_controller_comes_back(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert results.controller_plan() is None
    plan = ControllerPlan(5.0, "slurm", 12.0, None, 30.0)
    results.write_controller_plan(plan)
    assert results.controller_plan() == plan
    assert set(json.loads((tmp_path / "controller.json").read_text())) == {
        "began",
        "executor",
        "budget_gpu_hours",
        "expected_gpu_hours",
        "expected_minutes",
    }


def test_a_simulation_has_no_machine() -> None:
    content = {
        "ratematch": "1.0",
        "python": "3.11.7",
        "simulated": True,
        "step_time": "roofline",
        "servers": {"gen-0": {"version": "1.2", "emulated": True}},
    }
    value = provenance.from_json(content)
    servers = {"gen-0": ServerVersion("1.2", emulated=True)}
    assert value == Provenance("1.0", python="3.11.7", simulated=True, step_time="roofline", servers=servers)
    assert provenance.to_json(value) == content
