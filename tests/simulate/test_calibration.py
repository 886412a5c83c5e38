"""Corrections of the step-time model from a few measured loads: recovered, refused, named wherever they are used."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ratematch.emulator.efficiency import Efficiency, Learnt, LearntSet, corrected, learnt_for
from ratematch.emulator.steptime import RooflineStepTime
from ratematch.engines.steptimes import PARTS, STEPS_VARIABLE, Correction, correction_of, read_step_model
from ratematch.errors import TableError, UserError
from ratematch.inputs.find import read_sweep
from ratematch.match.table import read_table
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.simulate.calibration import LEAST_PRIOR_SD, OWN_SD, UNLEARNT_SD, CalibrationPoint, calibrate, prior_sds
from ratematch.simulate.calibrationfile import calibrated_sweep, calibration_to_json, read_calibration
from ratematch.simulate.calibrationpoints import (
    MeasuredSpeed,
    calibrate_speeds,
    log_measured_over,
    speeds_of_table,
)
from ratematch.simulate.calibrationrows import speeds_of_deployments
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline
from tests.cli.test_cli import call

ROOT = Path(__file__).parents[2]
TRUTH = Correction("gb200", "deepseek-r1", "nvfp4", fixed=1.2, memory=0.9, compute=1.15, link=1.1)
DONE = {"ctx-1": ("ctx", "DEP4", 16), "gen-1": ("gen", "TEP8", 8), "gen-2": ("gen", "DEP8", 512)}
LEFT_OUT = (("ctx", "DEP8", 32), ("gen", "TEP4", 16), ("gen", "DEP16", 1024))


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return read_sweep(str(ROOT / "sweeps" / "deepseek-r1.yaml"))[0]


def measured(sweep: Sweep, stage: str, mapping: str, concurrency: int, truth: Correction = TRUTH) -> MeasuredSpeed:
    """A load of a server that is as ``truth`` says."""
    load = Concurrency(concurrency, concurrency, 0)
    group = ServerGroup(stage, parse_mapping(mapping), 1, 0)
    workload = Workload(4096, 1 if stage == "ctx" else 1024)
    experiment = experiment_of(sweep, stage, Deployment(**{stage: group}), workload, (load,))
    there = forecast_experiment(experiment, sweep.cluster, truth.name)[load]
    return MeasuredSpeed(experiment, sweep.cluster, load, there.req_s, there.tpot_s or None)


@pytest.fixture(scope="module")
def known(sweep):
    return calibrate_speeds([measured(sweep, *each) for each in DONE.values()], "rates.csv")


def test_the_truth_is_in_its_intervals_and_other_servers_are_predicted(sweep, known):
    for part, truth in zip(PARTS, TRUTH.factors, strict=True):
        low, high = known.factor_interval(part)
        assert low <= truth <= high, part
    for each in LEFT_OUT:
        server = measured(sweep, *each)
        before, after = (
            abs(log_measured_over(server, forecast_experiment(server.experiment, sweep.cluster, name)[server.load]))
            for name in ("roofline", known.correction.name)
        )
        assert after < 0.7 * before and after < 1.96 * known.own_sd, (each, before, after)


def test_many_servers_say_more_than_three_loads(sweep, known):
    mappings = [("ctx", label, 8 * size) for size in (1, 4) for label in ("DEP4", "DEP16", "TEP4")]
    mappings += [("gen", label, size) for size in (8, 64, 512) for label in ("TEP4", "TEP8", "DEP8", "DEP16")]
    many = calibrate_speeds([measured(sweep, *each) for each in mappings], "results/x")
    for each in LEFT_OUT:
        server = measured(sweep, *each)
        few, more = (
            abs(log_measured_over(server, forecast_experiment(server.experiment, sweep.cluster, name)[server.load]))
            for name in (known.correction.name, many.correction.name)
        )
        assert more < few and more < 0.025, each
    assert many.own_sd < known.own_sd == known.server_sd(aggregated=False) < known.server_sd(aggregated=True)


def test_without_a_difference_nothing_is_corrected(sweep):
    none = replace(TRUTH, fixed=1.0, memory=1.0, compute=1.0, link=1.0)
    same = calibrate_speeds([measured(sweep, *each, none) for each in DONE.values()], "rates.csv")
    assert same.correction.factors == pytest.approx((1, 1, 1, 1), abs=1e-3)
    assert same.own_sd < OWN_SD


def test_what_points_say_nothing_of_keeps_its_prior_and_loads_of_one_server_are_no_two_servers():
    def point(server: str) -> CalibrationPoint:
        return CalibrationPoint("x", server, lambda tried: 0.2 - math.log(tried.memory))

    prior = np.array([0.3, 0.3, 0.1, 0.2])
    two = calibrate([point("a"), point("b")], TRUTH, prior)
    one = calibrate([point("a"), point("a")], TRUTH, prior)
    sds = [math.sqrt(two.covariance[place][place]) for place in range(4)]
    assert sds[0] == pytest.approx(0.3) and sds[2:] == pytest.approx([0.1, 0.2])
    assert two.correction.fixed == two.correction.compute == 1 < one.correction.memory < two.correction.memory
    assert one.covariance[1][1] > 1.5 * two.covariance[1][1]


def test_priors_are_as_wide_as_what_was_learnt_differs():
    half = LearntSet({"memory": Learnt(0.6, 0.5, 0.6), "layer_s": Learnt(5e-5, 5e-5, 5e-5)}, "rows", "fp8 on x")
    fixed, memory, compute, link = prior_sds([half])
    assert (fixed, memory) == (LEAST_PRIOR_SD, pytest.approx(math.log(0.6 / 0.5)))
    assert compute == link == UNLEARNT_SD


def test_no_share_goes_beyond_its_peak():
    shares = corrected(Efficiency(), replace(TRUTH, memory=3.0, fixed=3.0))
    assert shares.memory == 1.0 and shares.layer_s == 3 * Efficiency().layer_s


def test_the_name_is_all_that_servers_need(sweep):
    assert correction_of(TRUTH.name) == TRUTH and read_step_model({STEPS_VARIABLE: TRUTH.name}) == TRUTH.name
    server = measured(sweep, "gen", "DEP8", 64)
    experiment = replace(server.experiment, emulated=True, simulated=True, step_times=TRUTH.name)
    service = Service(plan_simulation(experiment, sweep.cluster, forecast=True), Timeline())
    steps = service.emulations["gen"].step_time
    assert service.steps == TRUTH.name  # what provenance.json names
    assert isinstance(steps, RooflineStepTime) and steps.efficiency.layer_s == pytest.approx(
        1.2 * learnt_for("gb200", True, "nvfp4", attention_dp=True).values["layer_s"].value
    )
    assert TRUTH.name in experiment.stack and experiment.id != replace(experiment, step_times="roofline").id


@pytest.mark.parametrize("name", ["roofline*fixed=1@h200/x/fp8", TRUTH.name.replace("1.2", "99"), TRUTH.name + " "])
def test_a_name_that_means_nothing_is_refused(name):
    if name.endswith(" "):
        assert read_step_model({STEPS_VARIABLE: name}) == TRUTH.name
        return
    with pytest.raises(ValueError, match=STEPS_VARIABLE):
        read_step_model({STEPS_VARIABLE: name})


def test_a_server_of_something_else_does_not_start(sweep):
    server = measured(sweep, "gen", "DEP8", 64)
    with pytest.raises(
        Exception, match="calibrated for deepseek-r1 in fp8 on gb200, and this is deepseek-r1 in nvfp4"
    ):
        forecast_experiment(server.experiment, sweep.cluster, replace(TRUTH, precision="fp8").name)


TABLE = """role,label,gpus,isl,osl,concurrency,req_s,tok_s,tpot_ms
ctx,DEP4,4,4096,1,16,{ctx},,
gen,TEP8,8,4096,1024,8,,{gen},
gen,DEP8,8,4096,1024,512,,{large},{tpot}
"""


def table_text(sweep: Sweep) -> str:
    ctx, gen, large = (measured(sweep, *each) for each in DONE.values())
    return TABLE.format(
        ctx=ctx.req_s, gen=8 / gen.tpot_s, large=0.9 * 512 / large.tpot_s, tpot=large.tpot_s * 1000
    )  # TPOT says more than tok/s, which first tokens are in


def test_a_table_says_what_results_say(sweep, known, tmp_path):
    path, out = tmp_path / "rates.csv", tmp_path / "gb200.json"
    path.write_text(table_text(sweep))
    said = call("calibrate", str(path), "--sweep", "deepseek-r1", "-o", str(out))
    assert said.exit_code == 0 and "calibrated for deepseek-r1 in nvfp4 on gb200" in said.stdout
    calibration = read_calibration(out)
    assert calibration.correction.factors == pytest.approx(known.correction.factors, rel=0.02)
    parsed, _ = calibrated_sweep(sweep, out)
    assert parsed.step_times == calibration.correction.name == json.loads(out.read_text())["step_times"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("gen,big,8,4096,1024,8,,900,", "row 2: 'big' is no mapping"),
        ("gen,DEP8,4,4096,1024,8,,900,", "row 2: DEP8 is of 8 GPUs, and gpus says 4"),
        ("gen,DEP8,8,4096,1024,7.5,,900,", "row 2: no whole concurrency"),
        ("ctx,DEP8,8,4096,1,1,20,,", "row 2: one request in flight waits for the client"),
    ],
)
def test_a_row_that_does_not_say_enough_is_named(sweep, row, why):
    rows = read_table(TABLE.splitlines()[0] + "\n" + row + "\n", "rates.csv")
    with pytest.raises(TableError) as refused:
        speeds_of_table(rows, sweep, "rates.csv")
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_one_load_and_loads_of_two_kinds_are_refused(sweep):
    ctx = measured(sweep, *DONE["ctx-1"])
    with pytest.raises(UserError, match="1 ctx and gen loads that can be used: a calibration needs 2 at least"):
        calibrate_speeds([ctx], "results/x")
    other = replace(ctx, experiment=replace(ctx.experiment, gpu="b200"), cluster=replace(sweep.cluster, gpu="b200"))
    with pytest.raises(UserError, match=r"more than one kind.*nvfp4 on b200.*nvfp4 on gb200"):
        calibrate_speeds([ctx, other], "results/x")


def test_a_calibration_of_something_else_or_none_is_refused_in_one_line(known, tmp_path, monkeypatch):
    path = tmp_path / "known.json"
    content = calibration_to_json(known)

    def refused(*words: str, **changes: object) -> str:
        path.write_text(json.dumps(content | changes))
        said = call("plan", "deepseek-r1", *words, "--calibration", str(path))
        assert said.exit_code == 1 and said.stderr.count("\n") == 1
        return said.stderr

    assert "belong to --predict" in refused()
    assert "servers run as they run" in call("sweep", "deepseek-r1", "--calibration", str(path)).stderr
    other = {**content["correction"], "gpu": "h200"}
    assert "calibrated for deepseek-r1 in nvfp4 on h200, and this is" in refused("--predict", correction=other)
    assert "no calibration" in refused("--predict", calibration=2)
    assert "covariance" in refused("--predict", covariance=[[1.0]])
    nan = {**content["correction"], "memory": float("nan")}
    assert "a factor is no number" in refused("--predict", correction=nan)
    assert "a factor is from" in refused("--predict", correction={**content["correction"], "fixed": 90})
    assert "give one of them" in refused("--predict", "--learn-from", "results/sample")
    monkeypatch.setenv(STEPS_VARIABLE, replace(TRUTH, fixed=2.0).name)
    assert "is set in the environment" in refused("--predict")
    monkeypatch.delenv(STEPS_VARIABLE)
    path.write_text("{")
    with pytest.raises(UserError, match="ratematch calibrate"):
        read_calibration(path)


def test_a_calibrated_prediction_says_so_and_has_its_interval(known, tmp_path):
    path = tmp_path / "known.json"
    path.write_text(json.dumps(calibration_to_json(known)))
    axes = ("--set", "ctx.axes={mapping: [DEP4]}", "--set", "gen.axes={mapping: [DEP8]}")
    axes += ("--set", "workloads=[{isl: 4096, osl: 1024}]")
    said = call("plan", "deepseek-r1", *axes, "--predict", "--calibration", str(path), "--json")
    prediction = json.loads(said.stdout)["prediction"]
    assert prediction["model"] == known.correction.name
    assert prediction["calibration"]["source"] == "rates.csv"
    for family in prediction["families"]:
        widest = 1.5 if family["family"].startswith("ifb ") else 1.25
        assert 1 / widest < family["low"] < 1 / 1.1 < 1.1 < family["high"] < widest
    for workload in prediction["workloads"].values():
        for row in workload["rate_matched"]:
            assert row["tok_s_gpu_low"] < row["tok_s_gpu"] < row["tok_s_gpu_high"]


def test_the_loads_of_real_gpus_calibrate_each_other():
    said = call("calibrate", str(ROOT / "results" / "h200-qwen3-8b"), "--json")
    points = json.loads(said.stdout)["points"]
    assert len(points) == 14 and max(point["before"] for point in points) > 1.4
    assert all(0.94 < point["after"] < 1.06 for point in points)


COLUMNS = "kind,gpu,precision,isl,osl,ctx,gen,gen_instances,gen_max_batch_size,"
COLUMNS += "concurrency,gpus,out_tok_s_gpu,tpot_ms,ttft_ms\n"
ROWS = (
    COLUMNS
    + """\
disagg,gb200,fp4,4096,1024,DEP4,TEP8,1,,8,12,{tok_s_gpu},{tpot},{ttft}
disagg,gb200,fp4,4096,1024,DEP4,DEP8,1,512,512,12,1500,{large},1
agg,gb200,fp4,4096,1024,,DEP4,1,,64,4,900,20,300
disagg,b200,fp8,4096,1024,DEP4,TEP8,1,,8,12,50,9,300
"""
)


def test_whole_deployments_say_their_tpot_and_the_rate_that_ctx_kept_up(sweep, known, tmp_path):
    ctx, gen, large = (measured(sweep, *each) for each in DONE.values())
    values = {"tok_s_gpu": ctx.req_s * 1024 / 12, "tpot": gen.tpot_s * 1000, "large": large.tpot_s * 1000}
    speeds = speeds_of_deployments(ROWS.format(ttft=1, **values), sweep, "rows.csv")
    assert [speed.experiment.stage for speed in speeds] == ["gen", "gen"]
    assert [speed.load.concurrency for speed in speeds] == [8, 512]
    waiting = ROWS.format(ttft=2000, **values).replace(",8,12,", ",16,12,", 1)
    path = tmp_path / "rows.csv"
    path.write_text(waiting)
    assert [speed.experiment.stage for speed in speeds_of_deployments(waiting, sweep, "x")] == ["gen", "ctx", "gen"]
    said = call("calibrate", str(path), "--sweep", "deepseek-r1", "--json")
    assert len(json.loads(said.stdout)["points"]) == 3
    with pytest.raises(TableError, match=r"rows\.csv: row 2: tpot_ms: 'x' must be"):
        speeds_of_deployments(ROWS.format(ttft=1, **values | {"tpot": "x"}), sweep, "rows.csv")
    with pytest.raises(UserError, match="no row with kind disagg is of gb200 and nvfp4"):
        speeds_of_deployments(ROWS.format(ttft=1, **values).replace("gb200", "gb300"), sweep, "rows.csv")
    with pytest.raises(TableError, match="no column 'ttft_ms'"):
        speeds_of_deployments(ROWS.replace("ttft_ms", "x"), sweep, "rows.csv")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("rates.csv",), "a table does not say what was measured"),
        (("gone.csv", "--sweep", "deepseek-r1"), "gone.csv: cannot be read"),
        (("gone",), "no such results folder"),
        ((".", "--sweep", "deepseek-r1"), "belong to a table"),
    ],
)
def test_a_wrong_call_is_one_line(words, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.csv").write_text(TABLE)
    said = call("calibrate", *words)
    assert said.exit_code == 1 and why in said.stderr and said.stderr.count("\n") == 1
