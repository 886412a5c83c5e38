"""The result file of ``benchmark_serving`` (TensorRT-LLM, vLLM, sa-bench), read and written. Pure.

Translated where the definitions differ (docs/load-generator.md): ITL here is the gap between chunks, as there; the
duration is from first start to last token, ramp and drain included; the clock of a request starts at its write to the
socket (closed loop) or at its intended instant (open loop), which ``benchmark_serving`` does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ratematch.exchange.results.foreign import (
    ForeignLoad,
    Hints,
    RunFigures,
    RunInfo,
    Tool,
    list_missing,
    make_stats,
    measure_run,
    number,
)
from ratematch.measure import metrics
from ratematch.measure.goodput import Goodput, good
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats
from ratematch.plan.load import Concurrency, Rate

TOOL: Tool = "benchmark_serving"
KEYS = (
    "model_id", "num_prompts", "completed", "duration", "total_input_tokens", "total_output_tokens",
    "request_throughput", "output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms",
)  # fmt: skip
"""Keys that a complete file has."""
OLDER = {"total_input": "total_input_tokens", "total_output": "total_output_tokens"}
"""Keys of older files, and what they are called now."""
KNOWN_PERCENTILES = ("p1", "p5", "p10", "p25", "p75", "p90", "p95", "p99")
"""Percentiles that any of the tools writes beside the median and p99.9."""
WRITTEN_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


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
    prompts = number(content, "num_prompts", file)
    tokens_in, tokens_out = number(content, "total_input_tokens", file), number(content, "total_output_tokens", file)
    stats = {f"{name}_ms": _read_stats(content, name, done, file) for name in ("ttft", "tpot", "itl", "e2el")}
    isl = tokens_in / done if tokens_in is not None and done else None
    osl = tokens_out / done if tokens_out is not None and done else None
    figures = RunFigures(
        num_requests=int(prompts) if prompts is not None else done,
        num_failed=None if prompts is None else int(prompts) - done,
        stats=stats,
        req_s=number(content, "request_throughput", file),
        tok_s=number(content, "output_throughput", file),
        isl=isl,
        osl=osl,
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
    return ForeignLoad(TOOL, file, hints, figures=measure_run(figures, TOOL), missing=list_missing(content, KEYS))


def _read_stats(content: Mapping[str, Any], name: str, num: int, file: str) -> Stats | None:
    values = {key: number(content, f"{key}_{name}_ms", file) for key in ("mean", "std", *KNOWN_PERCENTILES)}
    values["p50"] = number(content, f"median_{name}_ms", file)
    if values["p50"] is None:
        values["p50"] = number(content, f"p50_{name}_ms", file)
    values["p999"] = number(content, f"p99.9_{name}_ms", file)
    return make_stats(values | _older_percentiles(content, name), num)


def _older_percentiles(content: Mapping[str, Any], name: str) -> dict[str, float | None]:
    """``percentiles_ttft_ms: [[99.0, 12.3], ...]`` of older files."""
    pairs = content.get(f"percentiles_{name}_ms")
    if not isinstance(pairs, list):
        return {}
    return {f"p{float(p):g}".replace(".", ""): float(value) for p, value in pairs}


def benchmark_serving_result(
    records: Sequence[RequestRecord], info: RunInfo, goodput: Goodput | None = None, detailed: bool = True
) -> dict[str, Any]:
    """One JSON object with the keys of ``--save-result``, and with ``detailed`` the lists of ``--save-detailed``.

    Lists have an element for every record that was sent, in the order of ``seq``; failed ones hold zeros and their
    error, as there. Figures are ``None`` where undefined.
    """
    sent = sorted((record for record in records if record.sent_ns is not None), key=lambda record: record.seq)
    done = [record for record in sent if metrics.is_complete(record)]
    seconds = _seconds(done, info)
    osl, e2el = metrics.output_tokens(done), metrics.e2el_ms(done, info.since)
    tokens_in = sum(_prompt_tokens(record) for record in done)
    tokens_out = int(osl.sum())
    content: dict[str, Any] = {
        "date": _date(sent, info),
        "backend": "openai" if info.api == "completions" else "openai-chat",
        "model_id": info.model,
        "tokenizer_id": None,
        "best_of": 1,
        "num_prompts": len(sent),
        "request_rate": info.load.req_s if isinstance(info.load, Rate) else "inf",
        "burstiness": _burstiness(info),
        "max_concurrency": info.load.concurrency if isinstance(info.load, Concurrency) else None,
        "duration": seconds,
        "completed": len(done),
        "failed": len(sent) - len(done),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": _per(len(done), seconds),
        "request_goodput": _per(int(good(done, goodput, info.since).sum()), seconds) if goodput else None,
        "output_throughput": _per(tokens_out, seconds),
        "total_token_throughput": _per(tokens_in + tokens_out, seconds),
        "user_throughput": float((osl / (e2el / 1e3)).mean()) if done and (e2el > 0).all() else None,
        "avg_decoded_tokens_per_iter": metrics.acceptance_length(done),
        **_distributions(done, info),
        **info.origin,
    }
    return content | (_details(sent, info) if detailed else {})


def _distributions(done: Sequence[RequestRecord], info: RunInfo) -> dict[str, float | None]:
    columns = {
        "ttft": metrics.ttft_ms(done, info.since),
        "tpot": metrics.plain_tpot_ms(done),
        "itl": metrics.chunk_gap_ms(done),
        "e2el": metrics.e2el_ms(done, info.since),
    }
    figures: dict[str, float | None] = {}
    for name, values in columns.items():
        known = values[~np.isnan(values)]
        figures[f"mean_{name}_ms"] = float(known.mean()) if known.size else None
        figures[f"median_{name}_ms"] = float(np.median(known)) if known.size else None
        figures[f"std_{name}_ms"] = float(known.std()) if known.size else None
        for percentile in WRITTEN_PERCENTILES:
            value = float(np.percentile(known, percentile)) if known.size else None
            figures[f"p{percentile:g}_{name}_ms"] = value
    return figures


def _details(sent: Sequence[RequestRecord], info: RunInfo) -> dict[str, Any]:
    ttft_s = np.nan_to_num(metrics.ttft_ms(sent, info.since)) / 1e3
    return {
        "input_lens": [_prompt_tokens(record) for record in sent],
        "output_lens": [record.osl or 0 for record in sent],
        "ttfts": ttft_s.tolist(),
        "itls": [(np.diff(record.chunk_ns) / 1e9).tolist() for record in sent],
        "generated_texts": ["" for _ in sent],
        "errors": [record.error or "" for record in sent],
    }


def _seconds(done: Sequence[RequestRecord], info: RunInfo) -> float | None:
    if not done:
        return None
    last = max(record.last_token_ns or 0 for record in done)
    return float(last - metrics.start_ns(done, info.since).min()) / 1e9


def _prompt_tokens(record: RequestRecord) -> int:
    return record.isl or record.isl_reported or 0


def _per(count: int, seconds: float | None) -> float | None:
    return count / seconds if seconds else None


def _burstiness(info: RunInfo) -> float | None:
    """Shape of the gamma distribution of gaps: 1 = Poisson; constant gaps are no gamma."""
    if not isinstance(info.load, Rate):
        return 1.0
    match info.load.arrival:
        case "poisson":
            return 1.0
        case "gamma":
            return info.load.burstiness
        case "constant":
            return None


def _date(sent: Sequence[RequestRecord], info: RunInfo) -> str | None:
    if not sent:
        return None
    first = min(record.sent_ns or 0 for record in sent) + info.wall_offset_ns
    return datetime.fromtimestamp(first / 1e9, timezone.utc).strftime("%Y%m%d-%H%M%S")
