"""Step time: more work never takes less time, and each limit shows where it should."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.emulator.efficiency import Efficiency, efficiency_of, row_bytes
from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model, model_names
from ratematch.plan.parallelism import Parallelism, parse_mapping

R1, GB200 = load_model("deepseek-r1"), load_gpu("gb200")


def roofline(mapping="DEP8", model=R1, gpu=GB200, precision="fp8", **efficiency):
    return RooflineStepTime(model, gpu, parse_mapping(mapping), precision, "fp8", Efficiency(**efficiency))


def generation(requests, context=1500, query=1):
    return RankLoad(gen_requests=requests, query_tokens=query, kv_read_tokens=requests * context)


def prompt(tokens, past=0):
    return RankLoad(ctx_requests=1, ctx_tokens=tokens, ctx_attended=tokens * (past + (tokens + 1) / 2))


def same(load, ranks):
    return StepBatch((load,) * ranks)


loads = st.builds(
    RankLoad,
    ctx_requests=st.integers(0, 8),
    ctx_tokens=st.integers(0, 32768),
    ctx_attended=st.integers(0, 10**9),
    gen_requests=st.integers(0, 2048),
    query_tokens=st.just(2),
    kv_read_tokens=st.integers(0, 10**7),
)
single_stage = st.builds(
    lambda tp, ep, dp, cp: Parallelism(tp=tp, ep=min(ep, tp), cp=cp, attention_dp=dp),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.booleans(),
    st.sampled_from([1, 2]),
)


@settings(max_examples=200)
@given(st.sampled_from(model_names()), single_stage, loads, loads, st.booleans())
def test_more_work_never_takes_less_time(name, mapping, load, extra, overlap):
    step_time = RooflineStepTime(load_model(name), GB200, mapping, "fp8")
    more = RankLoad(*(a + b for a, b in zip(load, extra, strict=True)))._replace(query_tokens=2)
    rest = (load,) * (mapping.dp_ranks - 1)
    before = step_time.seconds(StepBatch((load, *rest)), overlap)
    assert before > 0
    assert step_time.seconds(StepBatch((more, *rest)), overlap) >= before * (1 - 1e-12)


@given(st.sampled_from([1, 2, 4]), st.integers(1, 512), st.integers(1, 512), st.integers(1, 8192))
def test_pipeline_step_grows_with_batch(pp, requests, extra, context):
    step_time = roofline(f"TEP4PP{pp}")
    fewer = step_time.seconds(same(generation(requests, context), 1))
    assert step_time.seconds(same(generation(requests + extra, context), 1)) >= fewer * (1 - 1e-12)


def test_the_slowest_rank_decides():
    step_time = roofline("DEP4")
    even = step_time.seconds(same(generation(100, 8000), 4))
    light = generation(80, 8000)
    uneven = step_time.seconds(StepBatch((generation(160, 8000), light, light, light)))
    assert uneven > even * 1.05


def test_one_rank_with_a_prompt_makes_all_ranks_pay():
    step_time = roofline("DEP4")
    lonely = step_time.seconds(StepBatch((prompt(8192), *(generation(8),) * 3)))
    assert (
        lonely > 0.8 * step_time.seconds(StepBatch((prompt(8192),))) > 3 * step_time.seconds(same(generation(8), 4))
    )


def test_a_small_batch_is_bound_by_weights_and_a_prompt_by_flops():
    one, two = (roofline().seconds(same(generation(n), 8)) for n in (1, 2))
    assert two < 1.9 * one  # throughput grows with batch
    short, long = (roofline().seconds(same(prompt(n), 8)) for n in (8192, 16384))
    assert 1.8 < long / short < 2.6  # slightly above 2: attention


def test_untouched_experts_are_not_read():
    few_experts = roofline("TEP8").seconds(same(generation(1), 1))
    all_experts = roofline("TEP8").seconds(same(generation(200), 1))
    reading_all_s = 58 * 256 * 3 * 7168 * 2048 / 8 / (Efficiency().memory * GB200.memory_b_s)
    assert few_experts < reading_all_s < all_experts


def test_drafts_cost_time_but_less_than_another_step():
    plain = roofline("TEP8").seconds(same(generation(4), 1))
    drafted = roofline("TEP8").seconds(same(generation(4, query=2), 1))
    assert plain < drafted < 2 * plain


def test_leaving_the_nvlink_domain_costs():
    h200 = load_gpu("h200")
    inside = roofline("DEP8", gpu=h200).seconds(same(prompt(8192), 8))
    outside = roofline("DEP16", gpu=h200).seconds(same(prompt(8192), 16))
    assert outside > 1.1 * inside
    on_rack = roofline("DEP16").seconds(same(prompt(8192), 16)) / roofline("DEP8").seconds(same(prompt(8192), 8))
    assert on_rack < 1.1


def test_host_time_is_hidden_by_overlap_and_added_without():
    step_time = roofline("TEP8", host_step_s=0.004, host_request_s=0.0)
    batch = same(generation(64), 1)
    device = step_time.seconds(batch)
    assert step_time.seconds(batch, overlap=False) == pytest.approx(device + 0.004)
    slow_host = roofline("TEP8", host_step_s=1.0, host_request_s=0.0)
    assert slow_host.seconds(batch) == pytest.approx(1.0)


def test_more_gpus_are_faster_and_newer_ones_too():
    batch = same(generation(64), 1)
    assert roofline("TEP8").seconds(batch) < roofline("TEP4").seconds(batch)
    assert roofline("TEP8").seconds(batch) < roofline("TEP8", gpu=load_gpu("h200")).seconds(batch)
    assert roofline("TEP8", precision="nvfp4").seconds(batch) < roofline("TEP8").seconds(batch)


def test_latency_of_one_user_is_in_the_published_range():
    # DeepSeek R1 NVFP4 on eight B200, three drafts, 2.56 tokens per step: 250 to 400 tokens/s/user
    step_time = roofline("TEP8", gpu=load_gpu("b200"), precision="nvfp4")
    assert 250 < 2.56 / step_time.seconds(same(generation(1, query=4), 1)) < 400


def test_long_prompts_use_all_pipeline_stages_when_cut_in_pieces():
    step_time = roofline("TEP4PP4")
    whole = step_time.seconds(same(prompt(32768), 1))
    pieces = step_time.seconds(same(prompt(32768)._replace(ctx_pieces=4), 1))
    assert pieces < 0.5 * whole


def test_a_format_the_gpu_cannot_run_is_refused():
    with pytest.raises(ValueError, match="h200 has no nvfp4 rate"):
        roofline(gpu=load_gpu("h200"), precision="nvfp4")
    with pytest.raises(ValueError, match="'int2' is not known"):
        roofline(precision="int2")


def test_a_step_with_prompts_is_no_shorter_than_launching_its_kernels():
    slow = roofline("TEP8", launch_layer_s=1e-3)
    assert slow.seconds(same(prompt(64), 1)) == pytest.approx(R1.depth * 1e-3)
    assert slow.seconds(same(generation(4), 1)) == roofline("TEP8").seconds(same(generation(4), 1))  # a CUDA graph
    third = prompt(64)._replace(ctx_requests=1 / 3)  # the mean of steps of which every third has a prompt
    assert 0.3 < slow.seconds(same(third, 1)) / (R1.depth * 1e-3) < 0.6
    assert slow.seconds(same(prompt(65_536), 1)) == roofline("TEP8").seconds(same(prompt(65_536), 1))  # hidden


def test_few_expert_ranks_gather_unless_told_to_exchange():
    """Eight experts a token: on up to eight ranks all tokens go everywhere."""

    def with_(mapping, all_to_all):
        return RooflineStepTime(R1, GB200, parse_mapping(mapping), "fp8", all_to_all=all_to_all)

    for mapping, ranks, fewer in (("DEP8", 8, True), ("DEP16", 16, False)):
        batch = same(prompt(8192), ranks)
        assert (with_(mapping, True).seconds(batch) < with_(mapping, False).seconds(batch)) is fewer


def test_fp8_in_blocks_is_sent_as_bf16():
    steps = {name: RooflineStepTime(R1, GB200, parse_mapping("DEP4"), name) for name in ("fp8", "nvfp4")}
    sent = {name: (each._exchange_s(4097) - each._exchange_s(1)) * each._link_b_s for name, each in steps.items()}
    assert sent["fp8"] / sent["nvfp4"] == pytest.approx((2 + 2) / (0.5625 + 2), rel=1e-3)


def test_kernels_one_behind_another_move_each_row_several_times():
    """DeepGEMM's: 16 bytes a hidden element of a row where fused ones move 4; 10 instead of 6 between products."""
    fused = efficiency_of(GB200, R1, "fp8", "TRTLLM", attention_dp=True)
    assert (fused.moe_row_b, fused.moe_row_ffn_b) == (4, 6)
    steps = [
        RooflineStepTime(R1, GB200, parse_mapping("DEP16"), "fp8", efficiency=each)
        for each in (fused, row_bytes(fused, "DEEPGEMM"))
    ]
    copies = fused.moe_imbalance * 4096 * 8 / 16
    more_b = copies * (12 * R1.hidden + 4 * 2048)
    times = [each._moe_s(4096, 256) for each in steps]
    assert times[1] - times[0] == pytest.approx(more_b / (fused.memory * 8e12))


def test_sums_are_written_for_every_token_that_a_rank_has():
    """Gathered ones are all; by all-to-all those come that have an expert there, six of ten on eight ranks."""
    moved_b = []
    for all_to_all in (False, True):
        steps = RooflineStepTime(R1, GB200, parse_mapping("DEP8"), "fp8", all_to_all=all_to_all)
        none = RooflineStepTime(R1, GB200, parse_mapping("DEP8"), "fp8", all_to_all=all_to_all)
        none._share_here = 0.0
        moved_b.append((steps._moe_s(2048, 256) - none._moe_s(2048, 256)) * steps._bandwidth)
    assert moved_b == pytest.approx([2048 * 7168 * 2, 2048 * 7168 * 2 * (1 - (7 / 8) ** 8)])
