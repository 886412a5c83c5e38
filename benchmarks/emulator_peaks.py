"""Peak throughput of the emulated server beside NVIDIA's published figures.

For each row of the aggregated table in TensorRT-LLM's performance overview, with the mapping and precision stated
there: start the scheduler in the middle of a closed loop (every sequence somewhere in its output), run it in virtual
time for a number of steps, take the best of a concurrency ladder. With both step-time models where the optional extra
``ratematch[kernels]`` is installed, else with the roofline alone. Exit code 1 when a row of the roofline is off by
more than a factor of two.

    python benchmarks/emulator_peaks.py [--steps 300]
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass

from ratematch.catalog import load_gpu, load_model
from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.scheduler import AttentionDpBalance, Scheduler, SchedulerConfig, Sequence
from ratematch.emulator.steptime import RooflineStepTime, StepTime
from ratematch.plan.mapping import parse_mapping
from ratematch.plan.memory import activation_bytes, kv_tokens_per_rank

MAX_NUM_TOKENS = 8192
MAX_BATCH_SIZE = 2048
KV_FRACTION = 0.9
BALANCE = AttentionDpBalance()
RUNTIME_B = 4e9
"""CUDA context, NCCL and workspaces of one GPU, a usual figure."""


@dataclass(frozen=True)
class Published:
    """Output tok/s per GPU at best load, from TensorRT-LLM's performance overview."""

    model: str
    gpu: str
    mapping: str
    precision: str
    isl: int
    osl: int
    tok_s_gpu: float


_LENGTHS = [(1000, 1000), (1024, 1024), (1024, 8192), (1024, 32768), (8192, 1024), (32768, 1024)]
_TABLE: dict[tuple[str, str, str, str], list[float | None]] = {
    ("deepseek-r1", "b200", "DEP4", "nvfp4"): [6463, 6430, 3862, 1451, 1168, None],
    ("deepseek-r1", "gb200", "DEP4", "nvfp4"): [6939, 6924, 4379, 1465, 1192, None],
    ("deepseek-r1", "h200", "DEP8", "fp8"): [1627, 1620, 1218, 438, None, None],
    ("qwen3-235b-a22b", "b200", "DEP4", "nvfp4"): [5764, 5756, 3389, None, 1410, 319],
    ("qwen3-235b-a22b", "gb200", "DEP4", "nvfp4"): [6172, 5862, 3423, None, 1464, 333],
    ("qwen3-235b-a22b", "h200", "DEP4", "fp8"): [3288, 3268, 1417, None, 627, 134],
    ("qwen3-235b-a22b", "h100", "DEP8", "fp8"): [1932, 1935, 873, None, None, None],
    ("qwen3-30b-a3b", "b200", "TP1", "nvfp4"): [26971, 26611, None, None, 5735, 1265],
    ("qwen3-30b-a3b", "gb200", "TP1", "nvfp4"): [22856, 22201, None, None, 6201, 1380],
    ("gpt-oss-120b", "b200", "DEP2", "mxfp4"): [25943, None, None, None, 6111, None],
    ("gpt-oss-120b", "gb200", "TP1", "mxfp4"): [27198, None, None, None, 6835, None],
    ("gpt-oss-120b", "h200", "TP1", "mxfp4"): [6868, None, None, None, 1828, None],
    ("gpt-oss-120b", "h100", "DEP4", "mxfp4"): [4685, None, None, None, 1169, None],
    ("llama-3.3-70b", "b200", "TP1", "nvfp4"): [6920, None, None, None, 1362, None],
    ("llama-3.3-70b", "gb200", "TP1", "nvfp4"): [7769, None, None, None, 1491, None],
    ("llama-3.3-70b", "h200", "TP2", "fp8"): [2587, None, None, None, 537, None],
    ("llama-3.3-70b", "h100", "TP2", "fp8"): [2209, None, None, None, 398, None],
}
ROWS = [
    Published(*setup, isl, osl, value)
    for setup, values in _TABLE.items()
    for (isl, osl), value in zip(_LENGTHS, values, strict=True)
    if value is not None
]


def simulate_closed_loop(scheduler: Scheduler, concurrency: int, num_requests: int, isl: int, osl: int) -> float:
    """Virtual seconds until ``num_requests`` requests, ``concurrency`` in flight, are answered from a cold start."""
    now_s, sent, done = 0.0, 0, 0
    while done < num_requests:
        while sent < num_requests and sent - done < concurrency:
            scheduler.add(Sequence(sent, isl, osl), now_s)
            sent += 1
        step = scheduler.begin(now_s)
        if step is None:
            raise RuntimeError("the scheduler cannot go on although requests are waiting")
        now_s = step.end_s
        done += sum(emission.finished for emission in scheduler.finish(step, now_s))
    return now_s


def simulate_steady(scheduler: Scheduler, concurrency: int, isl: int, osl: int, steps: int, seed: int = 0) -> float:
    """Output tok/s of a closed loop in its middle, from ``steps`` iterations after half as many to settle."""
    rng = random.Random(seed)
    for k in range(concurrency):
        age = rng.randrange(osl)
        scheduler.add(Sequence(k, isl + age, osl - age, kind="generation_only"), 0.0)
    now_s = start_s = 0.0
    sent, tokens, settle = concurrency, 0, steps // 2
    for k in range(settle + steps):
        step = scheduler.begin(now_s)
        if step is None:
            raise RuntimeError("the scheduler cannot go on although requests are waiting")
        now_s = step.end_s
        emissions = scheduler.finish(step, now_s)
        for _ in range(sum(emission.finished for emission in emissions)):
            scheduler.add(Sequence(sent, isl, osl), now_s)
            sent += 1
        if k >= settle:
            tokens += sum(emission.tokens for emission in emissions)
        else:
            start_s = now_s
    return tokens / (now_s - start_s)


def find_peak(row: Published, steps: int, kernels: bool = False) -> tuple[float, int]:
    """(output tok/s/GPU, concurrency) of the best rung: all or half of what KV and batch size admit.

    Raises:
        ValueError: ``kernels``, and the database is not there or has nothing for the row.
    """
    model, gpu, mapping = load_model(row.model), load_gpu(row.gpu), parse_mapping(row.mapping)
    # openai's MXFP4 checkpoint has no KV scales, so its cache stays in bf16; the others are quantised with FP8 KV.
    kv_dtype = "bf16" if row.precision == "mxfp4" else "fp8"
    step_time: StepTime = (
        KernelStepTime(model, gpu, mapping, row.precision, kv_dtype)
        if kernels
        else RooflineStepTime(model, gpu, mapping, row.precision, kv_dtype)
    )
    reserve_b = RUNTIME_B + activation_bytes(model, mapping, MAX_NUM_TOKENS, MAX_BATCH_SIZE)
    kv_tokens = kv_tokens_per_rank(model, gpu, mapping, row.precision, kv_dtype, KV_FRACTION, reserve_b)
    config = SchedulerConfig(
        mapping, MAX_BATCH_SIZE, MAX_NUM_TOKENS, row.isl + row.osl, kv_tokens, chunked_prefill=True, balance=BALANCE
    )
    blocks_each = -(-(row.isl + row.osl) // config.tokens_per_block)
    most = min(MAX_BATCH_SIZE, config.kv_blocks // blocks_each) * mapping.dp_ranks
    best = (0.0, 0)
    for concurrency in sorted({most, max(1, most // 2)}):
        rate = simulate_steady(Scheduler(config, step_time), concurrency, row.isl, row.osl, steps)
        best = max(best, (rate / mapping.gpus, concurrency))
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description="emulated against published peak throughput")
    parser.add_argument("--steps", type=int, default=300, help="iterations measured per concurrency")
    steps = parser.parse_args().steps
    started = time.perf_counter()
    models = f"{'roofline':>9} {'ratio':>6} {'kernels':>9} {'ratio':>6}"
    print(f"{'model':17} {'gpu':6} {'mapping':7} {'ISL/OSL':>12} {'published':>9} {models}")
    ratios: dict[str, list[float]] = {"roofline": [], "kernels": []}
    why: set[str] = set()
    for row in ROWS:
        cells = ""
        for name in ratios:
            try:
                rate, _ = find_peak(row, steps, kernels=name == "kernels")
            except ValueError as error:
                why.add(str(error))
                cells += f" {'-':>9} {'-':>6}"
                continue
            ratios[name].append(rate / row.tok_s_gpu)
            cells += f" {rate:9.0f} {rate / row.tok_s_gpu:6.2f}"
        lengths = f"{row.isl}/{row.osl}"
        print(f"{row.model:17} {row.gpu:6} {row.mapping:7} {lengths:>12} {row.tok_s_gpu:9.0f}{cells}")
    for name, found in ratios.items():
        if found:
            errors = sorted(abs(ratio - 1) for ratio in found)
            worst = max(found, key=lambda ratio: abs(math.log(ratio)))
            print(
                f"{name}: {len(found)} of {len(ROWS)} rows, median error {errors[len(errors) // 2]:.0%}, largest "
                f"{errors[-1]:.0%}, worst ratio {worst:.2f}, {sum(e <= 0.5 for e in errors)} within 50 %"
            )
    for text in sorted(why):
        print(f"kernels: {text}")
    print(f"{time.perf_counter() - started:.0f} s")
    return 1 if any(not 0.5 <= ratio <= 2 for ratio in ratios["roofline"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
