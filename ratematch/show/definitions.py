"""What every figure in a report means: name, unit, formula, and what people trip over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """``columns``: names in tables and files that hold it."""

    name: str
    unit: str
    formula: str
    remark: str
    columns: tuple[str, ...]


DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "Interactivity",
        "tok/s/user",
        "1000 / mean TPOT in ms",
        "What one user sees while tokens stream. TTFT is not in it, unlike the “user throughput” of "
        "benchmark_serving.",
        ("tok_s_user",),
    ),
    Definition(
        "Throughput per GPU",
        "output tok/s/GPU",
        "output tokens per second in the steady window / all GPUs in use",
        "Context and generation GPUs both count, input tokens do not. InferenceX's tput_per_gpu counts input "
        "tokens too.",
        ("tok_s_gpu", "tok_s"),
    ),
    Definition(
        "TTFT",
        "ms",
        "first chunk with tokens − send (closed loop) or due instant (open loop)",
        "For rate-matched rows it is the context server's own: hand-over, orchestrator and queues are not in it.",
        ("ttft_ms",),
    ),
    Definition(
        "TPOT",
        "ms",
        "(last token − first token) / (OSL − 1), mean over requests",
        "OSL is what the server counts in usage, never the number of chunks. Where the stream tells that several "
        "tokens came with the first chunk, those after it are counted in place of OSL − 1.",
        ("tpot_ms",),
    ),
    Definition("E2EL", "ms", "last token − start of the request", "TTFT + (OSL − 1) × TPOT.", ("e2el_ms",)),
    Definition(
        "Concurrency",
        "requests",
        "mean requests in flight in the window: rate × (TTFT + (OSL − 1) × TPOT)",
        "Of the whole deployment, not of one generation server.",
        ("concurrency", "conc."),
    ),
    Definition(
        "Little",
        "1",
        "requests in flight / (requests/s × (TTFT + (OSL − 1) × TPOT))",
        "1 for a measured row that does not contradict itself; outside 0.95 to 1.05 it is left off the fronts. "
        "Planned rows satisfy it by construction and have none.",
        ("little",),
    ),
    Definition(
        "Rate-matched",
        "",
        "λ = min(x × R_ctx, y × T / OSL); tok/s/GPU = λ × OSL / (x × G_ctx + y × G_gen)",
        "A prediction from context and generation servers measured apart. With ctx the limit, generation is "
        "throttled to "
        "the point of its measured curve that takes λ.",
        ("rate_matched", "limit"),
    ),
    Definition(
        "Bound",
        "output tok/s/GPU",
        "OSL / (G_ctx / R_ctx + G_gen / R_gen)",
        "At the ideal, fractional ratio of context to generation instances: no deployment reaches it.",
        ("bound", "ratio"),
    ),
    Definition(
        "End to end", "", "measured with x context, y generation servers and the orchestrator", "", ("end_to_end",)
    ),
    Definition("IFB", "", "measured: one aggregated server with in-flight batching", "The baseline.", ("ifb",)),
    Definition(
        "Speed-up over IFB",
        "×",
        "tok/s/GPU of a front / tok/s/GPU of the IFB front, at equal tok/s/user",
        "step: best single deployment at that speed or faster, which is what an SLO buys. linear: between "
        "neighbouring "
        "points, the convention of plots. Only where both fronts have points.",
        ("step", "linear"),
    ),
    Definition(
        "95 % interval",
        "",
        "bootstrap of the measured rates, from repeats or from batches within a run",
        "Empty where the noise is not known.",
        ("tok_s_gpu_low", "tok_s_gpu_high", "chance"),
    ),
    Definition(
        "Gap",
        "1",
        "end-to-end tok/s/GPU / what rate matching predicts for the same servers at the same tok/s/user",
        "1: no gap. Its parts are in tok/s/GPU and add up to ideal − measured.",
        ("ratio", "parts"),
    ),
    Definition(
        "Valid",
        "",
        "no request failed beyond the limits, a steady window exists, Little's law holds, the client kept its "
        "schedule",
        "What is not valid is listed with its reasons and stands on no front.",
        ("valid", "reasons"),
    ),
    Definition(
        "MTP", "tokens", "draft tokens a step; 0 is off", "Acceptance is measured on the prompts used.", ("mtp",)
    ),
)
