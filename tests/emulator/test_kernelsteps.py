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


needs_extra = pytest.mark.skipif(not INSTALLED, reason="needs the optional extra ratematch[kernels]")


def prompts(count: int, length: int, decoding: int = 0, cached: int = 0) -> RankLoad:
    """One rank's iteration: whole prompts, and sequences that decode."""
    tokens = count * length
    return RankLoad(count, tokens, tokens * (length + 1) / 2, decoding, 1, decoding * cached, count)


@needs_extra
def test_measured_kernels_grow_with_work_and_are_near_the_roofline():
    step_time = make()
    roofline = RooflineStepTime(load_model("qwen3-235b-a22b"), load_gpu("gb200"), parse_mapping("DEP4"), "nvfp4")

    def decode(n: int) -> StepBatch:
        return StepBatch((RankLoad(0, 0, 0.0, n, 1, 2000 * n),) * 4)

    few, many = step_time.seconds(decode(8)), step_time.seconds(decode(256))
    prompt = step_time.seconds(StepBatch((RankLoad(1, 4096, 4096 * 2048.5, 8, 1, 16000, 1),) * 4))
    assert few < many < prompt
    assert 0.3 < many / roofline.seconds(decode(256)) < 3


@needs_extra
@pytest.mark.parametrize("model", ["deepseek-r1", "qwen3-235b-a22b"])
def test_in_a_step_with_prompts_each_part_works_on_what_it_has(model):
    step_time = make(model=model)

    def seconds(*ranks: RankLoad) -> float:
        return step_time.seconds(StepBatch(ranks))

    alone = seconds(*(prompts(1, 4096),) * 4)
    # What decodes meanwhile reads its caches, the more the longer they are.
    short, long = (seconds(*(prompts(1, 4096, 128, cached),) * 4) for cached in (500, 8000))
    assert alone < short
    assert long - short > 2e-3
    # As many tokens in several prompts attend to fewer others.
    assert seconds(*(prompts(8, 512),) * 4) < 0.97 * alone
    # Experts have all ranks' tokens: those of one prompt are fewer than those of four.
    decoding = RankLoad(0, 0, 0.0, 64, 1, 64 * 2000, 0)
    assert seconds(prompts(1, 4096), decoding, decoding, decoding) < 0.9 * alone
    # A rank without work waits for the others.
    assert seconds(decoding, decoding, decoding, RankLoad()) < seconds(*(decoding,) * 4) * 1.001
    # Half a prompt in the mean step of a steady state: more than nothing, less than a whole one.
    half = RankLoad(0.5, 2048, 2048 * 2048.5, 0, 1, 0, 0.5)
    assert seconds(*(decoding,) * 4) < seconds(*(half,) * 4) < alone
