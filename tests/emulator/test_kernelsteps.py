"""The optional step-time model: chosen by name, refused in words where it cannot be had."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from ratematch.emulator import kerneldata
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
    kerneldata.look_up.cache_clear()
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
    wanted = kerneldata.want(
        load_model(model), load_gpu("gb200"), parse_mapping("DEP4"), "nvfp4", "fp8", mtp=0, moe_backend=""
    )
    engine = kerneldata.look_up(wanted).context.__self__
    step_time = make(model=model)
    decoding = RankLoad(0, 0, 0.0, 64, 1, 64 * 2000, 0)
    fixed = Efficiency().step_s
    prompt = step_time.seconds(StepBatch((prompts(1, 4096),) * 4)) - fixed
    decode = step_time.seconds(StepBatch((decoding,) * 4)) - fixed
    # The engine leaves the output projection of prompts out for some models.
    assert prompt == pytest.approx(engine.predict_prefill_latency(1, 4096) / 1000, rel=0.01)
    assert decode == pytest.approx(engine.decode_step_latency(64, 2000, 2) / 1000, rel=0.002)


@pytest.mark.parametrize(
    ("gpu", "mapping", "backend", "sent"),
    [
        ("gb200", "DEP32", "CUTEDSL", True),
        ("gb300", "DEP16", "", True),
        ("gb300", "DEP16", "DEEPGEMM", False),  # its kernels gather all tokens
        ("gb300", "DEP8", "CUTEDSL", False),  # as many GPUs as a token has experts: every GPU needs it anyway
        ("gb200", "TEP16", "TRTLLM", False),  # without attention DP every GPU has all tokens
        ("b200", "DEP16", "CUTLASS", False),  # no rack-scale NVLink
    ],
)
def test_who_sends_tokens_where_their_experts_are(gpu, mapping, backend, sent):
    wanted = kerneldata.want(
        load_model("deepseek-r1"), load_gpu(gpu), parse_mapping(mapping), "nvfp4", "fp8", mtp=0, moe_backend=backend
    )
    assert wanted.all_to_all is sent
    assert not sent or wanted.layers == 58  # routed experts


def test_nvfp4_is_the_published_checkpoint_and_fp8_has_blocks():
    def kernels(precision: str) -> tuple[str, str, str]:
        wanted = kerneldata.want(
            load_model("deepseek-r1"), load_gpu("b200"), parse_mapping("TP8"), precision, "fp8", 0, ""
        )
        return wanted.path, wanted.gemm, wanted.experts

    assert kerneldata.EVENLY_ROUTED == ("deepseek-r1",), "trained so; others keep the database's own routing"
    assert kernels("nvfp4") == ("nvidia/DeepSeek-V3.1-NVFP4", "nvfp4", "nvfp4")
    assert kernels("fp8") == ("deepseek-ai/DeepSeek-R1", "fp8_block", "fp8_block")


def test_exchanges_are_taken_out_of_whatever_they_are_in():
    spec = {
        "ops": [{"Gemm": {"n": 1}}, {"MoeDispatch": {}}, {"Overlap": {"group_a": [{"MoeDispatch": {}}, {"Moe": {}}]}}]
    }
    left = {"ops": [{"Gemm": {"n": 1}}, {"Overlap": {"group_a": [{"Moe": {}}]}}]}
    assert kerneldata._without_dispatch(spec) == left


@needs_extra
def test_the_all_to_all_of_rack_scale_nvlink_is_faster_than_gathering_all_tokens():
    def seconds(backend: str) -> float:
        step_time = KernelStepTime(
            load_model("deepseek-r1"), load_gpu("gb300"), parse_mapping("DEP32"), "nvfp4", "fp8", 0, backend
        )
        return step_time.seconds(StepBatch((RankLoad(0, 0, 0.0, 64, 1, 64 * 5000),) * 32))

    assert seconds("CUTEDSL") < 0.8 * seconds("DEEPGEMM")


@needs_extra
def test_few_tokens_drawn_at_random_reach_fewer_experts_than_tokens_dealt_out():
    step_time = make("TEP4", "deepseek-r1")
    dealt = [step_time._decoding.experts(tokens) for tokens in (4, 8, 16, 512)]
    drawn = [step_time._experts(step_time._decoding, tokens) for tokens in (4, 8, 16, 512)]
    assert drawn == sorted(drawn)
    assert drawn[1] < dealt[1] and drawn[2] < dealt[2]
    assert drawn[3] == pytest.approx(dealt[3], rel=0.001)
