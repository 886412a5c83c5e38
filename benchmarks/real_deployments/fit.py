"""The values of ``ratematch/data/efficiency.yaml``, fitted on the rows.

    python -m benchmarks.real_deployments.fit [--rows FILE] [--each] [--write]

No simulation: a row's TPOT is compared with the step at the number of requests that generate in it (Little's law, of
measured figures), stretched by the prompts that join an aggregated server meanwhile, and the request rate of a row
with what its context servers reach at full steps: equal where requests wait for them, at least as large elsewhere.
Robust least squares (soft L1) in the logarithms, each value drawn towards its default as if one row said so. Fitted
three times: on all deployments, and on either half of them; a row of one half is predicted from the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from importlib import resources
from pathlib import Path

import numpy as np

from ratematch.emulator.efficiency import Efficiency, row_bytes
from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.memory import MemoryUse, activation_bytes, kv_tokens_per_rank
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.precision import read_precision

from .learntfile import HEAD, Value, Vector, section
from .setup import aggregated_options, graphs_of_prompts, setup_of
from .table import ROWS, Row, Servers, read_rows

BLACKWELL = ("b200", "b300", "gb200", "gb300")
HOPPER = ("h200", "h100", "gh200")
PEAKS = (
    ("h200", "fp8", "DEP8", 1024, 1024, 1620.0),
    ("h200", "fp8", "DEP8", 1024, 8192, 1218.0),
    ("h200", "fp8", "DEP8", 1024, 32768, 438.0),
)
"""Output tok/s/GPU of DeepSeek-R1 at full memory, from TensorRT-LLM's performance overview."""
TARGET = Path(str(resources.files("ratematch.data").joinpath("efficiency.yaml")))
SCALE = 0.05
"""Errors well below this count by their square, those well above by their size."""
PRIOR, TIME_PRIOR = 0.3, 0.1
"""Weight of log(value / default), of a share of a peak and of a time, beside a row's log of predicted / measured."""
LAUNCH_S = 2e-3
"""Where the search for ``launch_layer_s`` starts."""
BURST, BURST_SHARE = 16, 0.9
"""Requests of a burst that says how fast prompts are, and the share of them that is answered within the 99th
percentile of a run of ten requests a slot: the slowest hundredth of all is the slowest tenth of the first."""
CALM = 0.3
"""TTFT over its 99th percentile up to which the burst alone makes that percentile."""
WAITING_STEPS = 2
"""Requests wait for context servers where more than this many full steps of them are in front of generation."""
LARGEST = 0.85
"""No share of a peak above this."""


def blackwell_values() -> list[Value]:
    """What is fitted on Blackwell rows. Kernels of experts differ by format and backend; TRTLLM's are one fused
    launch and have no fixed time of their own."""
    values = [Value(name, section="mla") for name in ("memory", "gen_attention", "attention")]
    values += [Value(name) for name in ("gemm", "link", "allreduce", "collective_s")]
    values += [Value("launch_layer_s", name, section=name, start=LAUNCH_S) for name in ("fp4", "fp8")]
    backends = {"fp4": ("TRTLLM", "CUTLASS", "CUTEDSL"), "fp8": ("TRTLLM", "DEEPGEMM")}
    for precision, names in backends.items():
        values.append(Value("layer_s", precision, section=precision))
        for backend in names:
            values += [Value(name, precision, backend, precision) for name in ("moe_gemm", "expert_memory")]
            if backend != "TRTLLM":
                values.append(Value("moe_layer_s", precision, backend, precision, 20e-6))
    return [*values, Value("moe_layer_s", "fp8", "DEEPGEMM_TP", "fp8", 20e-6)]


def _gen_kernels(row: Row) -> str:
    dp = parse_mapping(row.gen.mapping).attention_dp
    return setup_of(row).gen_backend + ("" if dp else "_TP")


def _ctx_kernels(row: Row, ctx: Servers) -> str:
    dp = parse_mapping(ctx.mapping).attention_dp
    return setup_of(row).ctx_backend + ("" if dp else "_TP")


def hopper_values() -> list[Value]:
    """What the few rows and peaks of Hopper can say."""
    mla = [Value(name, section="mla") for name in ("memory", "gen_attention", "attention")]
    own = Value("expert_memory", "fp8", "CUTLASS", "fp8")
    launching = Value("launch_layer_s", "fp8", section="fp8", start=LAUNCH_S)
    return [*mla, launching, own, Value("moe_layer_s", "fp8", "CUTLASS", "fp8", 20e-6)]


def peak_rows() -> list[Row]:
    """``PEAKS`` as rows of a server that holds as many requests as its memory does."""
    rows = []
    for gpu_name, precision, label, isl, osl, tok_s_gpu in PEAKS:
        gpu, mapping = load_gpu(gpu_name), parse_mapping(label)
        reserve_b = 4e9 + activation_bytes(_model(), mapping, 8192, 2048)
        tokens = kv_tokens_per_rank(_model(), gpu, mapping, MemoryUse(precision, "fp8", 0.9, reserve_b))
        held = min(2048, tokens // (isl + osl)) * mapping.dp_ranks
        tpot = held / (tok_s_gpu * mapping.gpus) * 1000
        rows.append(
            Row(
                line=0, gpu=gpu_name, precision=precision, isl=isl, osl=osl, length_ratio=1.0, ctx=None,
                gen=Servers(mapping=label, instances=1, max_batch_size=None, max_num_tokens=None), mtp=0,
                kv_fraction=None, transfer="", concurrency=held, gpus=mapping.gpus, tok_s_gpu=tok_s_gpu,
                tpot_ms=tpot, ttft_ms=0.0, first="", source="performance overview",
            )
        )  # fmt: skip
    return rows


@lru_cache(maxsize=1)
def _model():  # type: ignore[no-untyped-def]
    return load_model("deepseek-r1")


def efficiency(values: Sequence[Value], x: Vector, precision: str, backend: str) -> Efficiency:
    """The set that ``x`` (logs of values over defaults) means for one format and backend."""
    mine = {
        value.name: value.default * float(np.exp(log))
        for value, log in zip(values, x, strict=True)
        if value.holds(precision, backend)
    }
    return row_bytes(replace(Efficiency(), **mine), backend.removesuffix("_TP"))


def _steps(row: Row, mapping: str, eff: Efficiency, all_to_all: bool = False) -> RooflineStepTime:
    gpu = load_gpu(row.gpu)
    precision = read_precision(row.precision, gpu)
    return RooflineStepTime(_model(), gpu, parse_mapping(mapping), precision, "fp8", eff, all_to_all)


def _means(row: Row) -> tuple[float, float]:
    """Mean ISL and OSL."""
    share = (1 + row.length_ratio) / 2
    return row.isl * share, row.osl * share


def generating(row: Row) -> float:
    """Requests that generate at a time in one server of the row."""
    _, osl = _means(row)
    decoding_ms = row.tpot_ms * (osl - 1)
    return row.concurrency * decoding_ms / (decoding_ms + row.ttft_ms) / row.gen.instances


def tpot_ms(row: Row, eff: Efficiency) -> float:
    """Predicted TPOT at the measured number of generating requests."""
    mapping = parse_mapping(row.gen.mapping)
    isl, osl = _means(row)
    setup = setup_of(row)
    ranks, steps = mapping.dp_ranks, _steps(row, setup.gen_mapping, eff, setup.all_to_all)
    each = generating(row) / ranks
    decoding = RankLoad(0, 0, 0, each, 1 + row.mtp, each * (isl + osl / 2))
    step_s = steps.seconds(StepBatch((decoding,) * ranks))
    if row.ctx is not None:
        return step_s * 1000 / _tokens_a_step(row.mtp)
    if graphs_of_prompts(row):
        steps = steps.with_efficiency(replace(eff, launch_layer_s=0.0))
    mixed = decoding._replace(ctx_requests=1, ctx_tokens=isl, ctx_attended=isl * isl / 2)
    longer_s = steps.seconds(StepBatch((mixed,) * ranks)) - step_s
    others = max(0.0, each - 1 / ranks)
    return (step_s + others / (osl - 1) * longer_s) * 1000


def _tokens_a_step(drafts: int) -> float:
    """Mean tokens of a step with ``drafts`` drafts."""
    return 1 + float(np.cumprod(_model().mtp_acceptance[:drafts]).sum())


def request_rate(row: Row) -> float:
    """Measured requests/s."""
    return row.tok_s_gpu * row.gpus / _means(row)[1]


def _prompts(row: Row, ctx: Servers) -> int:
    """Prompts of a full step on one rank."""
    most = ctx.max_batch_size or 1
    return max(1, min(most, int((ctx.max_num_tokens or row.isl) // _means(row)[0])))


def ctx_rate(row: Row, ctx: Servers, eff: Efficiency) -> float:
    """Requests/s of the context servers at full steps."""
    ranks, isl, prompts = parse_mapping(ctx.mapping).dp_ranks, _means(row)[0], _prompts(row, ctx)
    tokens = prompts * isl * _fullest(prompts, ranks, row.length_ratio)
    load = RankLoad(prompts, tokens, tokens * isl / 2, 0, 1 + row.mtp, 0)
    step_s = _steps(row, setup_of(row).ctx_mapping, eff).seconds(StepBatch((load,) * ranks), overlap=False)
    return prompts * ranks / step_s * ctx.instances


@cache
def _fullest(prompts: int, ranks: int, length_ratio: float) -> float:
    """Tokens of the fullest rank over the mean, where every rank has ``prompts`` of random length."""
    lengths = np.random.default_rng(0).uniform(length_ratio, 1, (2000, ranks, prompts)).sum(2)
    return float(lengths.max(1).mean() / lengths.mean())


def _ctx_residual(row: Row, ctx: Servers, eff: Efficiency) -> float | None:
    """How far the context servers are from the rate that they had, as a log; ``None``: the row does not say."""
    log = float(np.log(ctx_rate(row, ctx, eff) / request_rate(row)))
    if generation_full(row):
        return 2 * min(0.0, log - SCALE)
    return log if prompts_wait(row, ctx) else None


def burst_ms(row: Row, eff: Efficiency) -> float | None:
    """Predicted 99th percentile of TTFT, where the burst at the start makes it; ``None`` where other waits do.

    All slots send at once to idle servers, whose prompts run one full step after another.
    """
    if row.ttft_p99_ms is None or row.ttft_ms > CALM * row.ttft_p99_ms or row.concurrency < BURST:
        return None
    answered = BURST_SHARE * row.concurrency
    if row.ctx is not None:
        ranks = parse_mapping(row.ctx.mapping).dp_ranks * row.ctx.instances
        room = (row.gen.max_batch_size or 0) * parse_mapping(row.gen.mapping).dp_ranks * row.gen.instances
        if row.concurrency > room or answered < WAITING_STEPS * _prompts(row, row.ctx) * ranks:
            return None
        return answered / ctx_rate(row, row.ctx, eff) * 1000
    if parse_mapping(row.gen.mapping).attention_dp:
        return None
    isl, _ = _means(row)
    budget, _ = aggregated_options(row)
    prompts = max(1, int((budget - row.concurrency) // isl))
    load = RankLoad(prompts, prompts * isl, prompts * isl * isl / 2, answered / 2, 1 + row.mtp, answered / 2 * isl)
    if graphs_of_prompts(row):
        eff = replace(eff, launch_layer_s=0.0)
    return answered / prompts * _steps(row, setup_of(row).gen_mapping, eff).seconds(StepBatch((load,))) * 1000


def generation_full(row: Row) -> bool:
    """Whether requests wait for room in generation servers."""
    ranks = parse_mapping(row.gen.mapping).dp_ranks
    return row.gen.max_batch_size is not None and generating(row) / ranks > 0.9 * row.gen.max_batch_size


def prompts_wait(row: Row, ctx: Servers) -> bool:
    """Whether requests wait for context servers."""
    step = _prompts(row, ctx) * parse_mapping(ctx.mapping).dp_ranks * ctx.instances
    return request_rate(row) * row.ttft_ms / 1000 > WAITING_STEPS * step


def residuals(rows: Sequence[Row], values: Sequence[Value], x: Vector) -> Vector:
    """Log of predicted over measured for every row, what context servers say, and the pull to the defaults."""
    errors = []
    for row in rows:
        errors.append(
            float(np.log(tpot_ms(row, efficiency(values, x, row.precision, _gen_kernels(row))) / row.tpot_ms))
        )
        if row.ctx is not None:
            ctx = _ctx_residual(row, row.ctx, efficiency(values, x, row.precision, _ctx_kernels(row, row.ctx)))
            errors += [] if ctx is None else [ctx]
        kernels = _gen_kernels(row) if row.ctx is None else _ctx_kernels(row, row.ctx)
        burst = burst_ms(row, efficiency(values, x, row.precision, kernels))
        errors += [] if burst is None else [float(np.log(burst / (row.ttft_p99_ms or burst)))]
    priors = [TIME_PRIOR if value.name.endswith("_s") else PRIOR for value in values]
    return np.array([*errors, *(np.array(priors) * x)])


def minimise(function: Callable[[Vector], Vector], size: int, upper: Vector) -> Vector:
    """Robust least squares by damped Gauss-Newton with a numeric Jacobian, from 0, never above ``upper``."""
    x, damping = np.minimum(np.zeros(size), upper), 1e-3

    def cost(errors: Vector) -> float:
        return float((np.sqrt(1 + (errors / SCALE) ** 2) - 1).sum())

    errors = function(x)
    for _ in range(60):
        steps = np.eye(size) * 1e-4
        jacobian = np.array([(function(x - step) - errors) / -1e-4 for step in steps]).T
        weights = 1 / np.sqrt(1 + (errors / SCALE) ** 2)
        normal = jacobian.T @ (weights[:, None] * jacobian)
        gradient = jacobian.T @ (weights * errors)
        for _ in range(8):
            tried = np.minimum(x - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient), upper)
            new = function(tried)
            if cost(new) < cost(errors):
                break
            damping *= 10
        else:
            break
        gained = cost(errors) - cost(new)
        x, errors, damping = tried, new, max(damping / 10, 1e-6)
        if gained < 1e-5:
            break
    return x


def fit(rows: Sequence[Row], values: Sequence[Value]) -> Vector:
    """Logs of values over defaults that fit ``rows``."""
    shares = ("gemm", "memory", "attention", "link", "allreduce")
    upper = [
        np.log(LARGEST / value.default) if any(share in value.name for share in shares) else 2.0 for value in values
    ]
    return minimise(partial(residuals, rows, values), len(values), np.array(upper))


def halves(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by halves of the deployments, every other one in the order of their names."""
    names = sorted({(row.gpu, row.precision, row.deployment, row.isl, row.osl) for row in rows})
    half = {name: place % 2 for place, name in enumerate(names)}
    groups: list[list[Row]] = [[], []]
    for row in rows:
        groups[half[(row.gpu, row.precision, row.deployment, row.isl, row.osl)]].append(row)
    return groups


def tpot_errors(rows: Sequence[Row], values: Sequence[Value], x: Vector) -> Vector:
    """Predicted over measured TPOT of each row."""
    return np.array(
        [tpot_ms(row, efficiency(values, x, row.precision, _gen_kernels(row))) / row.tpot_ms for row in rows]
    )


SETS = (
    (
        BLACKWELL,
        {"nvfp4": "CUTLASS", "fp8": "TRTLLM"},
        blackwell_values,
        "Public points of DeepSeek-R1 on B200, B300, GB200 and GB300 (benchmarks/real_deployments/rows.csv): TPOT at "
        "the number of requests that generated in it, and the request rates that context servers kept up.",
    ),
    (
        HOPPER,
        {"fp8": "CUTLASS"},
        hopper_values,
        "Public points of DeepSeek-R1 on H200 (benchmarks/real_deployments/rows.csv) and its H200 peaks in "
        "TensorRT-LLM's performance overview. Few points: mind the ranges.",
    ),
)
"""GPUs; by format the backend of experts where none is named (TensorRT-LLM's default is CUTLASS, which has no FP8
blocks on Blackwell); values; the source as the file says it."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit ratematch/data/efficiency.yaml on measured rows.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a table of measured rows")
    parser.add_argument("--each", action="store_true", help="say each row's ratio too")
    parser.add_argument("--write", action="store_true", help="write the values into ratematch/data/efficiency.yaml")
    args = parser.parse_args()
    table, texts = read_rows(args.rows), [HEAD]
    for gpus, usual, values_of, source in SETS:
        rows = [row for row in table if row.gpu in gpus and not row.suspect]
        rows += peak_rows() if "h200" in gpus else []
        values = values_of()
        whole, parts = fit(rows, values), halves(rows)
        fitted = [fit(part, values) for part in parts]
        held_out = np.concatenate(
            [abs(tpot_errors(part, values, fitted[1 - place]) - 1) for place, part in enumerate(parts)]
        )
        errors = abs(tpot_errors(rows, values, whole) - 1)
        print(f"{', '.join(gpus)}: {len(rows)} points, {len(values)} values")
        for what, each in (("all", errors), ("each half from the other", held_out)):
            print(f"  TPOT, {what}: median {np.median(each):.1%}, p90 {np.quantile(each, 0.9):.1%}")
        if args.each:
            say_rows(rows, values, whole)
        said = f"{source} Each half of the deployments predicts the other's TPOT with a median error of "
        said += f"{np.median(held_out):.1%}."
        texts.append(section(gpus, usual, said, values, (whole, *fitted)))
    if args.write:
        TARGET.write_text("".join(texts))
    else:
        print("".join(texts))


def say_rows(rows: Sequence[Row], values: Sequence[Value], x: Vector) -> None:
    """Predicted over measured TPOT of each row, and rate of its context servers at full steps over the row's."""
    for row, ratio in zip(rows, tpot_errors(rows, values, x), strict=True):
        setup, ctx = setup_of(row), ""
        if row.ctx:
            rate = ctx_rate(row, row.ctx, efficiency(values, x, row.precision, _ctx_kernels(row, row.ctx)))
            ctx = f", ctx {rate / request_rate(row):.2f}"
        print(f"  {row.line} {row.group} {row.deployment} {row.concurrency} {setup.gen_backend}: {ratio:.2f}{ctx}")


if __name__ == "__main__":
    main()
