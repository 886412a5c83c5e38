"""KV and weight bytes against published sizes, and the arithmetic of the memory fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.inputs.catalog import gpu_names, load_gpu, load_model, model_names
from ratematch.plan.memory import (
    MemoryUse,
    activation_bytes,
    default_precision,
    kv_bytes_per_token,
    kv_bytes_per_token_per_rank,
    kv_duplication,
    kv_tokens_per_rank,
    memory_fit,
    total_params,
    transfer_bytes,
    transfer_bytes_received,
    weight_bytes_per_rank,
)
from ratematch.plan.parallelism import Parallelism, parse_mapping

R1, QWEN, LLAMA = (load_model(name) for name in ("deepseek-r1", "qwen3-235b-a22b", "llama-3.3-70b"))


@pytest.mark.parametrize(
    ("model", "mtp_layers", "bf16", "fp8"),
    [(R1, 0, 70272, 35136), (R1, 1, 71424, 35712), (QWEN, 0, 192512, 96256), (LLAMA, 0, 327680, 163840)],
)
def test_kv_bytes_per_token_are_exact(model, mtp_layers, bf16, fp8):
    assert kv_bytes_per_token(model, "bf16", mtp_layers) == bf16
    assert kv_bytes_per_token(model, "fp8", mtp_layers) == fp8


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("deepseek-r1", 671.0),
        ("qwen3-235b-a22b", 235.1),
        ("qwen3-30b-a3b", 30.5),
        ("llama-3.3-70b", 70.6),
        ("gpt-oss", 116.8),
    ],
)
def test_parameter_counts_are_the_published_ones(name, billions):
    assert total_params(load_model(name)) / 1e9 == pytest.approx(billions, abs=0.05)


def test_transfer_of_one_deepseek_prompt():
    one_way = transfer_bytes(R1, 8192, "fp8")
    assert one_way / 1e9 == pytest.approx(0.287834112)
    # 4.5 requests/s per GPU: what attention DP receives, and TP4 with the latent on every rank
    assert 4.5 * transfer_bytes_received(R1, parse_mapping("DEP4"), 8192, "fp8") / 1e9 == pytest.approx(1.295253504)
    assert 4.5 * transfer_bytes_received(R1, parse_mapping("TEP4"), 8192, "fp8") / 1e9 == pytest.approx(5.181014016)


@pytest.mark.parametrize(
    ("model", "label", "share"),
    [
        (R1, "TP8", 1),  # the latent is replicated
        (R1, "DEP8", 1),
        (LLAMA, "TP4", 1 / 4),
        (LLAMA, "TP8PP2", 1 / 16),
        (QWEN, "TP8", 1 / 4),  # 4 KV heads on 8 ranks: stored twice
        (QWEN, "DEP8", 1),
        (LLAMA, "TP4CP2", 1 / 8),
    ],
)
def test_kv_bytes_on_each_rank(model, label, share):
    whole = kv_bytes_per_token(model, "fp8")
    assert kv_bytes_per_token_per_rank(model, parse_mapping(label), "fp8") == pytest.approx(whole * share)


@given(st.sampled_from([R1, QWEN, LLAMA]), st.sampled_from([1, 2, 4, 8, 16]), st.booleans())
def test_what_the_ranks_store_is_the_whole_cache_times_its_duplication(model, tp, attention_dp):
    mapping = Parallelism(tp=tp, ep=tp, attention_dp=attention_dp)
    holders = 1 if attention_dp else tp
    stored = holders * kv_bytes_per_token_per_rank(model, mapping, "fp8")
    assert stored == pytest.approx(kv_bytes_per_token(model, "fp8") * kv_duplication(model, mapping))


def test_weights_of_deepseek_on_eight_gpus():
    # 653.9e9 routed-expert parameters in FP8 over 8 GPUs are 81.7 GB; the rest is replicated under attention DP
    dep8 = weight_bytes_per_rank(R1, parse_mapping("DEP8"), "fp8") / 1e9
    tep8 = weight_bytes_per_rank(R1, parse_mapping("TEP8"), "fp8") / 1e9
    assert 81.7 + 15 < dep8 < 81.7 + 21
    assert 81.7 + 1.5 < tep8 < 81.7 + 4


@given(
    st.sampled_from([load_model(name) for name in model_names()]),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.sampled_from(["bf16", "fp8", "nvfp4"]),
)
def test_ranks_together_hold_at_least_the_model(model, tp, attention_dp, precision):
    mapping = Parallelism(tp=tp, ep=tp, attention_dp=attention_dp)
    per_rank = weight_bytes_per_rank(model, mapping, precision)
    one = weight_bytes_per_rank(model, Parallelism(), precision)
    assert one / tp * (1 - 1e-9) <= per_rank <= one * (1 + 1e-9)
    assert per_rank <= weight_bytes_per_rank(model, mapping, precision, mtp_layers=1)


@given(st.sampled_from([R1, QWEN, LLAMA]), st.sampled_from([1, 2, 3, 4, 8]))
def test_pipeline_stages_together_hold_at_least_the_model(model, pp):
    whole = weight_bytes_per_rank(model, Parallelism(), "fp8")
    embeddings = 2 * model.vocab * model.hidden * 2
    stage = weight_bytes_per_rank(model, Parallelism(pp=pp), "fp8")
    assert (whole - embeddings) / pp <= stage <= whole


def test_deepseek_on_h200_holds_about_130_long_requests_per_gpu():
    tokens = kv_tokens_per_rank(R1, load_gpu("h200"), parse_mapping("DEP8"), MemoryUse("fp8", "fp8", 0.8, 3e9))
    assert 115 <= tokens // 8448 <= 140


def test_memory_fit_explains_itself():
    fit = memory_fit(R1, load_gpu("h200"), parse_mapping("TP4"), MemoryUse("fp8", "fp8", 0.9, 5e9))
    assert not fit.fits
    assert fit.kv_tokens == 0
    assert "the weights do not fit" in fit.explanation
    assert "151.4 GB" in fit.explanation

    short = memory_fit(
        R1, load_gpu("h200"), parse_mapping("DEP8"), MemoryUse("fp8", "fp8", 0.8, 5e9), tokens_needed=10_000_000
    )
    assert not short.fits
    assert "10000000 needed" in short.explanation

    enough = memory_fit(
        R1, load_gpu("h200"), parse_mapping("DEP8"), MemoryUse("fp8", "fp8", 0.8, 5e9), tokens_needed=500_000
    )
    assert enough.fits


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 100e9),
    st.floats(0, 100e9),
    st.sampled_from([load_gpu(name) for name in gpu_names()]),
)
def test_more_fraction_or_less_reserve_never_holds_fewer_tokens(f1, f2, r1, r2, gpu):
    low_f, high_f = sorted((f1, f2))
    low_r, high_r = sorted((r1, r2))
    mapping = parse_mapping("DEP8")
    less = kv_tokens_per_rank(QWEN, gpu, mapping, MemoryUse("fp8", "fp8", low_f, high_r))
    more = kv_tokens_per_rank(QWEN, gpu, mapping, MemoryUse("fp8", "fp8", high_f, low_r))
    assert 0 <= less <= more


def test_activations_grow_with_tokens_and_batch():
    mapping = parse_mapping("DEP8")
    base = activation_bytes(R1, mapping, 8192, 256)
    assert base < activation_bytes(R1, mapping, 16384, 256)
    assert base < activation_bytes(R1, mapping, 8192, 512)
    assert 1e9 < base < 20e9


def test_unknown_format_and_fraction_are_refused():
    with pytest.raises(ValueError, match=r"'int3' is not known.*fp8"):
        kv_bytes_per_token(R1, "int3")
    with pytest.raises(ValueError, match="between 0 and 1"):
        memory_fit(R1, load_gpu("h200"), parse_mapping("DEP8"), MemoryUse("fp8", "fp8", 1.5, 0))


def test_default_precision_is_the_models_only_one_or_the_usual_of_the_gpu():
    assert default_precision(R1, load_gpu("h200")) == "fp8"
    assert default_precision(R1, load_gpu("gb200")) == "nvfp4"
    assert default_precision(load_model("gpt-oss-120b"), load_gpu("gb200")) == "mxfp4"
