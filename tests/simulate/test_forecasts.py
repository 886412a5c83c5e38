"""Forecasts against the simulation they stand for, and predictions of whole sweeps."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ratematch.campaign.precheck import expand_sweep
from ratematch.emulator.assembly import ServerShape, learnt_of
from ratematch.emulator.environment import read_environment
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.find import read_sweep
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import measure_load
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.workload import Workload
from ratematch.show.views.predict import basis_in_words, prediction_to_json
from ratematch.simulate.forecasts import deviations, predict_sweep, to_measurement
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.steadystate import forecast
from ratematch.simulate.timeline import Timeline

SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.mark.parametrize(
    ("role", "mapping", "mtp", "concurrency"),
    [
        ("ctx", "DEP4", 1, 8),
        ("ctx", "TEP4", 0, 1),
        ("gen", "DEP8", 3, 64),
        ("gen", "TEP4", 0, 4),
        ("agg", "TEP4", 1, 16),
    ],
)
def test_forecasts_are_near_the_simulation(role, mapping, mtp, concurrency):
    sweep, _ = read_sweep(str(SWEEPS / "deepseek-r1.yaml"))
    workload = Workload(2048, 1 if role == "ctx" else 200)
    group = ServerGroup(role, parse_mapping(mapping), 1, mtp)
    load = Concurrency(concurrency, max(24, 8 * concurrency), max(1, concurrency // 4))
    stage = "ifb" if role == "agg" else role
    experiment = experiment_of(sweep, stage, Deployment(**{role: group}), workload, (load,))
    service = Service(plan_simulation(experiment, sweep.cluster), Timeline())
    promised = forecast(service.emulations[role], experiment, load)
    got = measure_load(simulate_load(service, workload, load, seed=1).records, load, workload)
    allowed = 0.12 if role == "agg" else 0.04
    assert got.req_s == pytest.approx(promised.req_s, rel=allowed)
    if role != "ctx":
        assert got.tpot_ms.mean == pytest.approx(1000 * promised.tpot_s, rel=allowed)


def test_a_prediction_is_labelled_and_corrected_by_what_was_measured():
    sweep, _ = read_sweep(str(SWEEPS / "quickstart.yaml"))
    experiments = expand_sweep(sweep).experiments
    plain = predict_sweep(sweep, experiments)
    assert plain.learnt_from == 0
    assert all(row.measurement.num_requests == 0 for row in plain.rows)
    assert all("predicted, not measured" in row.measurement.warnings for row in plain.rows)
    (analysis,) = plain.analyses
    assert analysis.rate_matched
    assert analysis.ifb

    class Taught:
        """Results in which every server is a fifth slower than its forecast."""

        def measured(self) -> list[Measured]:
            return [
                Measured(row.experiment, row.load, to_measurement_at(row, 0.8))
                for row in plain.rows
                if row.experiment.stage != "ifb"
            ]

    def to_measurement_at(row: Measured, factor: float):
        from ratematch.simulate.steadystate import Forecast

        figures = row.measurement
        tpot_s = figures.tpot_ms.mean / 1000 if figures.tpot_ms else 0.0
        at = Forecast(row.load.concurrency, figures.req_s, figures.ttft_ms.mean / 1000, tpot_s, figures.osl_mean)
        return to_measurement(at, factor)

    learnt = predict_sweep(sweep, experiments, Taught())  # type: ignore[arg-type]
    by_family = {effect.family: effect for effect in learnt.effects}
    assert by_family["ctx DEP"].factor == pytest.approx(0.8, abs=0.02)
    assert by_family["gen TEP"].factor == pytest.approx(0.8, abs=0.02)
    assert by_family["ifb TEP"].factor == 1.0
    best = max(point.tok_s_gpu for point in learnt.analyses[0].rate_matched)
    assert best == pytest.approx(0.8 * max(point.tok_s_gpu for point in analysis.rate_matched), rel=0.03)
    deviations_by_family = deviations(Taught().measured(), sweep.cluster)
    assert all(value == pytest.approx(math.log(0.8)) for values in deviations_by_family.values() for value in values)


def test_vllm_servers_are_forecast_too(tmp_path: Path) -> None:
    """By the emulated ``vllm serve``: on this shape H200s measured 20.8 requests/s of ctx, and of gen 5.3 ms a token
    with one in flight to 15.8 with 128."""
    profile = tmp_path / "bench.yaml"
    profile.write_text("name: bench\ngpu: h200\ngpus_per_node: 2\nnodes: 1\ncheck_paths: false\n")
    sweep, _ = read_sweep(str(SWEEPS / "qwen3-8b-vllm.yaml"), ("engine.version=0.24",), str(profile))
    prediction = predict_sweep(sweep, expand_sweep(sweep).experiments)
    assert len(prediction.analyses) == 2 and all(analysis.rate_matched for analysis in prediction.analyses)
    rates = [row.measurement.req_s for row in prediction.rows if row.experiment.stage == "ctx"]
    assert max(rate for rate in rates if rate) == pytest.approx(20.8, rel=0.2)
    tpot = {
        load.concurrency: row.measurement.tpot_ms.mean
        for row in prediction.rows
        if row.experiment.stage == "gen" and row.experiment.workload.osl == 256
        if isinstance(load := row.load, Concurrency) and row.measurement.tpot_ms
    }
    assert 5.3 <= tpot[1] < tpot[64] < tpot[128] <= 1.5 * 15.8


def test_a_prediction_says_what_it_stands_on_and_how_far_off_such_ones_were():
    sweep, _ = read_sweep(str(SWEEPS / "quickstart.yaml"))
    prediction = predict_sweep(sweep, expand_sweep(sweep).experiments)
    (learnt,) = prediction.basis.sets
    assert learnt.label == "nvfp4 on gb200, experts: CUTLASS"
    words = "\n".join(basis_in_words(prediction))
    assert learnt.label in words and "rows.csv" in words and "docs/accuracy.md" in words
    shown = prediction_to_json(prediction)
    assert shown["basis"]["learnt"][0]["values"]["gemm"].keys() == {"value", "low", "high"}
    low, high = prediction.basis.accuracy.intervals["disagg"]["tok_s_gpu"]
    assert 0.5 < low < 1 < high < 1.5
    for row in next(iter(shown["workloads"].values()))["rate_matched"]:
        assert row["tok_s_gpu_low"] == pytest.approx(low * row["tok_s_gpu"])
        assert row["tok_s_gpu_high"] == pytest.approx(high * row["tok_s_gpu"])
    corrected = prediction_to_json(replace(prediction, learnt_from=3))
    row = next(iter(corrected["workloads"].values()))["rate_matched"][0]
    widest = max(effect.total_sd for effect in prediction.effects if not effect.family.startswith("ifb "))
    assert row["tok_s_gpu_high"] == pytest.approx(math.exp(1.96 * widest) * row["tok_s_gpu"])
    _every_rate_and_ratio_has_an_interval(shown, {effect.family: effect.total_sd for effect in prediction.effects})


def _every_rate_and_ratio_has_an_interval(shown: dict[str, Any], sds: dict[str, float]) -> None:
    """As wide as public deployments with learnt values were off: more than noise, not half and double."""
    assert all(0.05 < sd < 0.3 for sd in sds.values()) and max(sds.values()) == sds["ifb DEP"]
    for row in (*shown["ctx"], *shown["gen"]):
        speed = row["tok_s_user"] or row["req_s"]
        family = "ctx DEP" if row in shown["ctx"] else "gen TEP" if "TEP" in row["experiment"] else "gen DEP"
        assert row["speed_high"] / speed == pytest.approx(math.exp(1.96 * sds[family]))
        assert row["speed_low"] < speed
    for row in next(iter(shown["workloads"].values()))["rate_matched"]:
        ratio, both = Fraction(row["ratio"]), math.hypot(sds["ctx DEP"], min(sds["gen TEP"], sds["gen DEP"]))
        assert row["ratio_low"] < ratio < ratio * math.exp(1.95 * both) < row["ratio_high"] < 3 * ratio


def test_kernels_stand_on_no_learnt_efficiencies():
    """They were measured; the roofline's values have no part in them."""
    gpu, model = load_gpu("gb200"), load_model("deepseek-r1")
    shape = ServerShape(model, gpu, parse_mapping("DEP4"), "fp8", 0, 8, 8192)
    named = read_environment({"RATEMATCH_EMULATED_STEPS": "kernels"})
    assert learnt_of(shape, named).values == {}
    assert learnt_of(shape, read_environment({})).values
