"""``ratematch compare``: drift by name, exit codes for CI, and what is never compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.analysis.compare import find_drift
from ratematch.cli import main
from ratematch.plan.experiment import from_json
from ratematch.store.folder import Results

SAMPLE = Path(__file__).parents[2] / "results" / "sample"


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, ["compare", *argv], catch_exceptions=False)


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def edit_experiment(file: Path, change: Any) -> None:
    """As a sweep that asks for something else would have written it: in the folder of another id."""
    edit(file, change)
    experiment = from_json(json.loads(file.read_text("utf-8")))
    file.parent.rename(file.parent.with_name(experiment.folder))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A copy of the sample."""
    return Path(shutil.copytree(SAMPLE, tmp_path / "other", ignore=shutil.ignore_patterns("report")))


def test_a_folder_against_itself_has_no_drift_and_exit_0() -> None:
    result = call(str(SAMPLE), str(SAMPLE))
    assert result.exit_code == 0, result.stderr
    assert "the same question, versions and settings in both" in result.stdout and "no regression" in result.stdout


def test_drift_names_versions_limits_settings_and_deployments(other: Path) -> None:
    def newer(content: dict[str, Any]) -> None:
        for server in content["servers"].values():
            server["version"] = "1.3.0+emulated"
        content["running"] = {"gen-0": {"transceiver_runtime": "PYTHON"}}

    for file in other.glob("*/launch/*/provenance.json"):
        edit(file, newer)
    (gen,) = other.glob("gen-*-gen1xDEP4-mtp3-*/experiment.json")
    edit_experiment(gen, lambda content: content["deployment"]["gen"]["options"].update(stream_interval=8))
    edit(other / "limits.json", lambda content: content.update(ttft_ms=500))
    shutil.rmtree(next(other.glob("ifb-*-agg1xTEP4-mtp0-*")))
    drift = {row.what: (row.before, row.after) for row in find_drift(Results.open(SAMPLE), Results.open(other))}
    assert drift == {
        "servers said": ("1.2.0+emulated", "1.3.0+emulated"),
        "servers run": ("", "transceiver_runtime PYTHON"),
        "limits: ttft_ms": ("1000.0", "500"),
        "gen-1024-64-gen1xDEP4-mtp3: gen.options.stream_interval": ("4", "8"),
        "ifb-1024-64-agg1xTEP4-mtp0": ("measured", None),
    }


def test_another_step_time_model_of_the_emulator_is_named(other: Path) -> None:
    for file in sorted(other.glob("*/experiment.json")):
        edit_experiment(file, lambda content: content.update(step_times="kernels"))
    drift = {row.what: (row.before, row.after) for row in find_drift(Results.open(SAMPLE), Results.open(other))}
    assert drift == {"engine asked for": ("trtllm-serve 1.2", "trtllm-serve 1.2, step times: kernels")}


def test_a_slower_sweep_exits_4_with_one_line_and_draws_both_fronts(other: Path, tmp_path: Path) -> None:
    def slow(content: dict[str, Any]) -> None:
        for rate in ("tok_s", "req_s", "in_flight"):
            content[rate] *= 0.85

    for file in other.glob("e2e-*/loads/*/measurement.json"):
        edit(file, slow)
    result = call(str(SAMPLE), str(other), "-o", str(tmp_path / "pictures"), "--json")
    assert result.exit_code == 4
    assert "is worse than" in result.stderr and "Traceback" not in result.stderr
    told = json.loads(result.stdout)
    assert told["regressed"] is True and told["drift"] == []
    (front,) = [f for f in told["fronts"] if f["kind"] == "end_to_end"]
    assert front["ends"][0]["value"] == pytest.approx(0.85)
    assert front["ends"][0]["low"] < 0.85 < front["ends"][0]["high"] < 1
    assert (tmp_path / "pictures" / "compare-1024-64.png").exists()
    assert call(str(SAMPLE), str(other), "--max-regression", "20%").exit_code == 0


def test_emulated_and_real_and_two_models_are_never_compared(other: Path) -> None:
    for file in sorted(other.glob("*/experiment.json")):
        edit_experiment(file, lambda content: content.update(emulated=False))
    result = call(str(SAMPLE), str(other))
    assert result.exit_code == 1 and "such figures are never compared" in result.stderr
    for file in sorted(other.glob("*/experiment.json")):
        edit_experiment(file, lambda content: content.update(emulated=True, model="qwen3-235b-a22b"))
    result = call(str(SAMPLE), str(other))
    assert result.exit_code == 1 and "compare sweeps of one model" in result.stderr


@pytest.mark.parametrize("share", ["much", "-1%", "120%"])
def test_a_share_is_a_share(share: str) -> None:
    result = call(str(SAMPLE), str(SAMPLE), "--max-regression", share)
    assert result.exit_code == 1 and "write a share such as 3%" in result.stderr
