"""``/metrics`` of an emulated server under vLLM's names, and the lines that its log repeats every ten seconds.

Histograms have a sum, a count and the bucket that holds everything: enough for means, and all that costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ratematch.emulator.scheduler import Scheduler, Sequence, Step
from ratematch.emulator.vllm.logs import Log
from ratematch.emulator.vllm.settings import ServeSettings

LOG_PERIOD_S = 10.0

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")

_TIMES = (
    *("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"),
    *("request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds"),
    *("request_time_per_output_token_seconds", "request_prompt_tokens", "request_generation_tokens"),
)
_BETWEEN = "inter_token_latency_seconds"
_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
"""Where the tokens of prompts came from: counters of ``prompt_tokens_by_source``."""
_TRANSFERS = ("nixl_xfer_time_seconds", "nixl_post_time_seconds", "nixl_bytes_transferred", "nixl_num_descriptors")
_FAILURES = (
    *("nixl_num_failed_transfers", "nixl_num_failed_notifications", "nixl_num_kv_expired_reqs"),
    "nixl_num_notifications_after_expiry",
)
_COUNTERS = (
    *("prompt_tokens", "generation_tokens", "num_preemptions", "prefix_cache_queries", "prefix_cache_hits"),
    *("external_prefix_cache_queries", "external_prefix_cache_hits"),
)


@dataclass
class _Rank:
    """What one data-parallel rank has counted. Sums and counts of histograms by name."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0.0))
    sums: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINISH_REASONS, 0))

    def observe(self, name: str, total: float, number: int = 1) -> None:
        """``number`` values that add up to ``total``."""
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.numbers[name] = self.numbers.get(name, 0) + number


class Output(Protocol):
    """Where the tokens of a request go. ``tokens``: how many it has had."""

    @property
    def tokens(self) -> int: ...


@dataclass(frozen=True)
class Transfer:
    """One KV transfer: ``post_s`` of the engine's own thread, ``seconds`` in all."""

    seconds: float
    post_s: float
    bytes: float
    descriptors: int


class Metrics:
    """Counts of one server, shown in Prometheus' text form and in the log."""

    def __init__(self, settings: ServeSettings, scheduler: Scheduler, log: Log):
        self._settings, self._scheduler, self._log = settings, scheduler, log
        self._ranks = [_Rank() for _ in range(settings.mapping.dp_ranks)]
        self._running: dict[int, tuple[Sequence, Output]] = {}
        self._recent: list[Transfer] = []
        self._logged = [(0.0, 0.0)] * len(self._ranks)
        self._drafts = 0.0

    # ------------------------------------------------------------------------------------------- what happens

    def step(self, step: Step, start_s: float, end_s: float) -> None:
        """An iteration ended."""
        for rank, counts in zip(self._ranks, step.ranks, strict=True):
            if counts.num_scheduled:
                rank.observe("iteration_tokens_total", counts.num_ctx_tokens + counts.num_generation_tokens)
                self._drafts += counts.num_gen_requests if self._settings.drafts else 0

    def transferred(self, sequence: Sequence, transfer: Transfer) -> None:
        """A pull began; its time is planned, so it is counted at once."""
        rank = self._ranks[sequence.rank]
        values = (transfer.seconds, transfer.post_s, transfer.bytes, transfer.descriptors)
        for name, value in zip(_TRANSFERS, values, strict=True):
            rank.observe(name, value)
        self._recent.append(transfer)

    def failed(self, name: str, rank: int = 0) -> None:
        """One more of ``nixl_num_...``."""
        counts = self._ranks[max(0, rank)].counts
        counts[name] = counts.get(name, 0.0) + 1

    def started(self, sequence: Sequence, output: Output) -> None:
        """A request came; its tokens count as they come."""
        self._running[sequence.id] = (sequence, output)

    def finished(self, sequence: Sequence, reason: str | None) -> None:
        """A request ended: with its last token (``length``), with an ``error``, or (``None``) its client left, which
        the engine counts nowhere."""
        _, output = self._running.pop(sequence.id)
        tokens = output.tokens
        rank = self._ranks[max(0, sequence.rank)]
        rank.counts["generation_tokens"] += tokens
        if reason is not None:
            rank.finished[reason] += 1
        if sequence.first_token_s is None or sequence.finished_s is None or reason != "length":
            return
        first_s, end_s = sequence.first_token_s, sequence.finished_s
        # As in the engine, a KV transfer is part of the time in the queue.
        begun_s = sequence.first_scheduled_s if sequence.first_scheduled_s is not None else first_s
        decode_s = end_s - first_s
        values = (
            *(first_s - sequence.arrival_s, end_s - sequence.arrival_s, begun_s - sequence.arrival_s),
            *(end_s - begun_s, first_s - begun_s, decode_s, decode_s / max(1, tokens - 1)),
            *(sequence.prompt_len, tokens),
        )
        for name, value in zip(_TIMES, values, strict=True):
            rank.observe(name, value)
        rank.observe(_BETWEEN, decode_s, tokens - 1)
        self._count_prompt(rank, sequence)

    def _tokens(self, index: int) -> tuple[float, float]:
        """Prompt and generated tokens of a rank so far, with those of requests that still run."""
        counts = self._ranks[index].counts
        prompt, generated = counts["prompt_tokens"], counts["generation_tokens"]
        for sequence, output in self._running.values():
            if max(0, sequence.rank) == index and sequence.first_token_s is not None:
                prompt, generated = prompt + sequence.prompt_len, generated + output.tokens
        return prompt, generated

    def _count_prompt(self, rank: _Rank, sequence: Sequence) -> None:
        counts, reused = rank.counts, sequence.reused
        counts["prompt_tokens"] += sequence.prompt_len
        fetched = sequence.prompt_len - reused if sequence.pull is not None else 0
        for source, tokens in zip(_SOURCES, (sequence.prompt_len - reused - fetched, reused, fetched), strict=True):
            counts[source] = counts.get(source, 0.0) + tokens
        if self._settings.prefix_caching:
            counts["prefix_cache_queries"] += sequence.prompt_len
            counts["prefix_cache_hits"] += reused
        counts["external_prefix_cache_queries"] += fetched
        counts["external_prefix_cache_hits"] += fetched

    # ------------------------------------------------------------------------------------------- output

    def text(self) -> str:
        """Everything, in Prometheus' text form."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        scheduler, settings = self._scheduler, self._settings
        fetching, used = scheduler.fetching_per_rank, scheduler.kv_used_per_rank
        blocks = scheduler.config.kv_blocks
        for index, rank in enumerate(self._ranks):
            labels = f'engine="{index}",model_name="{settings.names[0]}"'
            running = scheduler.active_per_rank[index] - fetching[index]
            waiting = scheduler.num_queued if index == 0 else 0
            yield f"vllm:num_requests_running{{{labels}}} {running}.0"
            yield f"vllm:num_requests_waiting{{{labels}}} {waiting + fetching[index]}.0"
            yield f'vllm:num_requests_waiting_by_reason{{{labels},reason="capacity"}} {waiting}.0'
            yield f'vllm:num_requests_waiting_by_reason{{{labels},reason="deferred"}} {fetching[index]}.0'
            yield f"vllm:kv_cache_usage_perc{{{labels}}} {used[index] / blocks}"
            now = dict(zip(("prompt_tokens", "generation_tokens"), self._tokens(index), strict=True))
            for name in (*_COUNTERS, *(_FAILURES if settings.transfer else ())):
                yield f"vllm:{name}_total{{{labels}}} {now.get(name, rank.counts.get(name, 0.0))}"
            for source in _SOURCES:
                tokens = rank.counts.get(source, 0.0)
                yield f'vllm:prompt_tokens_by_source_total{{{labels},source="{source}"}} {tokens}'
            for reason, count in rank.finished.items():
                yield f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count}.0'
            names = ("iteration_tokens_total", *_TIMES, _BETWEEN, *(_TRANSFERS if settings.transfer else ()))
            for name in names:
                yield f'vllm:{name}_bucket{{{labels},le="+Inf"}} {rank.numbers.get(name, 0)}.0'
                yield f"vllm:{name}_count{{{labels}}} {rank.numbers.get(name, 0)}.0"
                yield f"vllm:{name}_sum{{{labels}}} {rank.sums.get(name, 0.0)}"
            about = f'block_size="{settings.block_size}",num_gpu_blocks="{blocks}",cache_dtype="{settings.kv_dtype}"'
            yield f"vllm:cache_config_info{{{about},{labels}}} 1.0"
        if settings.drafts:
            labels = f'engine="0",model_name="{settings.names[0]}"'
            yield f"vllm:spec_decode_num_drafts_total{{{labels}}} {self._drafts}"
            yield f"vllm:spec_decode_num_draft_tokens_total{{{labels}}} {scheduler.draft_tokens}.0"
            yield f"vllm:spec_decode_num_accepted_tokens_total{{{labels}}} {scheduler.accepted_tokens}.0"

    def log_lines(self) -> None:
        """What the log tells of the last ten seconds; nothing of a rank without work then and now."""
        scheduler = self._scheduler
        fetching, used = scheduler.fetching_per_rank, scheduler.kv_used_per_rank
        for index, rank in enumerate(self._ranks):
            now = self._tokens(index)
            prompt, generated = (b - a for a, b in zip(self._logged[index], now, strict=True))
            self._logged[index] = now
            running = scheduler.active_per_rank[index] - fetching[index]
            if not (prompt or generated or running or fetching[index]):
                continue
            hits, queries = rank.counts["prefix_cache_hits"], rank.counts["prefix_cache_queries"]
            self._log.info(
                f"Engine {index:03d}: Avg prompt throughput: {prompt / LOG_PERIOD_S:.1f} tokens/s, "
                f"Avg generation throughput: {generated / LOG_PERIOD_S:.1f} tokens/s, Running: {running} reqs, "
                f"Waiting: {(scheduler.num_queued if index == 0 else 0) + fetching[index]} reqs, "
                f"GPU KV cache usage: {100 * used[index] / scheduler.config.kv_blocks:.1f}%, "
                f"Prefix cache hit rate: {100 * hits / queries if queries else 0.0:.1f}%"
            )
        if self._recent:
            self._log_transfers()

    def _log_transfers(self) -> None:
        recent, self._recent = self._recent, []
        took_ms = np.array([transfer.seconds for transfer in recent]) * 1e3
        post_ms = np.array([transfer.post_s for transfer in recent]) * 1e3
        mib = np.array([transfer.bytes for transfer in recent]) / 2**20
        descriptors = np.array([transfer.descriptors for transfer in recent])
        self._log.info(
            f"KV Transfer metrics: Num successful transfers={len(recent)}, "
            f"Avg xfer time (ms)={took_ms.mean():.3f}, P90 xfer time (ms)={np.percentile(took_ms, 90):.3f}, "
            f"Avg post time (ms)={post_ms.mean():.3f}, P90 post time (ms)={np.percentile(post_ms, 90):.3f}, "
            f"Avg MB per transfer={mib.mean():.3f}, Throughput (MB/s)={mib.sum() / took_ms.sum() * 1e3:.3f}, "
            f"Avg number of descriptors={descriptors.mean():.1f}"
        )
