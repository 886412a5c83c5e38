"""``GET /metrics`` of a vLLM server (Prometheus) under the names that all engines share.

======================================  ===========================================================================
common name                             vLLM
======================================  ===========================================================================
active, queued                          ``num_requests_running``, ``num_requests_waiting``
kv_used_blocks, kv_max_blocks           ``kv_cache_usage_perc`` x ``num_gpu_blocks`` of ``cache_config_info``
cache_hit_rate                          growth of ``prefix_cache_hits`` / ``prefix_cache_queries`` (tokens)
iter, step_ms                           count of ``iteration_tokens_total``; time between two looks / its growth
ctx_tokens                              growth of ``prompt_tokens``
drafts                                  growth of ``spec_decode_num_draft_tokens``, ``_accepted_tokens``, ``_drafts``
KV transfer of a request                ``nixl_xfer_time_seconds`` (posting and movement), ``nixl_post_time_seconds``,
                                        ``nixl_bytes_transferred``, ``nixl_num_descriptors``, all of gen servers
KV caches given up                      ``nixl_num_kv_expired_reqs``, ``nixl_num_notifications_after_expiry`` of ctx
ctx queue, prefill                      ``request_queue_time_seconds``, ``request_prefill_time_seconds`` of ctx
gen queue, decode                       queue time of gen without the transfer; prefill and decode time of gen
======================================  ===========================================================================

All names begin with ``vllm:``; counters end in ``_total``. A server with data parallelism has each rank under the
label ``engine``. While a request waits for its KV cache it is not scheduled, so the queue time of a gen server holds
the transfer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratematch.measure.metricnames import MetricNames, common_figures
from ratematch.measure.servermetrics import Iteration, Routes, Samples, StageTimes, parse_prometheus

ROUTES = Routes(iterations="/metrics", prometheus="/metrics")

NAMES = MetricNames(
    queued=("vllm:num_requests_waiting",),
    active=("vllm:num_requests_running",),
    kv_share=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    paused=("vllm:num_requests_swapped",),
    preempted=("vllm:num_preemptions_total",),
    cache_hits=(
        ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
        ("vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_queries_total"),
    ),
    cache_hit_rate=("vllm:gpu_prefix_cache_hit_rate",),
    external_hits=(("vllm:external_prefix_cache_hits_total", "vllm:external_prefix_cache_queries_total"),),
)
"""Of V1, then of the releases before it. The external cache is any KV connector: all prompts of a gen server come
from it."""

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

_STEPS = "iteration_tokens_total_count"

_EXPIRED = ("nixl_num_kv_expired_reqs_total", "nixl_num_notifications_after_expiry_total")
"""Leases that ended before gen had fetched. It goes on with blocks that may hold something else by then: the request
ends well, with text that may be of another prompt."""


def split_sample(name: str) -> tuple[str, dict[str, str]]:
    """``vllm:x{engine="0"}`` -> ``x`` and its labels; names of other programs keep their prefix."""
    bare, _, labels = name.partition("{")
    return bare.removeprefix("vllm:"), dict(_LABEL.findall(labels))


def by_engine(samples: Samples) -> dict[int, dict[str, float]]:
    """Samples of vLLM by data-parallel rank, summed over all other labels; ``num_gpu_blocks`` among them."""
    ranks: dict[int, dict[str, float]] = {}
    for name, value in samples.items():
        if not name.startswith("vllm:"):
            continue
        bare, labels = split_sample(name)
        engine = labels.get("engine", "0")
        own = ranks.setdefault(int(engine) if engine.isdigit() else 0, {})
        own[bare] = own.get(bare, 0.0) + value
        blocks = labels.get("num_gpu_blocks", "")
        if bare == "cache_config_info" and blocks.isdigit():
            own["num_gpu_blocks"] = float(blocks)
    return ranks


def read_figures(samples: Samples) -> dict[str, float]:
    """The figures that all servers have in common, in the samples of a vLLM server."""
    return common_figures(samples, NAMES)


class IterationReader:
    """The iterations in one server's answers, each since the answer before it; counters become their growth."""

    def __init__(self) -> None:
        self._before: dict[int, dict[str, float]] = {}
        self._before_ns = 0

    def __call__(self, body: bytes, now_ns: int) -> list[Iteration]:
        """One entry for each rank that has run an iteration since the last answer.

        Raises:
            ValueError: no metrics of a vLLM server.
        """
        now = by_engine(parse_prometheus(body.decode("utf-8", "replace")))
        if not any(_STEPS in samples for samples in now.values()):
            raise ValueError("no iterations of a vLLM server")
        before, before_ns = self._before, self._before_ns
        self._before, self._before_ns = now, now_ns
        iterations = []
        for rank, samples in sorted(now.items()):
            if rank in before and (step := _since(rank, samples, before[rank], now_ns - before_ns)) is not None:
                iterations.append(step)
        return iterations


def _since(rank: int, now: Mapping[str, float], before: Mapping[str, float], elapsed_ns: int) -> Iteration | None:
    def grown(name: str) -> float | None:
        return now[name] - before.get(name, 0.0) if name in now else None

    steps = grown(_STEPS)
    if not steps or steps < 0:
        return None
    busy = (now.get("num_requests_running") or 0) > 0 and (before.get("num_requests_running") or 0) > 0
    queried, hits = grown("prefix_cache_queries_total"), grown("prefix_cache_hits_total")
    share, blocks = now.get("kv_cache_usage_perc"), now.get("num_gpu_blocks")
    return Iteration(
        iter=int(now[_STEPS]),
        rank=rank,
        step_ms=elapsed_ns / 1e6 / steps if busy else None,
        active=now.get("num_requests_running"),
        queued=now.get("num_requests_waiting"),
        scheduled=now.get("num_requests_running"),
        ctx_tokens=grown("prompt_tokens_total"),
        kv_used_blocks=None if share is None else share * (blocks or 1.0),
        kv_max_blocks=None if share is None else (blocks or 1.0),
        cache_hit_rate=hits / queried if queried and hits is not None else None,
        draft_tokens=grown("spec_decode_num_draft_tokens_total"),
        accepted_tokens=grown("spec_decode_num_accepted_tokens_total"),
        drafted_requests=grown("spec_decode_num_drafts_total"),
    )


def read_stages(ctx: Sequence[Samples], gen: Sequence[Samples], elapsed_s: float) -> StageTimes | None:
    """Mean times of the requests that servers finished, from the growth of their counters over ``elapsed_s``.

    ``None`` when a side finished nothing, or no KV cache was handed over.
    """
    left, right = _sum(ctx), _sum(gen)
    num = right.get("request_queue_time_seconds_count", 0.0)
    moved = right.get("nixl_xfer_time_seconds_count", 0.0)
    if not left.get("request_queue_time_seconds_count") or not num or not moved or elapsed_s <= 0:
        return None
    # One transfer a tensor-parallel rank: they run side by side, so their mean is that of the request.
    transfer = _mean(right, "nixl_xfer_time_seconds") or 0.0
    ranks = max(1.0, round(moved / num))
    posting = right.get("nixl_post_time_seconds_sum", 0.0) / ranks / max(1, len(gen)) / elapsed_s
    total_b, pieces = _mean(right, "nixl_bytes_transferred"), _mean(right, "nixl_num_descriptors")
    return StageTimes(
        num=int(num),
        ctx_queue_s=_mean(left, "request_queue_time_seconds") or 0.0,
        prefill_s=_mean(left, "request_prefill_time_seconds") or 0.0,
        kv_transfer_s=transfer,
        kv_post_s=_mean(right, "nixl_post_time_seconds") or 0.0,
        gen_queue_s=max(0.0, (_mean(right, "request_queue_time_seconds") or 0.0) - transfer),
        decode_s=(_mean(right, "request_prefill_time_seconds") or 0.0)
        + (_mean(right, "request_decode_time_seconds") or 0.0),
        kv_posting=min(1.0, posting),
        kv_b=None if total_b is None else total_b * ranks,
        kv_descriptors=None if pieces is None else pieces * ranks,
        kv_expired=int(sum(left.get(name, 0.0) for name in _EXPIRED)),
    )


def _sum(servers: Sequence[Samples]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, value in _all(servers):
        total[name] = total.get(name, 0.0) + value
    return total


def _all(servers: Sequence[Samples]) -> Iterator[tuple[str, float]]:
    for samples in servers:
        for own in by_engine(samples).values():
            yield from own.items()


def _mean(samples: Mapping[str, Any], name: str) -> float | None:
    count = samples.get(f"{name}_count")
    return samples.get(f"{name}_sum", 0.0) / count if count else None
