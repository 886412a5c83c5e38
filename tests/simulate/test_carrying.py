"""A calibration by loads of one model, for another: where it holds, where it is refused, and that it says so."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_deployments.carried import dense_values_unknown
from ratematch.inputs.catalog import load_model
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, EngineRef
from ratematch.plan.model import Model
from ratematch.simulate.calibration import Calibration
from ratematch.simulate.calibrationfile import calibration_to_json, read_calibration
from ratematch.simulate.calibrationpoints import MeasuredSpeed, calibrate_speeds, log_measured_over, speeds_in
from ratematch.simulate.carrying import carry_over
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.store.folder import Results
from tests.cli.test_cli import call

ROOT = Path(__file__).parents[2]
MODELS = ("qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b")


def speeds_of(model: str) -> list[MeasuredSpeed]:
    return speeds_in(Results.open(ROOT / "results" / f"h200-{model}"))


def of_three(model: str) -> Calibration:
    """By the first ctx load and two gen loads."""
    speeds = speeds_of(model)
    ctx, gen = ([each for each in speeds if each.experiment.stage == stage] for stage in ("ctx", "gen"))
    return calibrate_speeds([ctx[0], gen[0], gen[-1]], f"results/h200-{model}")


@pytest.fixture(scope="module")
def small() -> Calibration:
    """Of the smallest model."""
    return of_three("qwen3-4b")


def errors(model: str, steps: str) -> list[float]:
    return [
        abs(
            math.expm1(-log_measured_over(each, forecast_experiment(each.experiment, each.cluster, steps)[each.load]))
        )
        for each in speeds_of(model)
    ]


@pytest.mark.parametrize("model", MODELS[1:])
def test_three_loads_of_one_model_correct_the_others_on_the_same_gpu(model: str) -> None:
    """As if nothing had been learnt from these loads themselves."""
    with dense_values_unknown():
        small = of_three("qwen3-4b")
        carried = carry_over(small, load_model("qwen3-4b"), load_model(model))
        before, after = errors(model, DEFAULT_STEP_TIMES), errors(model, carried.correction.name)
    assert carried.carried_from == "qwen3-4b" and carried.correction.model == model
    assert carried.covariance == small.covariance
    assert np.median(before) > 0.25 and np.median(after) < 0.075 and max(after) < 0.13


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("qwen3-32b", ("MLPs without experts", "grouped-query attention")),
        ("llama-3.3-70b", ("MLPs without experts", "grouped-query attention")),
        ("qwen3-30b-a3b", ("experts", "grouped-query attention")),
        ("deepseek-r1", ("MLA", "experts")),
        ("deepseek-v3.2", ("MLA", "experts", "sparse attention")),
        ("gpt-oss-120b", ("experts", "grouped-query attention", "sliding windows")),
    ],
)
def test_kinds_of_layers(name: str, kinds: tuple[str, ...]) -> None:
    assert load_model(name).layer_kinds == kinds


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-r1", "gemma-4-31b", "qwen3.5-27b", "nemotron-h-56b"])
def test_other_kinds_of_layers_are_refused_in_one_line(small: Calibration, name: str) -> None:
    dense = load_model("qwen3-4b")
    for there, wanted in ((dense, load_model(name)), (load_model(name), dense)):
        with pytest.raises(ValueError, match=f"loads of {there.name} .* say nothing of {wanted.name} ") as refused:
            carry_over(small, there, wanted)
        assert "\n" not in str(refused.value)


def test_the_model_itself_is_no_other(small: Calibration) -> None:
    same: Model = load_model("qwen3-4b")
    assert carry_over(small, same, same) is small


def test_the_verb_carries_says_so_and_the_file_is_for_that_model(tmp_path: Path) -> None:
    sweep = tmp_path / "s.yaml"
    sweep.write_text(
        (ROOT / "sweeps" / "qwen3-8b-vllm.yaml")
        .read_text()
        .replace("cluster: local", "cluster: h200")
        .replace("{name: qwen3-8b, path: Qwen/Qwen3-8B}", "{name: qwen3-32b, precision: bf16}")
    )
    own, carried = tmp_path / "own.json", tmp_path / "carried.json"
    measured = str(ROOT / "results" / "h200-qwen3-8b")
    assert call("calibrate", measured, "-o", str(own)).exit_code == 0
    refused = call("plan", str(sweep), "--predict", "--calibration", str(own))
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1
    assert refused.stderr.endswith("for the same kinds of layers: ratematch calibrate ... --for-model qwen3-32b\n")
    said = call("calibrate", measured, "--for-model", "qwen3-32b", "-o", str(carried))
    assert said.exit_code == 0 and "calibrated for qwen3-32b in bf16 on h200, by loads of qwen3-8b" in said.stdout
    words = read_calibration(carried).in_words()
    assert words.startswith("calibrated for qwen3-32b in bf16 on h200 by 14 loads of ") and ", of qwen3-8b: " in words
    assert call("plan", str(sweep), "--predict", "--calibration", str(carried)).exit_code == 0


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (
            "qwen3-30b-a3b",
            "--for-model: loads of qwen3-8b (MLPs without experts, grouped-query attention) say nothing",
        ),
        ("nobody", "model 'nobody' is not known"),
        ("/no/such/folder", "there is no checkpoint or model file at /no/such/folder"),
    ],
)
def test_a_model_that_nothing_can_be_carried_to_is_one_line(wanted: str, why: str) -> None:
    said = call("calibrate", str(ROOT / "results" / "h200-qwen3-8b"), "--for-model", wanted)
    assert said.exit_code == 1 and why in said.stderr and said.stderr.count("\n") == 1


def test_loads_of_another_engine_are_refused(small: Calibration, tmp_path: Path) -> None:
    assert small.engine == "vllm"
    path = tmp_path / "vllm.json"
    path.write_text(
        json.dumps(calibration_to_json(replace(small, correction=replace(small.correction, gpu="gb200"))))
    )
    said = call("plan", "deepseek-r1", "--predict", "--calibration", str(path))
    assert said.exit_code == 1 and said.stderr.count("\n") == 1
    assert "loads behind it are of vllm, and this sweep is of trtllm" in said.stderr


@pytest.mark.parametrize(
    ("engine", "computing"),
    [
        (EngineRef("trtllm-serve", "1.3"), "trtllm"),
        (EngineRef("dynamo", "1.6.1", "trtllm", "1.3.0rc29"), "trtllm"),
        (EngineRef("dynamo", "1.6.1", "vllm", "0.24"), "vllm"),
        (EngineRef("vllm", "0.24"), "vllm"),
        (EngineRef("triton", "1.2"), "triton"),
    ],
)
def test_whose_kernels_run(engine: EngineRef, computing: str) -> None:
    assert engine.computing == computing
