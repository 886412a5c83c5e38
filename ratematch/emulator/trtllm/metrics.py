"""What a worker shows of its iterations and requests: log lines, ``/metrics``, ``/perf_metrics``, Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime

from ratematch.emulator.protocol import Json
from ratematch.emulator.scheduler import Scheduler, Sequence, Step
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.protocol import GenerationRequest
from ratematch.emulator.trtllm.settings import WorkerSettings
from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.engines.trtllm_serve.reporting import reporting

_BLOCK_COUNTS = ("allocTotalBlocks", "allocNewBlocks", "reusedBlocks", "missedBlocks", "cacheHitRate")


def iteration_line(
    version: str, step: Step, step_s: float, previous_s: float | None, fetched: tuple[int, int], kv_util: float
) -> str:
    """One ``print_iter_log`` line of rank 0 (contract, section 5.4). ``fetched``: requests of this rank, of all."""
    rank = step.ranks[0]
    states = {
        "num_ctx_requests": rank.num_ctx_requests,
        "num_ctx_tokens": rank.num_ctx_tokens,
        "num_generation_tokens": rank.num_generation_tokens,
    }
    if reporting(version).late:
        states["cached_kv_tokens"] = int(step.loads[0].kv_read_tokens)
    device = "N/A" if previous_s is None else f"{previous_s * 1e3:.6g}ms"
    stamp = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    head = f"iter = {step.iter}, global_rank = 0, rank = 0, "
    total = f"currank_total_requests = {fetched[0]}/{fetched[1]}, "
    times = f"host_step_time = {step_s * 1e3:.6g}ms, prev_device_step_time = {device}, timestamp = {stamp}, "
    if release_line(version) == "1.2":
        return f"{head}{total}{times}num_scheduled_requests: {rank.num_scheduled}, states = {states}"
    scheduled = f"num_scheduled_requests = {rank.num_scheduled}, kv_cache_util = {kv_util:.3f}, "
    return f"{head}{scheduled}{total}{times}states = {states}"


class IterationRecorder:
    """Keeps the statistics of past iterations until somebody reads them, and prints iteration lines."""

    def __init__(self, settings: WorkerSettings, scheduler: Scheduler, log: Log):
        self._scheduler = scheduler
        self._settings = settings
        self._log = log
        self._kept: deque[Json] = deque(maxlen=settings.stats_kept)
        self._arrived = asyncio.Event()
        self._previous_s: float | None = None
        self._completed = 0
        self._drafts = (0, 0)
        self._per_rank = reporting(settings.version).rows_per_rank

    def record(self, step: Step, start_s: float, end_s: float) -> None:
        """Take note of a finished step."""
        settings, scheduler = self._settings, self._scheduler
        if settings.print_iter_log:
            ranks = settings.mapping.dp_ranks
            fetched = (-(-scheduler.num_admitted // ranks), scheduler.num_admitted)
            util = scheduler.kv_used_blocks / max(1, scheduler.kv_max_blocks)
            line = iteration_line(settings.version, step, end_s - start_s, self._previous_s, fetched, util)
            self._log.rank0(line)
        if settings.iter_perf_stats:
            whole = self._stats(step, end_s - start_s)
            self._kept.extend(self._rows(step, whole))
            self._arrived.set()
        self._previous_s = end_s - start_s

    def _stats(self, step: Step, step_s: float) -> Json:
        scheduler, rank = self._scheduler, step.ranks[0]
        completed, self._completed = scheduler.num_completed - self._completed, scheduler.num_completed
        drafts, accepted = scheduler.draft_tokens - self._drafts[0], scheduler.accepted_tokens - self._drafts[1]
        self._drafts = (scheduler.draft_tokens, scheduler.accepted_tokens)
        generating = sum(counts.num_gen_requests for counts in step.ranks)
        reused, missed = scheduler.reused_blocks, scheduler.missed_blocks
        accept_len = 1 + accepted / generating if generating else 0.0
        return {
            "timestamp": datetime.now().strftime("%m-%d-%Y %H:%M:%S.%f"),
            "iter": step.iter,
            "iterLatencyMS": step_s * 1e3,
            "newActiveRequestsQueueLatencyMS": 0.0,
            "numNewActiveRequests": rank.num_ctx_requests,
            "numActiveRequests": step.num_active,
            "numQueuedRequests": step.num_queued,
            "numCompletedRequests": completed,
            "maxNumActiveRequests": self._settings.max_batch_size * self._settings.mapping.dp_ranks,
            "gpuMemUsage": 0,
            "cpuMemUsage": 0,
            "pinnedMemUsage": 0,
            "attentionDpRank": 0,
            "kvCacheStats": {
                "maxNumBlocks": scheduler.kv_max_blocks,
                "freeNumBlocks": scheduler.kv_free_blocks,
                "usedNumBlocks": scheduler.kv_used_blocks,
                "tokensPerBlock": self._settings.tokens_per_block,
                "allocTotalBlocks": reused + missed,
                "allocNewBlocks": missed,
                "reusedBlocks": reused,
                "missedBlocks": missed,
                "cacheHitRate": reused / (reused + missed) if reused + missed else 0.0,
            },
            "inflightBatchingStats": {
                "numScheduledRequests": sum(counts.num_scheduled for counts in step.ranks),
                "numContextRequests": sum(counts.num_ctx_requests for counts in step.ranks),
                "numGenRequests": generating,
                "numPausedRequests": scheduler.num_paused,
                "numCtxTokens": sum(counts.num_ctx_tokens for counts in step.ranks),
                "microBatchId": 0,
                "avgNumDecodedTokensPerIter": accept_len,
            },
            "specDecodingStats": {
                "numDraftTokens": drafts,
                "numAcceptedTokens": accepted,
                "numRequestsWithDraftTokens": generating if self._settings.mtp else 0,
                "acceptanceLength": accept_len,
                "iterLatencyMS": 0.0,
                "draftOverhead": 0.0,
            },
            "requestStats": [],
        }

    def _rows(self, step: Step, whole: Json) -> Iterator[Json]:
        """The rows of an iteration: one for all ranks; from mid 1.3 on one a rank under attention DP, where counts of
        requests, tokens and KV blocks are the rank's own, and only rank 0 has a queue."""
        settings, scheduler = self._settings, self._scheduler
        if not self._per_rank:
            yield whole
            return
        whole |= {
            "hostStepTimeMS": whole["iterLatencyMS"],
            "prevDeviceStepTimeMS": None if self._previous_s is None else self._previous_s * 1e3,
        }
        used = scheduler.kv_used_per_rank
        ranks = step.ranks if settings.mapping.attention_dp else step.ranks[:1]
        # What was active and did not run in this iteration is not known by rank any more.
        others = step.num_active - sum(counts.num_scheduled for counts in ranks)
        for number, counts in enumerate(ranks):
            first = number == 0
            most = scheduler.config.kv_blocks
            drafts = whole["specDecodingStats"]
            yield {
                **whole,
                "attentionDpRank": number,
                "numActiveRequests": counts.num_scheduled + (others if first else 0),
                "numQueuedRequests": whole["numQueuedRequests"] if first else 0,
                "maxNumActiveRequests": settings.max_batch_size,
                "kvCacheStats": {
                    **whole["kvCacheStats"],
                    "maxNumBlocks": most,
                    "usedNumBlocks": used[number],
                    "freeNumBlocks": most - used[number],
                    # Hits are counted for all ranks together here.
                    **({} if first else dict.fromkeys(_BLOCK_COUNTS, 0)),
                },
                "inflightBatchingStats": {
                    **whole["inflightBatchingStats"],
                    "numScheduledRequests": counts.num_scheduled,
                    "numContextRequests": counts.num_ctx_requests,
                    "numGenRequests": counts.num_gen_requests,
                    "numCtxTokens": counts.num_ctx_tokens,
                },
                "specDecodingStats": {
                    **drafts,
                    "numDraftTokens": drafts["numDraftTokens"] if first else 0,
                    "numAcceptedTokens": drafts["numAcceptedTokens"] if first else 0,
                    "numRequestsWithDraftTokens": counts.num_gen_requests if settings.mtp else 0,
                },
            }

    async def drain(self, wait_s: float) -> list[Json]:
        """Statistics since the last call; waits up to ``wait_s`` seconds for the first."""
        if not self._kept and self._settings.iter_perf_stats:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), wait_s)
            except asyncio.TimeoutError:
                return []
        kept = list(self._kept)
        self._kept.clear()
        return kept


class PerfRecorder:
    """Per-request timings for ``/perf_metrics``; seconds on the steady clock plus the offset a client posted."""

    def __init__(self, keep: int, tokens_per_block: int, drafts_per_step: int):
        self.offset_s = 0.0
        self._kept: deque[Json] = deque(maxlen=keep)
        self._tokens_per_block = tokens_per_block
        self._drafts = drafts_per_step
        self._requests = 0
        self._tokens = 0
        self._ttft_s = 0.0
        self._e2e_s = 0.0

    def add(
        self, request: GenerationRequest, seq: Sequence, server_arrival_s: float, iterations: int, kv_bytes: float
    ) -> Json:
        """Keep the record of a finished request, which is returned."""
        last = seq.finished_s if seq.finished_s is not None else time.monotonic()
        first = seq.first_token_s if seq.first_token_s is not None else last
        scheduled = seq.first_scheduled_s if seq.first_scheduled_s is not None else first
        self._requests += 1
        self._tokens += seq.generated
        self._ttft_s += first - server_arrival_s
        self._e2e_s += last - server_arrival_s
        at = self.offset_s
        timing: dict[str, float] = {
            "server_arrival_time": server_arrival_s + at,
            "arrival_time": seq.arrival_s + at,
            "first_scheduled_time": scheduled + at,
            "first_token_time": first + at,
            "server_first_token_time": first + at,
            "last_token_time": last + at,
        }
        if seq.kind == "generation_only":
            timing["kv_cache_size"] = kv_bytes
            timing["kv_cache_transfer_end"] = seq.ready_s + at
            timing["kv_cache_transfer_start"] = seq.ready_s - seq.transfer_s + at
        blocks = -(-(seq.prompt_len + seq.generated) // self._tokens_per_block)
        reused = seq.reused // self._tokens_per_block
        metrics: Json = {
            "first_iter": None,
            "last_iter": None,
            "timing_metrics": timing,
            "kv_cache_metrics": {
                "num_total_allocated_blocks": blocks,
                "num_new_allocated_blocks": blocks - reused,
                "num_reused_blocks": reused,
                "num_missed_blocks": blocks - reused,
            },
        }
        if self._drafts:
            # The first of the iterations computed the prompt: it gave one token and had no drafts.
            drafts = self._drafts * (iterations - 1)
            accepted = max(0, seq.generated - iterations)
            metrics["speculative_decoding"] = {
                "acceptance_rate": accepted / drafts if drafts else 0.0,
                "total_accepted_draft_tokens": accepted,
                "total_draft_tokens": drafts,
            }
        number = request.disagg.get("disagg_request_id")
        record: Json = {
            "request_id": seq.id,
            "ctx_request_id": request.disagg.get("ctx_request_id") or number,
            "perf_metrics": metrics,
            "status": "complete",
        }
        if number is not None:
            record["disagg_request_id"] = number
        self._kept.append(record)
        return record

    def drain(self) -> list[Json]:
        """Records since the last call."""
        kept = list(self._kept)
        self._kept.clear()
        return kept

    def prometheus(self) -> str:
        """Totals in Prometheus' text format."""
        lines = []
        for name, value in (
            ("trtllm_request_success_total", self._requests),
            ("trtllm_generation_tokens_total", self._tokens),
            ("trtllm_time_to_first_token_seconds_sum", self._ttft_s),
            ("trtllm_time_to_first_token_seconds_count", self._requests),
            ("trtllm_e2e_request_latency_seconds_sum", self._e2e_s),
            ("trtllm_e2e_request_latency_seconds_count", self._requests),
        ):
            lines.append(f"{name} {value:.9g}")
        return "\n".join(lines) + "\n"
