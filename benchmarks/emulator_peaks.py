"""Peak throughput of the emulated server beside NVIDIA's published figures.

For each row of the aggregated table in TensorRT-LLM's performance overview the emulator's scheduler runs, in virtual
time, what the overview says was run: ``trtllm-bench throughput`` sends a fixed number of requests at once, and the
figure is all their output tokens over the time to the last of them, the start with nothing but prompts and the
emptying end included. Mapping, precision, KV format, attention-DP balancing and CUDA-graph sizes are those that the
overview states; what it leaves at defaults (whole prompts, batch and token limits, memory) is TensorRT-LLM's default.

With both step-time models where the optional extra ``ratematch[kernels]`` is installed, else with the roofline alone.
Exit code 1 when a row of the roofline is off by more than a factor of two.

    python benchmarks/emulator_peaks.py
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from dataclasses import dataclass

from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.scheduler import AttentionDpBalance, Scheduler, SchedulerConfig, Sequence
from ratematch.emulator.steptime import RooflineStepTime, StepBatch, StepTime
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.memory import MemoryUse, activation_bytes, kv_tokens_per_rank
from ratematch.plan.parallelism import parse_mapping

MAX_NUM_TOKENS = 8192
MAX_BATCH_SIZE = 2048
KV_FRACTION = 0.9
BALANCED = {"deepseek-r1": AttentionDpBalance(timeout_iters=60, batching_wait_iters=0)}
"""Only DeepSeek R1 was run with the balancing of prompts over attention-DP ranks."""
REQUESTS = {1000: 3000, 1024: 3000, 8192: 1500, 32768: 1000}
"""Requests of a run, by the longer of prompt and output."""
GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 1024, MAX_BATCH_SIZE)
"""Batches that a CUDA graph was captured for; a batch in between is filled up to the next one."""
RUNTIME_B = 4e9
"""CUDA context, NCCL and workspaces of one GPU, a usual figure."""
MOST_AHEAD = 10_000
"""Iterations taken together while nothing but the caches changes."""


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
_LATER: dict[tuple[str, str, str, str], list[float | None]] = {
    ("qwen3-235b-a22b", "b200", "DEP4", "nvfp4"): [None, None, None, 1255, None, None],
    ("qwen3-30b-a3b", "b200", "TP1", "nvfp4"): [None, None, 13497, 4494, None, None],
    ("qwen3-30b-a3b", "gb200", "TP1", "nvfp4"): [None, None, 14272, 4925, None, None],
    ("gpt-oss-120b", "b200", "DEP2", "mxfp4"): [None, 25870, 17289, 6279, None, 1392],
    ("gpt-oss-120b", "gb200", "TP1", "mxfp4"): [None, 26609, 14800, 5556, None, 1645],
    ("gpt-oss-120b", "h200", "TP1", "mxfp4"): [None, 6798, 3543, None, None, 519],
    ("gpt-oss-120b", "h100", "DEP4", "mxfp4"): [None, 4715, None, 1177, None, 333],
    ("llama-3.3-70b", "b200", "TP1", "nvfp4"): [None, 6842, 3242, None, None, 274],
    ("llama-3.3-70b", "gb200", "TP1", "nvfp4"): [None, 7751, 3805, None, None, 302],
    ("llama-3.3-70b", "h200", "TP2", "fp8"): [None, 2582, 2009, None, None, 120],
}
"""Rows that were compared with only after both models and this benchmark had been fixed."""


def _rows(table: dict[tuple[str, str, str, str], list[float | None]]) -> list[Published]:
    return [
        Published(*setup, isl, osl, value)
        for setup, values in table.items()
        for (isl, osl), value in zip(_LENGTHS, values, strict=True)
        if value is not None
    ]


GROUPS = {"rows known before": _rows(_TABLE), "rows added later": _rows(_LATER)}


@dataclass(frozen=True)
class GraphStepTime:
    """Steps without prompts run as CUDA graphs: every rank's batch is filled up to the captured size that holds the
    largest one. A sequence that only fills has one token in its cache."""

    model: StepTime

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        most = max(load.gen_requests for load in batch.ranks)
        if most and not any(load.ctx_tokens for load in batch.ranks):
            size = GRAPH_SIZES[bisect_left(GRAPH_SIZES, most)]
            batch = StepBatch(
                tuple(
                    load._replace(gen_requests=size, kv_read_tokens=load.kv_read_tokens + size - load.gen_requests)
                    for load in batch.ranks
                )
            )
        return self.model.seconds(batch, overlap)


def simulate_all_at_once(scheduler: Scheduler, num_requests: int, isl: int, osl: int) -> float:
    """Virtual seconds until ``num_requests`` requests, sent together to an empty server, are answered."""
    for number in range(num_requests):
        scheduler.add(Sequence(number, isl, osl), 0.0)
    now_s, done = 0.0, 0
    while done < num_requests:
        step = scheduler.begin(now_s, MOST_AHEAD)
        if step is None:
            raise RuntimeError("the scheduler cannot go on although requests are waiting")
        now_s = step.end_s
        done += sum(emission.finished for emission in scheduler.finish(step, now_s, all_tokens=False))
    return now_s


def find_throughput(row: Published, kernels: bool = False) -> float:
    """Output tok/s/GPU of the row's run.

    Raises:
        ValueError: ``kernels``, and the database is not there or has nothing for the row.
    """
    model, gpu, mapping = load_model(row.model), load_gpu(row.gpu), parse_mapping(row.mapping)
    # gpt-oss on Hopper was run with the cache in its own format, which is bf16; everything else had FP8.
    kv_dtype = "bf16" if row.precision == "mxfp4" and "nvfp4" not in gpu.flops else "fp8"
    step_time: StepTime = (
        KernelStepTime(model, gpu, mapping, row.precision, kv_dtype)
        if kernels
        else RooflineStepTime(model, gpu, mapping, row.precision, kv_dtype)
    )
    # trtllm-bench does not chunk prompts unless told to, and raises the token limit to a prompt beside a full batch.
    max_num_tokens = max(MAX_NUM_TOKENS, row.isl + MAX_BATCH_SIZE)
    reserve_b = RUNTIME_B + activation_bytes(model, mapping, max_num_tokens, MAX_BATCH_SIZE)
    use = MemoryUse(row.precision, kv_dtype, KV_FRACTION, reserve_b)
    kv_tokens = kv_tokens_per_rank(model, gpu, mapping, use)
    config = SchedulerConfig(
        mapping, MAX_BATCH_SIZE, max_num_tokens, row.isl + row.osl, kv_tokens, balance=BALANCED.get(row.model)
    )
    num_requests = REQUESTS[max(row.isl, row.osl)]
    total_s = simulate_all_at_once(Scheduler(config, GraphStepTime(step_time)), num_requests, row.isl, row.osl)
    return num_requests * row.osl / total_s / mapping.gpus


def sum_up(name: str, what: str, ratios: list[float], asked: int) -> str:
    errors = sorted(abs(ratio - 1) for ratio in ratios)
    worst = max(ratios, key=lambda ratio: abs(math.log(ratio)))
    return (
        f"{name}, {what}: {len(ratios)} of {asked}, median error {errors[len(errors) // 2]:.0%}, largest "
        f"{errors[-1]:.0%}, worst ratio {worst:.2f}, {sum(e <= 0.5 for e in errors)} within 50 %"
    )


def main() -> int:
    started = time.perf_counter()
    models = f"{'roofline':>9} {'ratio':>6} {'kernels':>9} {'ratio':>6}"
    print(f"{'model':17} {'gpu':6} {'mapping':7} {'ISL/OSL':>12} {'published':>9} {models}")
    ratios: dict[str, dict[str, list[float]]] = {
        name: {what: [] for what in GROUPS} for name in ("roofline", "kernels")
    }
    why: set[str] = set()
    for what, rows in GROUPS.items():
        for row in rows:
            cells = ""
            for name, found in ratios.items():
                try:
                    rate = find_throughput(row, kernels=name == "kernels")
                except ValueError as error:
                    why.add(str(error))
                    cells += f" {'-':>9} {'-':>6}"
                    continue
                found[what].append(rate / row.tok_s_gpu)
                cells += f" {rate:9.0f} {rate / row.tok_s_gpu:6.2f}"
            lengths = f"{row.isl}/{row.osl}"
            print(f"{row.model:17} {row.gpu:6} {row.mapping:7} {lengths:>12} {row.tok_s_gpu:9.0f}{cells}")
    for name, found in ratios.items():
        for what, rows in GROUPS.items():
            if found[what]:
                print(sum_up(name, what, found[what], len(rows)))
    for text in sorted(why):
        print(f"kernels: {text}")
    print(f"{time.perf_counter() - started:.0f} s")
    return 1 if any(not 0.5 <= ratio <= 2 for each in ratios["roofline"].values() for ratio in each) else 0


if __name__ == "__main__":
    raise SystemExit(main())
