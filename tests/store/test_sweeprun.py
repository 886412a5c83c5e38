"""What the store keeps of a sweep and of where its figures come from, as values."""

from __future__ import annotations

import json
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
    write_json(tmp_path / "limits.json", {"name": "mini"})
    with pytest.raises(ResultsError, match=r"limits\.json: not what this version writes there \(.*max_gpus"):
        results.limits()


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
