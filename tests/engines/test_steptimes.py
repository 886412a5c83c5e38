"""The emulator's step-time model: from the environment into experiments, and from there to the servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign.precheck import expand_sweep
from ratematch.engines.steptimes import STEPS_VARIABLE
from ratematch.errors import UserError
from ratematch.inputs.find import read_sweep
from ratematch.plan.experiment import Experiment, from_json, to_json
from ratematch.plan.sweep import Sweep
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

SWEEPS = Path(__file__).parents[2] / "sweeps"


def first_of(sweep: Sweep) -> Experiment:
    return expand_sweep(sweep).experiments[0]


def test_the_model_that_the_environment_names_is_part_of_an_emulated_experiment(monkeypatch):
    usual = first_of(read_sweep(str(SWEEPS / "quickstart.yaml"))[0])
    monkeypatch.setenv(STEPS_VARIABLE, "kernels")
    sweep, _ = read_sweep(str(SWEEPS / "quickstart.yaml"))
    asked = first_of(sweep)
    assert (usual.step_times, asked.step_times) == ("roofline", "kernels")
    assert usual.id != asked.id and usual.folder != asked.folder
    assert from_json(to_json(asked)) == asked
    old = to_json(usual)
    del old["step_times"]  # as in folders from before the key
    assert from_json(old) == usual


def test_real_servers_have_no_step_time_model(monkeypatch):
    name = str(SWEEPS / "deepseek-r1.yaml")
    usual = first_of(read_sweep(name)[0])
    monkeypatch.setenv(STEPS_VARIABLE, "kernels")
    sweep, _ = read_sweep(name)
    assert first_of(sweep) == usual
    assert first_of(replace(sweep, simulated=True)).step_times == "kernels"


def test_servers_use_the_model_of_their_experiment_whatever_the_environment_says(monkeypatch):
    sweep, _ = read_sweep(str(SWEEPS / "quickstart.yaml"))
    experiment = first_of(sweep)
    monkeypatch.setenv(STEPS_VARIABLE, "kernels")
    profile = replace(sweep.cluster, environment={STEPS_VARIABLE: "kernels"})
    assert Service(plan_simulation(experiment, profile), Timeline()).steps == "roofline"


def test_a_model_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv(STEPS_VARIABLE, "magic")
    with pytest.raises(UserError, match="unknown step-time model 'magic': write roofline or kernels"):
        read_sweep(str(SWEEPS / "quickstart.yaml"))
