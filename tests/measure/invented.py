"""Synthetic loads with a known truth."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from ratematch.measure.records import RequestRecord

MS = 1_000_000


def record(
    seq: int = 0,
    *,
    sent_ms: float = 0.0,
    ttft_ms: float = 50.0,
    tpot_ms: float = 5.0,
    osl: int = 11,
    tokens_per_chunk: int = 1,
    lag_ms: float = 0.0,
    tail_ms: float = 0.0,
    isl: int = 100,
) -> RequestRecord:
    """A full answer: chunks of ``tokens_per_chunk`` tokens, ``tail_ms`` from the last token to the end."""
    first = sent_ms + ttft_ms
    tokens = [0, *range(tokens_per_chunk, osl, tokens_per_chunk)]
    if tokens[-1] != osl - 1:
        tokens.append(osl - 1)
    chunks = [round((first + tpot_ms * token) * MS) for token in tokens]
    return RequestRecord(
        seq=seq,
        intended_ns=round((sent_ms - lag_ms) * MS),
        sent_ns=round(sent_ms * MS),
        first_token_ns=chunks[0],
        last_token_ns=chunks[-1],
        end_ns=chunks[-1] + round(tail_ms * MS),
        chunk_ns=chunks,
        isl=isl,
        isl_reported=isl,
        osl_requested=osl,
        osl=osl,
        cached_tokens=0,
        finish_reason="length",
        status=200,
    )


def closed_loop(
    concurrency: int,
    osls: Sequence[int],
    *,
    ttft_ms: float = 50.0,
    tpot_ms: float = 5.0,
    burst_ms: float = 0.0,
    stagger_ms: float = 0.0,
) -> list[RequestRecord]:
    """``concurrency`` slots kept full; the first wave waits ``burst_ms`` longer per request ahead of it.

    ``stagger_ms``: how much later each slot starts than the one before.
    """
    slots = [(k * stagger_ms, k) for k in range(concurrency)]
    heapq.heapify(slots)
    records = []
    for seq, osl in enumerate(osls):
        free_ms, slot = heapq.heappop(slots)
        extra = burst_ms * slot if seq < concurrency else 0.0
        made = record(seq, sent_ms=free_ms, ttft_ms=ttft_ms + extra, tpot_ms=tpot_ms, osl=osl)
        assert made.end_ns is not None
        heapq.heappush(slots, (made.end_ns / MS, slot))
        records.append(made)
    return records


def lengths(num: int, low: int, high: int, seed: int = 0) -> list[int]:
    return [int(osl) for osl in np.random.default_rng(seed).integers(low, high, size=num, endpoint=True)]


def contended_loop(
    concurrency: int, osls: Sequence[int], *, prefill_ms: float, step_ms: float, step_ms_per_request: float
) -> list[RequestRecord]:
    """A closed loop whose servers are slower the fuller they are: one prompt at a time is prefilled, and a decode
    step takes ``step_ms`` plus ``step_ms_per_request`` for each request in it."""
    now = prefill_free = 0.0
    waiting: list[tuple[float, int, float]] = []  # first token at, seq, sent at
    decoding: dict[int, tuple[float, list[float]]] = {}
    done: list[RequestRecord] = []
    unsent = iter(range(len(osls)))

    def send(at: float) -> None:
        nonlocal prefill_free
        if (seq := next(unsent, None)) is not None:
            prefill_free = max(at, prefill_free) + prefill_ms
            waiting.append((prefill_free, seq, at))

    for _ in range(concurrency):
        send(0.0)
    while waiting or decoding:
        if not decoding:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now:
            first, seq, sent = waiting.pop(0)
            decoding[seq] = (sent, [first])
        now += step_ms + step_ms_per_request * len(decoding)
        for seq, (sent, tokens) in list(decoding.items()):
            tokens.append(now)
            if len(tokens) == osls[seq]:
                del decoding[seq]
                chunks = [round(token * MS) for token in tokens]
                made = record(seq, osl=osls[seq])
                made.intended_ns = made.sent_ns = round(sent * MS)
                made.chunk_ns, made.first_token_ns = chunks, chunks[0]
                made.last_token_ns = made.end_ns = chunks[-1]
                done.append(made)
                send(now)
    return done
