"""Which learnt values hold for which server."""

from __future__ import annotations

import pytest

from ratematch.emulator.efficiency import Efficiency, efficiency_of, learnt_for
from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping

R1, LLAMA = load_model("deepseek-r1"), load_model("llama-3.3-70b")
B200, GB200, H200, OTHER = map(load_gpu, ("b200", "gb200", "h200", "mi355x"))


def test_values_of_attention_hold_for_mla_only():
    assert efficiency_of(B200, R1, "nvfp4").memory != Efficiency().memory
    assert efficiency_of(B200, LLAMA, "nvfp4").memory == Efficiency().memory
    assert efficiency_of(B200, LLAMA, "nvfp4").gemm == efficiency_of(B200, R1, "nvfp4").gemm != Efficiency().gemm


def test_nothing_is_learnt_for_other_gpus():
    assert efficiency_of(OTHER, R1, "bf16") == Efficiency()
    assert learnt_for("mi355x", True, "bf16").values == {}


@pytest.mark.parametrize("named", ["", "AUTO", "VANILLA"])
def test_without_a_measured_backend_it_is_the_engine_s_own(named):
    assert efficiency_of(B200, R1, "nvfp4", named) == efficiency_of(B200, R1, "nvfp4", "CUTLASS")
    assert efficiency_of(B200, R1, "nvfp4", "trtllm").expert_memory > efficiency_of(B200, R1, "nvfp4").expert_memory


def test_deepgemm_costs_more_a_layer_without_attention_dp():
    alone = efficiency_of(B200, R1, "fp8", "DEEPGEMM", attention_dp=False)
    assert alone.moe_layer_s > efficiency_of(B200, R1, "fp8", "DEEPGEMM", attention_dp=True).moe_layer_s > 0
    assert alone.expert_memory == efficiency_of(B200, R1, "fp8", "DEEPGEMM", attention_dp=True).expert_memory


@pytest.mark.parametrize("gpu", ["b200", "b300", "gb200", "gb300", "h100", "h200"])
@pytest.mark.parametrize("precision", ["nvfp4", "fp8"])
def test_values_lie_between_their_ends(gpu, precision):
    learnt = learnt_for(gpu, True, precision)
    assert learnt.source and learnt.label.startswith(f"{precision} on {gpu}")
    for name, value in learnt.values.items():
        assert 0 < value.low <= value.value <= value.high, name


def test_small_batches_have_a_floor_on_hopper():
    """Measured on eight H200 with four requests in flight: 13.5 to 14 ms a token, whatever the length."""
    step = RooflineStepTime(R1, H200, parse_mapping("TP8"), "fp8")
    times = [step.seconds(StepBatch((RankLoad(0, 0, 0, 4, 1, 4 * cached),))) for cached in (1500, 5000)]
    assert times == [pytest.approx(13.6e-3, rel=0.06)] * 2


def test_inside_a_node_all_tokens_go_to_all_ranks():
    """No all-to-all kernels there: a token goes to all seven; in a rack, if servers are told to exchange so, to the
    five that its experts live on. FP8 in blocks travels as bf16."""
    load = StepBatch((RankLoad(0, 0, 0, 512, 1, 512 * 1000),) * 8)
    same = efficiency_of(GB200, R1, "fp8", attention_dp=True)
    times = [
        RooflineStepTime(R1, gpu, parse_mapping("DEP8"), "fp8", "fp8", same, all_to_all=True).seconds(load)
        for gpu in (B200, GB200)
    ]
    sent_s = 512 * 7168 * (2 + 2) * 7 / (same.link * 900e9)
    in_rack_s = sent_s * 8 * (1 - (7 / 8) ** 8) / 8
    assert times[0] - times[1] > 58 * (sent_s - in_rack_s)


def test_dense_models_in_bf16_have_values_of_their_own_on_hopper_only():
    qwen, h200 = load_model("qwen3-8b"), load_gpu("h200")
    assert efficiency_of(h200, qwen, "bf16").memory > 0.8 > Efficiency().memory
    assert efficiency_of(h200, qwen, "bf16").layer_s < Efficiency().layer_s
    assert efficiency_of(h200, qwen, "fp8").memory == efficiency_of(B200, qwen, "bf16").memory == Efficiency().memory
    assert efficiency_of(h200, load_model("qwen3-235b-a22b"), "bf16").memory == Efficiency().memory  # experts
    assert efficiency_of(h200, R1, "fp8").memory == learnt_for("h200", True, "fp8").values["memory"].value
    for name, learnt in learnt_for("h200", False, "bf16", dense=True).values.items():
        assert learnt.low <= learnt.value <= learnt.high, name
