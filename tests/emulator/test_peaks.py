"""Peak throughput of the steady state against TensorRT-LLM's published aggregated table, within a factor of two.

The mean step of a closed loop in closed form: n sequences per rank, of which n / OSL end and start per step.
``benchmarks/emulator_peaks.py`` does the same for all rows with the scheduler itself.
"""

import pytest

from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.memory import MemoryUse, activation_bytes, kv_tokens_per_rank
from ratematch.plan.parallelism import parse_mapping

ROWS = [
    ("deepseek-r1", "b200", "DEP4", "nvfp4", 1024, 1024, 6430),
    ("deepseek-r1", "gb200", "DEP4", "nvfp4", 1024, 8192, 4379),
    ("deepseek-r1", "h200", "DEP8", "fp8", 1024, 32768, 438),
    ("deepseek-r1", "gb200", "DEP4", "nvfp4", 8192, 1024, 1192),
    ("qwen3-235b-a22b", "h200", "DEP4", "fp8", 1000, 1000, 3288),
    ("qwen3-235b-a22b", "b200", "DEP4", "nvfp4", 32768, 1024, 319),
    ("qwen3-30b-a3b", "b200", "TP1", "nvfp4", 8192, 1024, 5735),
    ("gpt-oss-120b", "h100", "DEP4", "mxfp4", 1000, 1000, 4685),
    ("llama-3.3-70b", "h100", "TP2", "fp8", 1000, 1000, 2209),
    ("llama-3.3-70b", "gb200", "TP1", "nvfp4", 8192, 1024, 1491),
]


@pytest.mark.parametrize(("name", "gpu_name", "label", "precision", "isl", "osl", "published"), ROWS)
def test_peak_is_within_a_factor_of_two(name, gpu_name, label, precision, isl, osl, published):
    model, gpu, mapping = load_model(name), load_gpu(gpu_name), parse_mapping(label)
    kv_dtype = "bf16" if precision == "mxfp4" else "fp8"
    reserve_b = 4e9 + activation_bytes(model, mapping, 8192, 2048)
    tokens = kv_tokens_per_rank(model, gpu, mapping, MemoryUse(precision, kv_dtype, 0.9, reserve_b))
    n = min(2048, tokens // (isl + osl))
    mean_load = RankLoad(
        ctx_requests=n / osl,
        ctx_tokens=n / osl * isl,
        ctx_attended=n / osl * isl * (isl + 1) / 2,
        gen_requests=n,
        kv_read_tokens=n * (isl + osl / 2),
    )
    step_s = RooflineStepTime(model, gpu, mapping, precision, kv_dtype).seconds(
        StepBatch((mean_load,) * mapping.dp_ranks)
    )
    ratio = n * mapping.dp_ranks / step_s / mapping.gpus / published
    assert 0.5 < ratio < 2
