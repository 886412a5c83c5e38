"""Corrections of the step-time model from a few measured loads: recovered, refused, named wherever they are used."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ratematch.cli.run import _calibrate
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
from ratematch.search.families import FAMILY_SD
from ratematch.search.space import make_space
from ratematch.show.views.predict import basis_in_words
from ratematch.simulate.accuracy import Basis, public_accuracy
from ratematch.simulate.calibration import Calibration, CalibrationPoint, calibrate
from ratematch.simulate.calibrationfile import calibrated_sweep, calibration_to_json, read_calibration
from ratematch.simulate.calibrationpoints import (
    MeasuredSpeed,
    calibrate_speeds,
    log_measured_over,
    speeds_of_table,
)
from ratematch.simulate.calibrationrows import speeds_of_deployments
from ratematch.simulate.deviations import Deviations, deviations_for
from ratematch.simulate.forecasts import Prediction, forecast_experiment
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline
from tests.cli.test_cli import call

ROOT = Path(__file__).parents[2]
TRUTH = Correction("gb200", "deepseek-r1", "nvfp4", fixed=1.04, memory=0.98, compute=1.03, link=1.02)
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
        assert after < before and after < 1.96 * known.server_sd(aggregated=False), (each, before, after)


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
    assert many.server_sd(aggregated=False) < known.server_sd(aggregated=False) < known.server_sd(aggregated=True)


def test_without_a_difference_nothing_is_corrected(sweep):
    none = replace(TRUTH, fixed=1.0, memory=1.0, compute=1.0, link=1.0)
    same = calibrate_speeds([measured(sweep, *each, none) for each in DONE.values()], "rates.csv")
    assert same.correction.factors == pytest.approx((1, 1, 1, 1), abs=1e-3)
    assert [factor for _, factor in same.correction.families] == pytest.approx([1, 1, 1], abs=1e-3)
    assert same.scale < 1


BELIEVED = Deviations(0.3, 0.3, 0.1, 0.2, 0.05, 0.08, 0.02, 0.16, 0.02)


def invented(server: str, family: str = "gen DEP", log: float = 0.2) -> CalibrationPoint:
    return CalibrationPoint("x", server, family, lambda tried: log - math.log(tried.memory))


def test_what_points_say_nothing_of_keeps_its_prior_and_loads_of_one_server_are_no_two_servers():
    two = calibrate([invented("a"), invented("b")], TRUTH, BELIEVED)
    one = calibrate([invented("a"), invented("a")], TRUTH, BELIEVED)
    sds = [math.sqrt(two.covariance[place][place]) for place in range(4)]
    assert sds[0] == pytest.approx(0.3) and sds[2:] == pytest.approx([0.1, 0.2])
    assert two.correction.fixed == two.correction.compute == 1 < one.correction.memory < two.correction.memory
    assert one.covariance[1][1] > 1.2 * two.covariance[1][1]


def left(calibration: Calibration, family: str) -> float:
    """Log of what the calibration makes of the speed of a server of ``family`` that only memory limits."""
    return math.log(calibration.correction.memory * dict(calibration.correction.families).get(family, 1.0))


def test_its_family_moves_more_than_the_others_by_what_servers_share():
    shared = replace(BELIEVED, memory=0.01, family=0.15)
    own = replace(BELIEVED, memory=0.01, family=0.01)
    for believed in (shared, own):
        known = calibrate([invented("a"), invented("b")], TRUTH, believed)
        assert left(known, "gen TEP") < left(known, "gen DEP") < 0.2
    assert left(calibrate([invented("a"), invented("b")], TRUTH, shared), "gen DEP") > 0.14
    assert left(calibrate([invented("a"), invented("b")], TRUTH, own), "gen DEP") < 0.02


def test_the_posterior_is_that_of_the_normal_model():
    """One factor, two families, three servers: by the covariance of everything, without a fit."""
    points = [invented("a", "gen DEP", 0.3), invented("b", "gen DEP", 0.1), invented("c", "gen TEP", -0.2)]
    known = calibrate(points, TRUTH, BELIEVED)
    family, server = np.array([0, 0, 1]), known.scale**2 * (0.08**2 + 0.02**2)
    of_family, common = (known.widened * 0.05) ** 2, (known.widened * 0.3) ** 2
    covariance = common + of_family * (family[:, None] == family) + server * np.eye(3)
    shared = common + of_family * (family == 0)
    weights = np.linalg.solve(covariance, shared)
    assert left(known, "gen DEP") == pytest.approx(float(weights @ [0.3, 0.1, -0.2]), rel=0.05)
    variance = common + of_family - float(weights @ shared)
    assert known.common_sd(np.array([0, 1, 0, 0]), "gen DEP") == pytest.approx(math.sqrt(variance), rel=0.05)
    strange = known.common_sd(np.array([0, 1, 0, 0]), "gen TP")
    assert strange**2 == pytest.approx(known.covariance[1][1] + of_family)


def test_loads_that_are_far_off_move_more_than_was_believed_and_widen_all():
    believed = replace(BELIEVED, memory=0.04, family=0.04, server=0.05, load=0.05)
    calm, wild = (calibrate([invented(name, log=log) for name in "abc"], TRUTH, believed) for log in (0.05, 0.5))
    assert calm.widened == 1 and not calm.surprise
    assert (
        wild.widened > 2 and f"{wild.widened:.1f} times as wide" in wild.surprise and wild.surprise in wild.in_words()
    )
    assert left(wild, "gen DEP") > 0.25 and left(calm, "gen DEP") > 0.25 * 0.1
    assert wild.server_sd(aggregated=False) > 2 * calm.server_sd(aggregated=False)
    assert wild.common_sd(np.zeros(4), "gen TP") == pytest.approx(wild.widened * 0.04)


def test_95_of_100_intervals_hold_servers_that_are_as_believed():
    rng, inside, believed = np.random.default_rng(7), 0, replace(BELIEVED, fixed=0.01, compute=0.01, link=0.01)
    for _ in range(100):
        memory, effects = rng.normal(0, 0.3), rng.normal(0, 0.05, 2)

        def speed(family: int, memory: float = memory, effects: np.ndarray = effects) -> float:
            return memory + effects[family] + rng.normal(0, 0.08) + rng.normal(0, 0.02)

        points = [
            invented("a", "gen DEP", speed(0)),
            invented("b", "gen DEP", speed(0)),
            invented("c", "x", speed(1)),
        ]
        known = calibrate(points, TRUTH, believed)
        sd = math.hypot(known.common_sd(np.array([0, 1, 0, 0]), "gen DEP"), known.server_sd(aggregated=False))
        inside += abs(speed(0) - left(known, "gen DEP")) < 1.96 * sd
    assert 0.90 <= inside / 100 <= 0.99


def test_what_is_believed_before_is_as_data_says_it():
    learnt, nothing = LearntSet({"memory": Learnt(0.6, 0.5, 0.6)}, "rows", "fp8 on x"), LearntSet({}, "")
    other_model = LearntSet({"gemm": Learnt(0.6, 0.5, 0.6)}, "rows of models with another attention", "fp8 on x")
    assert deviations_for([learnt]) != deviations_for([learnt, nothing]) == deviations_for([nothing])
    assert deviations_for([other_model]) == deviations_for([nothing])
    known, unknown = deviations_for([learnt]), deviations_for([nothing])
    assert known.fixed < unknown.fixed and known.link < unknown.link and known.family < unknown.family
    assert known.server < known.aggregated_server  # steps of prompts and generation together


def test_a_family_is_named_in_words_with_what_is_left_to_it(known):
    families = {each.family: each for each in known.families}
    assert set(families) == {"ctx DEP", "gen DEP", "gen TEP"}
    for each in families.values():
        assert each.loads == 1 and each.low < each.factor < each.high
        assert f"{each.family} is {100 * abs(each.measured - 1):.0f} % " in each.words
    slow = replace(families["gen DEP"], measured=0.94)
    assert slow.words == "gen DEP is 6 % slower than predicted"
    assert replace(slow, measured=1.02).words == "gen DEP is 2 % faster than predicted"
    assert replace(slow, measured=1.002).words == "gen DEP is as fast as predicted"


def test_servers_of_a_family_are_as_much_faster_as_its_factor_says(sweep):
    plain, faster = (replace(TRUTH, families=families) for families in ((), (("gen DEP", 1.1), ("ctx TEP", 0.8))))
    for stage, mapping, factor in (
        ("gen", "DEP8", 1.1),
        ("gen", "DEP16", 1.1),
        ("gen", "TEP8", 1),
        ("ctx", "TEP4", 0.8),
    ):
        one, other = (measured(sweep, stage, mapping, 64, truth) for truth in (plain, faster))
        if stage == "ctx":
            assert other.req_s == pytest.approx(factor * one.req_s)
        else:
            assert other.tpot_s == pytest.approx(one.tpot_s / factor)


def test_no_share_goes_beyond_its_peak():
    shares = corrected(Efficiency(), replace(TRUTH, memory=3.0, fixed=3.0), "TEP8")
    assert shares.memory == 1.0 and shares.layer_s == 3 * Efficiency().layer_s


def test_the_name_is_all_that_servers_need(sweep):
    assert correction_of(TRUTH.name) == TRUTH and read_step_model({STEPS_VARIABLE: TRUTH.name}) == TRUTH.name
    server = measured(sweep, "gen", "DEP8", 64)
    experiment = replace(server.experiment, emulated=True, simulated=True, step_times=TRUTH.name)
    service = Service(plan_simulation(experiment, sweep.cluster, forecast=True), Timeline())
    steps = service.emulations["gen"].step_time
    plain = learnt_for("gb200", True, "nvfp4", "", True).values["layer_s"].value
    assert service.steps == TRUTH.name  # what provenance.json names
    assert isinstance(steps, RooflineStepTime) and steps.efficiency.layer_s == pytest.approx(1.04 * plain)
    assert TRUTH.name in experiment.stack and experiment.id != replace(experiment, step_times="roofline").id


FAMILIES = replace(TRUTH, families=(("ctx TEP", 0.97), ("gen DPEP", 1.25)))


def test_families_are_in_the_name():
    assert ",link=1.02,ctx-TEP=0.97,gen-DPEP=1.25@gb200/" in FAMILIES.name
    assert correction_of(FAMILIES.name) == FAMILIES
    assert FAMILIES.family("gen", "DP8EP2") == 1.25 and FAMILIES.family("gen", "TEP8") == 1


@pytest.mark.parametrize(
    "name",
    [
        "roofline*fixed=1@h200/x/fp8",
        TRUTH.name.replace("1.04", "99"),
        FAMILIES.name.replace("1.25", "25"),
        FAMILIES.name.replace("gen-DPEP", "ctx-TEP"),
        FAMILIES.name.replace("gen-DPEP", "e2e-TEP"),
        TRUTH.name + " ",
    ],
)
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
    words = next(each.words for each in calibration.families if each.family == "gen DEP")
    assert words in said.stdout and words in out.read_text()
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
    assert "no calibration" in refused("--predict", calibration=1)
    assert "deviations, scale" in refused("--predict", scale=-1.0)
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
        widest = 1.5 if family["family"].startswith("ifb ") else 1.3
        assert 1 / widest < family["low"] < 1 / 1.1 < 1.1 < family["high"] < widest
    for workload in prediction["workloads"].values():
        for row in workload["rate_matched"]:
            assert row["tok_s_gpu_low"] < row["tok_s_gpu"] < row["tok_s_gpu_high"]


def test_what_a_calibrated_prediction_stands_on_names_families_and_the_ttft_that_it_leaves(known):
    basis = Basis((), (0.07, 0.06, 0.08), public_accuracy())
    said = basis_in_words(Prediction(known.correction.name, (), (), 0, (), basis, known))
    assert known.in_words() in said and all(each.words in said for each in known.families)
    low, high = public_accuracy().intervals["disagg"]["ttft_ms"]
    assert f"x {low:.2f} to {high:.2f} (rate-matched)" in said[-1]


def test_an_adaptive_search_starts_from_what_the_calibration_leaves_unknown(known, tmp_path, capsys):
    path = tmp_path / "known.json"
    path.write_text(json.dumps(calibration_to_json(known)))
    axes = ("search=adaptive", "ctx.axes={mapping: [DEP4]}", "gen.axes={mapping: [DEP8, TP4]}")
    axes += ("workloads=[{isl: 4096, osl: 1024}]",)
    adaptive, _ = read_sweep(str(ROOT / "sweeps" / "deepseek-r1.yaml"), axes)
    calibrated = _calibrate(adaptive, path, "slurm")
    sds = dict(calibrated.family_sds)
    assert calibrated.step_times == known.correction.name
    assert set(sds) == {"ctx DEP", "gen DEP", "gen TP"} and max(sds.values()) < FAMILY_SD / 2
    assert sds["gen DEP"] < sds["gen TP"]  # of which nothing was measured
    (workload,) = calibrated.workloads
    assert make_space(calibrated, workload, [], {}).family_sds == sds
    assert "the search starts from that: ctx DEP within" in capsys.readouterr().err


def test_the_loads_of_real_gpus_calibrate_each_other():
    said = call("calibrate", str(ROOT / "results" / "h200-qwen3-8b"), "--json")
    points = json.loads(said.stdout)["points"]
    assert len(points) == 14 and all(0.9 < point["before"] < 1.1 for point in points)  # its values were learnt
    assert all(0.92 < point["after"] < 1.06 for point in points)


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
