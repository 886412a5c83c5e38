"""Reads the result JSON of ``benchmark_serving`` as TensorRT-LLM, vLLM and sa-bench write it.

The three differ in a few keys; what one of them has not is ``missing``. Their rates are of the whole run, and their
``itl`` is the gap between chunks. The time a request was sent is in none of them, so there are no records to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratematch.exchange.foreign import ForeignLoad, Hints, list_missing, make_stats, number, whole_run

KEYS: tuple[str, ...] = (
    "model_id",
    "num_prompts",
    "completed",
    "duration",
    "total_input_tokens",
    "total_output_tokens",
)
KEYS += ("request_throughput", "output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms")
OLDER = {"total_input": "total_input_tokens", "total_output": "total_output_tokens"}
"""Keys of older files, and what they are called now."""
PERCENTILES = ("p1", "p5", "p10", "p25", "p75", "p90", "p95", "p99")


def is_result(content: Any) -> bool:
    """Is this a result of ``benchmark_serving``, by its shape?"""
    return isinstance(content, dict) and {"completed", "duration", "output_throughput"} <= set(content)


def read_result(content: Mapping[str, Any], file: str) -> ForeignLoad:
    """The figures of one result file.

    Raises:
        UserError: a figure that is no number.
    """
    content = {**{OLDER[key]: value for key, value in content.items() if key in OLDER}, **content}
    done = int(number(content, "completed", file) or 0)
    asked = number(content, "num_prompts", file)
    tokens_in, tokens_out = number(content, "total_input_tokens", file), number(content, "total_output_tokens", file)
    stats = {}
    for name in ("ttft", "tpot", "itl", "e2el"):
        values = {key: number(content, f"{key}_{name}_ms", file) for key in ("mean", "std", *PERCENTILES)}
        values["p50"] = number(content, f"median_{name}_ms", file)
        if values["p50"] is None:
            values["p50"] = number(content, f"p50_{name}_ms", file)
        values["p999"] = number(content, f"p99.9_{name}_ms", file)
        values |= _older_percentiles(content, name)
        stats[f"{name}_ms"] = make_stats(values, done)
    isl = tokens_in / done if tokens_in is not None and done else None
    osl = tokens_out / done if tokens_out is not None and done else None
    figures = whole_run(
        num_requests=int(asked) if asked is not None else done,
        num_failed=None if asked is None else int(asked) - done,
        stats=stats,
        req_s=number(content, "request_throughput", file),
        tok_s=number(content, "output_throughput", file),
        isl=isl,
        osl=osl,
        tool="benchmark_serving",
        acceptance_length=number(content, "avg_decoded_tokens_per_iter", file),
    )
    concurrency, rate = content.get("max_concurrency"), content.get("request_rate")
    emulated = content.get("emulated")
    hints = Hints(
        model=content.get("model_id") or None,
        isl=isl,
        osl=osl,
        concurrency=int(concurrency) if isinstance(concurrency, int | float) else None,
        # "inf" is how these files say that the load was closed.
        request_rate=float(rate) if isinstance(rate, int | float) and rate != float("inf") else None,
        emulated=emulated if isinstance(emulated, bool) else None,
    )
    return ForeignLoad("benchmark_serving", file, hints, figures=figures, missing=list_missing(content, KEYS))


def _older_percentiles(content: Mapping[str, Any], name: str) -> dict[str, float | None]:
    """``percentiles_ttft_ms: [[99.0, 12.3], ...]`` of older files."""
    pairs = content.get(f"percentiles_{name}_ms")
    if not isinstance(pairs, list):
        return {}
    return {f"p{float(p):g}".replace(".", ""): float(value) for p, value in pairs}
