"""The optional step-time model: chosen by name, refused in words where it cannot be had."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from ratematch.catalog import load_gpu, load_model
from ratematch.emulator import kernelsteps
from ratematch.emulator.environment import read_environment
from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.plan.mapping import parse_mapping

INSTALLED = importlib.util.find_spec("aiconfigurator_core") is not None


def make(mapping: str = "DEP4", model: str = "qwen3-235b-a22b") -> KernelStepTime:
    return KernelStepTime(load_model(model), load_gpu("gb200"), parse_mapping(mapping), "nvfp4", "fp8")


def test_the_roofline_is_the_default_and_others_are_named():
    assert read_environment({}).steps == "roofline"
    assert read_environment({"RATEMATCH_EMULATED_STEPS": "kernels"}).steps == "kernels"
    with pytest.raises(ValueError, match="unknown step-time model 'magic': write roofline or kernels"):
        read_environment({"RATEMATCH_EMULATED_STEPS": "magic"})


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    kernelsteps._compile.cache_clear()
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk.engine", None)  # as if it were not there
    with pytest.raises(ValueError, match=r"need an extra: pip install 'ratematch\[kernels\]'"):
        make()


def test_what_the_database_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match="no pipeline or context parallelism"):
        make("TP4PP2")


@pytest.mark.skipif(not INSTALLED, reason="needs the optional extra ratematch[kernels]")
def test_measured_kernels_grow_with_work_and_are_near_the_roofline():
    step_time = make()
    roofline = RooflineStepTime(load_model("qwen3-235b-a22b"), load_gpu("gb200"), parse_mapping("DEP4"), "nvfp4")

    def decode(n: int) -> StepBatch:
        return StepBatch((RankLoad(0, 0, 0.0, n, 1, 2000 * n),) * 4)

    few, many = step_time.seconds(decode(8)), step_time.seconds(decode(256))
    prompt = step_time.seconds(StepBatch((RankLoad(1, 4096, 4096 * 2048.5, 8, 1, 16000, 1),) * 4))
    assert few < many < prompt
    assert 0.3 < many / roofline.seconds(decode(256)) < 3
