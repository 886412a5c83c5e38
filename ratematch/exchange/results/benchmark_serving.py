"""The result file of ``benchmark_serving`` (TensorRT-LLM, vLLM, SGLang, sa-bench), read and written. Pure.

Translated where the definitions differ (docs/load-generator.md): ITL here is the gap between chunks, as there; the
duration is from first start to last token, ramp and drain included; the clock of a request starts at its write to the
socket (closed loop) or at its intended instant (open loop), which ``benchmark_serving`` does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ratematch.errors import UserError
from ratematch.exchange.results.fields import count, describe, number, text
from ratematch.exchange.results.foreign import ForeignLoad, Hints, RunInfo, Tool, list_missing, make_stats
from ratematch.exchange.results.loadchecks import DRAFTED
from ratematch.exchange.results.wholerun import APART, RunFigures, measure_run
from ratematch.measure import metrics
from ratematch.measure.goodput import Goodput, good
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats
from ratematch.plan.load import Concurrency, Rate

TOOL: Tool = "benchmark_serving"
_BACKENDS = {"completions": "openai", "chat": "openai-chat"}
KEYS = (
    "model_id", "num_prompts", "completed", "duration", "total_input_tokens", "total_output_tokens",
    "request_throughput", "output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms",
)  # fmt: skip
"""Keys that a complete file has."""
MOST_TOKENS = 10**15
"""Of a whole run."""
OTHER_NAMES = {
    "total_input": "total_input_tokens",
    "total_output": "total_output_tokens",
    **{f"{part}_e2e_latency_ms": f"{part}_e2el_ms" for part in ("mean", "median", "std", "p90", "p95", "p99")},
}
"""Keys of older files and of SGLang's, and what they are called in most."""
SGLANG_E2EL = "mean_e2e_latency_ms"
ACCEPTANCE = ("avg_decoded_tokens_per_iter", "spec_decode_acceptance_length", "accept_length")
"""Tokens a step of a request, in TensorRT-LLM's files, vLLM's and SGLang's."""
KNOWN_PERCENTILES = ("p1", "p5", "p10", "p25", "p75", "p90", "p95", "p99")
"""Percentiles that any of the tools writes beside the median and p99.9."""
WRITTEN_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def is_result(content: Any) -> bool:
    """Is this a result of ``benchmark_serving``, by its shape?"""
    return isinstance(content, dict) and {"completed", "duration", "output_throughput"} <= set(content)


def read_result(content: Mapping[str, Any], file: str, place: str = "") -> ForeignLoad:
    """The figures of one result.

    Raises:
        UserError: a figure that is no number.
    """
    where = f"{file}: {place}" if place else file
    content = {**{OTHER_NAMES[key]: value for key, value in content.items() if key in OTHER_NAMES}, **content}
    done, prompts = count(content, "completed", where) or 0, count(content, "num_prompts", where)
    tokens_in, tokens_out = (count(content, f"total_{way}_tokens", where, MOST_TOKENS) for way in ("input", "output"))
    stats = {f"{name}_ms": _read_stats(content, name, done, where) for name in ("ttft", "tpot", "itl", "e2el")}
    isl = tokens_in / done if tokens_in is not None and done else None
    osl = tokens_out / done if tokens_out is not None and done else None
    acceptance = next((value for key in ACCEPTANCE if (value := number(content, key, where))), None)
    rate, limit = _read_rate(content, where), count(content, "max_concurrency", where) or None
    sent, failed = _count_sent(content, done, prompts, where)
    figures = RunFigures(
        num_requests=sent,
        num_failed=failed,
        stats=stats,
        req_s=number(content, "request_throughput", where),
        tok_s=number(content, "output_throughput", where),
        isl=isl,
        osl=osl,
        acceptance_length=acceptance,
        seconds=number(content, "duration", where),
        tokens=tokens_out,
        contradictions=tuple(_contradictions(content, where)),
        notes=tuple(_notes(prompts, sent, rate, limit)),
    )
    emulated = content.get("emulated")
    hints = Hints(
        model=text(content, "model_id", where) or _model_of_server(content, where),
        isl=isl,
        osl=osl,
        # With a rate, max_concurrency is only its limit.
        concurrency=None if rate else limit,
        request_rate=rate,
        burstiness=number(content, "burstiness", where) or None if rate else None,
        emulated=emulated if isinstance(emulated, bool) else None,
    )
    return ForeignLoad(
        TOOL,
        file,
        hints,
        place,
        figures=measure_run(figures, TOOL),
        missing=list_missing(content, KEYS),
        drafted=_were_drafted(content, acceptance, where),
    )


def _count_sent(content: Mapping[str, Any], done: int, prompts: int | None, where: str) -> tuple[int, int | None]:
    """Requests that were sent, and those that failed (``None``: not told). vLLM counts failures by themselves, for a
    data set may hold fewer prompts than were asked for; others leave what is missing of ``num_prompts``."""
    failed = count(content, "failed", where)
    if failed is not None:
        return done + failed, failed
    return (done, None) if prompts is None else (prompts, prompts - done)


def _notes(prompts: int | None, sent: int, rate: float | None, limit: int | None) -> Iterator[str]:
    if prompts is not None and sent < prompts:
        yield f"{prompts} requests were asked for, and {sent} were sent"
    if rate and limit:
        yield f"at most {limit} requests were in flight, the others waited in the client"


def _contradictions(content: Mapping[str, Any], where: str) -> Iterator[str]:
    """What cannot be, or is of no one load: more requests than there were, a rate that was ramped up. SGLang's
    ``concurrency`` is the sum of all E2EL over the duration: requests/s x E2EL, said twice."""
    done, failed, prompts = (count(content, key, where) for key in ("completed", "failed", "num_prompts"))
    if failed is not None and prompts is not None and (done or 0) + failed > prompts:
        others = f" and {failed} failures" if failed else ""
        yield f"{done or 0} answers{others} to {prompts} requests: more than there were"
    if content.get("ramp_up_strategy"):
        start, end = (number(content, f"ramp_up_{which}_rps", where) for which in ("start", "end"))
        span = "" if start is None or end is None else f" from {start:g} to {end:g} requests/s"
        yield f"its rate was ramped up{span} in the run: its figures are of no one load"
    if SGLANG_E2EL not in content:
        return
    held, rate, e2el_ms = (number(content, key, where) for key in ("concurrency", "request_throughput", SGLANG_E2EL))
    if held and rate and e2el_ms and abs(rate * e2el_ms / 1000 / held - 1) > APART:
        yield f"concurrency is {held:g}, and requests/s x E2EL make {rate * e2el_ms / 1000:.5g}"


def _were_drafted(content: Mapping[str, Any], acceptance: float | None, where: str) -> bool | None:
    """Did the server draft tokens? vLLM counts them, whether or not any was accepted."""
    if count(content, "spec_decode_draft_tokens", where, MOST_TOKENS):
        return True
    return None if acceptance is None else acceptance > DRAFTED


def _model_of_server(content: Mapping[str, Any], where: str) -> str | None:
    """SGLang's files have what the server said of itself in place of a model."""
    server = content.get("server_info")
    return text(server, "model_path", where) if isinstance(server, Mapping) else None


def _read_rate(content: Mapping[str, Any], where: str) -> float | None:
    """Requests/s of an open loop; "inf", or Infinity, is how these files say that the load was closed."""
    if content.get("request_rate") == "inf":
        return None
    return number(content, "request_rate", where) or None


def _read_stats(content: Mapping[str, Any], name: str, num: int, file: str) -> Stats | None:
    values = {key: number(content, f"{key}_{name}_ms", file) for key in ("mean", "std", "max", *KNOWN_PERCENTILES)}
    values["p50"] = number(content, f"median_{name}_ms", file)
    if values["p50"] is None:
        values["p50"] = number(content, f"p50_{name}_ms", file)
    values["p999"] = number(content, f"p99.9_{name}_ms", file)
    return make_stats(values | _older_percentiles(content, name, file), num)


def _older_percentiles(content: Mapping[str, Any], name: str, file: str) -> dict[str, float | None]:
    """``percentiles_ttft_ms: [[99.0, 12.3], ...]`` of older files."""
    key = f"percentiles_{name}_ms"
    pairs = content.get(key)
    if not isinstance(pairs, list):
        return {}
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise UserError(f"{file}: {key} is {describe(pairs)}, not one of pairs")
    known: dict[str, float | None] = {}
    for pair in pairs:
        named = dict(zip(("a percentile", "its value"), pair, strict=True))
        at = number(named, "a percentile", f"{file}: {key}")
        if at is not None:
            known[f"p{at:g}".replace(".", "")] = number(named, "its value", f"{file}: {key}")
    return known


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
        "backend": _BACKENDS.get(info.api, "tensorrt-llm"),
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
