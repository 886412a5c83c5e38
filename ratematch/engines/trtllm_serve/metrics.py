"""``GET /metrics`` of a worker: a JSON list of the iterations since the last call (contract, section 5.1)."""

from __future__ import annotations

import msgspec

from ratematch.measure.metricnames import MetricNames, common_figures
from ratematch.measure.servermetrics import Iteration, ReadIterations, Routes, Samples

ROUTES = Routes(iterations="/metrics", request_times="/perf_metrics", prometheus="/prometheus/metrics")

NAMES = MetricNames(
    queued=("trtllm_num_requests_waiting",),
    active=("trtllm_num_requests_running",),
    # kv_cache_usage_perc: Dynamo's mocker of it.
    kv_share=("trtllm_kv_cache_utilization", "trtllm_kv_cache_usage_perc"),
    kv_blocks=(("trtllm_kv_cache_used_blocks", "trtllm_kv_cache_max_blocks"),),
    paused=("trtllm_num_paused_requests",),
    cache_hits=(("trtllm_prompt_cached_tokens_total", "trtllm_prompt_tokens_total"),),
    cache_hit_rate=("trtllm_kv_cache_hit_rate",),
)
"""Of ``/prometheus/metrics``, and of a Dynamo worker, which passes them on. Old workers wrote ``trtllm:``."""


class _Blocks(msgspec.Struct, rename="camel"):
    used_num_blocks: float | None = None
    max_num_blocks: float | None = None
    cache_hit_rate: float | None = None
    reused_blocks: float | None = None
    missed_blocks: float | None = None


class _Batch(msgspec.Struct, rename="camel"):
    num_scheduled_requests: float | None = None
    num_context_requests: float | None = None
    num_gen_requests: float | None = None
    num_ctx_tokens: float | None = None
    num_paused_requests: float | None = None


class _Drafts(msgspec.Struct, rename="camel"):
    num_draft_tokens: float | None = None
    num_accepted_tokens: float | None = None
    num_requests_with_draft_tokens: float | None = None
    acceptance_length: float | None = None


class _Iteration(msgspec.Struct):
    iter: int
    step_ms: float | None = msgspec.field(name="iterLatencyMS", default=None)
    rank: int | None = msgspec.field(name="attentionDpRank", default=None)
    active: float | None = msgspec.field(name="numActiveRequests", default=None)
    queued: float | None = msgspec.field(name="numQueuedRequests", default=None)
    blocks: _Blocks | None = msgspec.field(name="kvCacheStats", default=None)
    batch: _Batch | None = msgspec.field(name="inflightBatchingStats", default=None)
    drafts: _Drafts | None = msgspec.field(name="specDecodingStats", default=None)


_DECODER = msgspec.json.Decoder(list[_Iteration])
_NO_BLOCKS, _NO_BATCH, _NO_DRAFTS = _Blocks(), _Batch(), _Drafts()


def iteration_reader() -> ReadIterations:
    """A reader of one server's answers. It keeps nothing: each answer holds whole iterations."""
    return read_iterations


def read_iterations(body: bytes, now_ns: int) -> list[Iteration]:
    """The iterations in an answer of ``/metrics``.

    Raises:
        msgspec.DecodeError (a ValueError): no JSON list of iterations.
    """
    return [_read(step) for step in _DECODER.decode(body)]


def _read(step: _Iteration) -> Iteration:
    blocks, batch, drafts = step.blocks or _NO_BLOCKS, step.batch or _NO_BATCH, step.drafts or _NO_DRAFTS
    return Iteration(
        step.iter,
        step.rank,
        step.step_ms,
        step.active,
        step.queued,
        batch.num_scheduled_requests,
        batch.num_context_requests,
        batch.num_gen_requests,
        batch.num_ctx_tokens,
        blocks.used_num_blocks,
        blocks.max_num_blocks,
        blocks.cache_hit_rate,
        drafts.num_draft_tokens,
        drafts.num_accepted_tokens,
        drafts.num_requests_with_draft_tokens,
    )


def read_figures(samples: Samples) -> dict[str, float]:
    """The figures that all servers have in common, in the samples of ``/prometheus/metrics``."""
    return common_figures(samples, NAMES)


def read_samples(body: bytes) -> list[dict[str, float]] | None:
    """The iterations in an answer, each by the names that figures of servers have, as far as it has them.

    ``None`` when the answer is no JSON list: the same server's ``/prometheus/metrics``, or another server.

    Raises:
        msgspec.DecodeError (a ValueError): a JSON list of something else.
    """
    if body.lstrip()[:1] != b"[":
        return None
    return [_figures(step) for step in _DECODER.decode(body)]


def _figures(step: _Iteration) -> dict[str, float]:
    blocks, batch, drafts = step.blocks or _NO_BLOCKS, step.batch or _NO_BATCH, step.drafts or _NO_DRAFTS
    reused, missed = blocks.reused_blocks, blocks.missed_blocks
    looked_for = None if reused is None or missed is None else reused + missed
    figures = {
        "queued": step.queued,
        "active": step.active,
        "step_ms": step.step_ms,
        "kv_used": blocks.used_num_blocks,
        "kv_max": blocks.max_num_blocks,
        "cache_hit_rate": blocks.cache_hit_rate,
        # The rate is since the start of the server: loads before this one are in it. These grow.
        "cache_hits_total": blocks.reused_blocks,
        "cache_queries_total": looked_for,
        "paused": batch.num_paused_requests,
        "acceptance_length": drafts.acceptance_length,
    }
    return {name: value for name, value in figures.items() if value is not None}
