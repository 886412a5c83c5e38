"""The optional step-time model: chosen by name, refused in words where it cannot be had."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from ratematch.emulator import kernelsteps
from ratematch.emulator.efficiency import Efficiency
from ratematch.emulator.environment import read_environment
from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping

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


@needs_extra
@pytest.mark.parametrize("model", ["deepseek-r1", "qwen3-235b-a22b"])
def test_prompts_alone_and_decoding_alone_take_what_the_database_says(model):
    """Only steps that have both are put together in another way than the database's engine does."""
    engine = importlib.import_module("aiconfigurator_core.sdk.engine").EngineHandle.compile(
        kernelsteps.MODELS[model],
        "gb200",
        "trtllm",
        tp_size=1,
        attention_dp_size=4,
        moe_tp_size=1,
        moe_ep_size=4,
        gemm_quant_mode="bfloat16" if model == "deepseek-r1" else "nvfp4",
        moe_quant_mode="nvfp4",
        kvcache_quant_mode="fp8",
        fmha_quant_mode="bfloat16" if model == "deepseek-r1" else "fp8",
    )
    step_time = make(model=model)
    decoding = RankLoad(0, 0, 0.0, 64, 1, 64 * 2000, 0)
    fixed = Efficiency().step_s
    prompt = step_time.seconds(StepBatch((prompts(1, 4096),) * 4)) - fixed
    decode = step_time.seconds(StepBatch((decoding,) * 4)) - fixed
    # The engine leaves the output projection of prompts out for some models.
    assert prompt == pytest.approx(engine.predict_prefill_latency(1, 4096) / 1000, rel=0.01)
    assert decode == pytest.approx(engine.decode_step_latency(64, 2000, 2) / 1000, rel=0.002)
