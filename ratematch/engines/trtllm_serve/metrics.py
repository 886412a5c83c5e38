"""``GET /metrics`` of a worker: a JSON list of the iterations since the last call (contract, section 5.1).

1.2 has one row an iteration. Later, under attention DP, each rank has one: counts of requests, tokens and KV blocks
are the rank's own, the queue stands in the row of the rank that has it, and the time of the iteration is in all of
them. The rows of an iteration are added up here, so that both forms give the figures of the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ratematch.measure.metricnames import MetricNames, common_figures
from ratematch.measure.servermetrics import Iteration, ReadIterations, Routes, Samples

ROUTES = Routes(iterations="/metrics", prometheus="/prometheus/metrics")

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
    host_ms: float | None = msgspec.field(name="hostStepTimeMS", default=None)
    before_device_ms: float | None = msgspec.field(name="prevDeviceStepTimeMS", default=None)
    blocks: _Blocks | None = msgspec.field(name="kvCacheStats", default=None)
    batch: _Batch | None = msgspec.field(name="inflightBatchingStats", default=None)
    drafts: _Drafts | None = msgspec.field(name="specDecodingStats", default=None)


_DECODER = msgspec.json.Decoder(list[_Iteration])
_NO_BLOCKS, _NO_BATCH, _NO_DRAFTS = _Blocks(), _Batch(), _Drafts()


def iteration_reader() -> ReadIterations:
    """A reader of one server's answers. It keeps nothing: each answer holds whole iterations."""
    return read_iterations


def read_iterations(body: bytes, now_ns: int) -> list[Iteration]:
    """The iterations in an answer of ``/metrics``, each of all ranks together; ``rank`` only where one row is all.

    Raises:
        msgspec.DecodeError (a ValueError): no JSON list of iterations.
    """
    return [_read(step) for step in _whole_iterations(_DECODER.decode(body))]


def _whole_iterations(rows: Sequence[_Iteration]) -> Iterator[_Iteration]:
    """The iterations in ``rows``, in which ranks may lie in any order. At both ends of an answer the rows of some
    ranks may be missing, because they were dropped or are still to come: such an iteration is left out, for its sums
    would be too small."""
    groups: list[list[_Iteration]] = []
    latest: dict[int, list[_Iteration]] = {}
    for row in rows:
        group = latest.get(row.iter)
        if group is None or row.rank is None or row.rank in [one.rank for one in group]:
            group = []
            groups.append(group)
            if row.rank is not None:
                latest[row.iter] = group
        group.append(row)
    ranks = max((len(group) for group in groups), default=0)
    for number, group in enumerate(groups):
        if len(group) == ranks or 0 < number < len(groups) - 1:
            yield group[0] if len(group) == 1 else _add_up(group)


def _add_up(ranks: Sequence[_Iteration]) -> _Iteration:
    """One iteration of all ``ranks``."""
    blocks = [rank.blocks or _NO_BLOCKS for rank in ranks]
    batches = [rank.batch or _NO_BATCH for rank in ranks]
    drafts = [rank.drafts or _NO_DRAFTS for rank in ranks]
    drafted = _sum(one.num_requests_with_draft_tokens for one in drafts)
    accepted = _sum(one.num_accepted_tokens for one in drafts)
    return _Iteration(
        iter=ranks[0].iter,
        rank=None,
        step_ms=_largest(rank.step_ms for rank in ranks),
        active=_sum(rank.active for rank in ranks),
        # In the row of one rank; the others have 0 or nothing, or all repeat it.
        queued=_largest(rank.queued for rank in ranks),
        host_ms=_largest(rank.host_ms for rank in ranks),
        before_device_ms=_largest(rank.before_device_ms for rank in ranks),
        blocks=_Blocks(
            _sum(one.used_num_blocks for one in blocks),
            _sum(one.max_num_blocks for one in blocks),
            _hit_rate(blocks),
            _sum(one.reused_blocks for one in blocks),
            _sum(one.missed_blocks for one in blocks),
        ),
        batch=_Batch(
            _sum(one.num_scheduled_requests for one in batches),
            _sum(one.num_context_requests for one in batches),
            _sum(one.num_gen_requests for one in batches),
            _sum(one.num_ctx_tokens for one in batches),
            _sum(one.num_paused_requests for one in batches),
        ),
        drafts=_Drafts(
            _sum(one.num_draft_tokens for one in drafts),
            accepted,
            drafted,
            1 + (accepted or 0.0) / drafted if drafted else _largest(one.acceptance_length for one in drafts),
        ),
    )


def _sum(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _largest(values: Iterator[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _hit_rate(blocks: Sequence[_Blocks]) -> float | None:
    """Hits of all ranks by what all looked for; where no rank counts blocks, the mean of their rates."""
    hits, missed = _sum(one.reused_blocks for one in blocks), _sum(one.missed_blocks for one in blocks)
    if hits is not None and missed is not None:
        return hits / (hits + missed) if hits + missed else 0.0
    rates = [one.cache_hit_rate for one in blocks if one.cache_hit_rate is not None]
    return sum(rates) / len(rates) if rates else None


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
        step.host_ms,
        step.before_device_ms,
    )


def read_figures(samples: Samples) -> dict[str, float]:
    """The figures that all servers have in common, in the samples of ``/prometheus/metrics``."""
    return common_figures(samples, NAMES)


def read_samples(body: bytes) -> list[dict[str, float]] | None:
    """The iterations in an answer, each of all ranks together, by the names that figures of servers have, as far as
    it has them.

    ``None`` when the answer is no JSON list: the same server's ``/prometheus/metrics``, or another server.

    Raises:
        msgspec.DecodeError (a ValueError): a JSON list of something else.
    """
    if body.lstrip()[:1] != b"[":
        return None
    return [_figures(step) for step in _whole_iterations(_DECODER.decode(body))]


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
