"""Latency metrics of requests and rates inside a window: a function each, with formula, unit and when undefined.

The definitions are those of TensorRT-LLM's ``benchmark_serving`` where both have the metric (contract, section 8);
the docstrings name the differences. Arrays are 1-d float64, one element a record, in the records' order, NaN where
the metric is undefined for that record.

A request *occupies* its slot from its start to ``end_ns``. The start is ``sent_ns`` in closed loop and
``intended_ns`` in open loop, where a request that was sent late is late (coordinated omission otherwise hides it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ratematch.measure.columns import ABSENT, Columns, Flags
from ratematch.measure.records import RequestRecord

Floats = NDArray[np.float64]
Since = Literal["sent", "intended"]
NS_PER_MS = 1e6


def is_complete(record: RequestRecord) -> bool:
    """A full answer with token instants and usage. Only these count in any metric, as in ``benchmark_serving``."""
    return (
        record.outcome == "ok"
        and record.osl is not None
        and record.sent_ns is not None
        and record.first_token_ns is not None
        and record.last_token_ns is not None
        and record.end_ns is not None
    )


def are_complete(records: Sequence[RequestRecord]) -> Flags:
    """:func:`is_complete` of each."""
    if not isinstance(records, Columns):
        return np.array([is_complete(record) for record in records], dtype=bool)
    full = records.text("outcome").equal("ok")
    for name in ("osl", "sent_ns", "first_token_ns", "last_token_ns", "end_ns"):
        full &= records.known(name)
    return full


def mean_isl(records: Sequence[RequestRecord]) -> float | None:
    """Mean prompt tokens: as sent, and of texts that nobody counted as the server's usage says. ``None`` where
    neither is known of any record: a prompt of unknown length is none of 0 tokens."""
    if isinstance(records, Columns):
        sent, reported = records.ints("isl"), records.ints("isl_reported")
        lengths = np.where(sent != 0, sent, np.where(reported == ABSENT, 0, reported))
        lengths = lengths[lengths != 0]
    else:
        lengths = np.array([length for record in records if (length := record.isl or record.isl_reported)])
    return float(np.mean(lengths)) if len(lengths) else None


def _floats(records: Sequence[RequestRecord], name: str) -> Floats:
    """An integer field of each record; NaN where it has none."""
    if isinstance(records, Columns):
        return records.floats(name)
    values = (getattr(record, name) for record in records)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def start_ns(records: Sequence[RequestRecord], since: Since = "sent") -> Floats:
    """When each request took its slot, ns; undefined when it was never sent."""
    sent = _floats(records, "sent_ns")
    return np.where(np.isnan(sent), np.nan, _floats(records, "intended_ns")) if since == "intended" else sent


def end_ns(records: Sequence[RequestRecord]) -> Floats:
    """When each request gave its slot back, ns; undefined when it never ended."""
    return _floats(records, "end_ns")


def ttft_ms(records: Sequence[RequestRecord], since: Since = "sent") -> Floats:
    """Time to first token = first_token - start, ms. Undefined without a token."""
    return (_floats(records, "first_token_ns") - start_ns(records, since)) / NS_PER_MS


def e2el_ms(records: Sequence[RequestRecord], since: Since = "sent") -> Floats:
    """End-to-end latency = last_token - start, ms. Undefined without a token."""
    return (_floats(records, "last_token_ns") - start_ns(records, since)) / NS_PER_MS


def later_tokens(records: Sequence[RequestRecord]) -> Floats:
    """Output tokens that came after the first arrival: what the stream tells, else OSL - 1. Undefined without
    usage."""
    total, later = _floats(records, "osl"), _floats(records, "later_tokens")
    return np.where(total != 0, np.where(np.isnan(later) | np.isnan(total), total - 1, later), np.nan)


def tpot_ms(records: Sequence[RequestRecord]) -> Floats:
    """Time per output token = (last_token - first_token) / (tokens after the first arrival), ms.

    These are OSL - 1 by usage, fewer where the stream tells that several came with the first one (usage in every
    chunk, several chunks that arrived as one): the gaps in between have brought only the others. With OSL - 1 it
    equals (E2EL - TTFT) / (OSL - 1), which ``benchmark_serving`` prints. Undefined for OSL < 2, where the one token
    came with the TTFT, and where all came at once.
    """
    return _per_later_token(records, later_tokens(records))


def plain_tpot_ms(records: Sequence[RequestRecord]) -> Floats:
    """(last_token - first_token) / (OSL - 1), ms: what ``benchmark_serving`` and AIPerf print, however many tokens
    the first chunk held. Undefined for OSL < 2."""
    return _per_later_token(records, output_tokens(records) - 1)


def _per_later_token(records: Sequence[RequestRecord], tokens: Floats) -> Floats:
    decode = _floats(records, "last_token_ns") - _floats(records, "first_token_ns")
    return np.asarray(decode / np.where(tokens > 0, tokens, np.nan) / NS_PER_MS)


def ttst_ms(records: Sequence[RequestRecord]) -> Floats:
    """Time to second token = second chunk - first chunk, ms: AIPerf's time_to_second_token.

    In disaggregated serving the first token comes from the context server, so the KV transfer and the wait for a
    generation slot may show here instead of in TTFT. Undefined for fewer than two chunks.
    """
    if isinstance(records, Columns):
        chunks, starts = records.store.chunks, records.chunk_starts
        several = records.chunk_counts > 1
        gaps = np.full(len(records), np.nan)
        gaps[several] = (chunks[starts[several] + 1] - chunks[starts[several]]) / NS_PER_MS
        return gaps
    return np.array(
        [(r.chunk_ns[1] - r.chunk_ns[0]) / NS_PER_MS if len(r.chunk_ns) > 1 else np.nan for r in records],
        dtype=np.float64,
    )


def tokens_per_chunk(records: Sequence[RequestRecord]) -> float | None:
    """Mean output tokens a chunk = sum(OSL) / sum(chunks), over records that have both. 1 without stream_interval or
    speculative decoding. Undefined (``None``) when no record has chunks and usage."""
    if isinstance(records, Columns):
        total, number = records.ints("osl"), records.chunk_counts
        both = (total != ABSENT) & (total != 0) & (number > 0)
        return int(total[both].sum()) / int(number[both].sum()) if both.any() else None
    counts = [(record.osl, len(record.chunk_ns)) for record in records if record.osl and record.chunk_ns]
    return sum(osl for osl, _ in counts) / sum(chunks for _, chunks in counts) if counts else None


def chunk_gap_ms(records: Sequence[RequestRecord]) -> Floats:
    """Gaps between neighbouring token-carrying chunks, ms, of all records after one another.

    This is ``benchmark_serving``'s ITL: about stream_interval x step time, whatever the chunk carries.
    Undefined (no element) for a record with fewer than two chunks.
    """
    if isinstance(records, Columns):
        return _gaps_ms(records, np.ones(len(records)))
    gaps = [np.diff(np.asarray(r.chunk_ns, dtype=np.float64)) for r in records if len(r.chunk_ns) > 1]
    return np.concatenate(gaps) / NS_PER_MS if gaps else np.empty(0)


def _gaps_ms(records: Columns, factors: Floats) -> Floats:
    """Gaps between neighbouring chunks, those of each record times its factor; none where that is NaN. Some records
    at a time, so that the gaps are all that takes room."""
    gaps = np.empty(len(records.store.chunks))
    number = done = 0
    for block in records.blocks():
        own = factors[done : done + len(block)]
        done += len(block)
        wanted = ~np.isnan(own) & (block.chunk_counts > 1)
        some, own = block.take(wanted), own[wanted]
        if not len(some):
            continue
        counts = some.chunk_counts
        between = np.diff(some.chunks().astype(np.float64))
        inside = np.ones(len(between), dtype=bool)
        inside[np.cumsum(counts)[:-1] - 1] = False  # from the last of a record to the first of the next
        found = between[inside] * np.repeat(own, counts - 1) / NS_PER_MS
        gaps[number : number + len(found)] = found
        number += len(found)
    return gaps[:number]


def itl_ms(records: Sequence[RequestRecord]) -> Floats:
    """Inter-token latency = chunk gap / mean tokens per chunk of its request, ms, of all records after one another.

    How many tokens one chunk carries is not in most streams (only the total, in usage), so every gap of a request is
    divided by the same (OSL - 1) / (chunks - 1), with the tokens after the first arrival in place of OSL - 1 where
    they are known. With one token a chunk it equals ``benchmark_serving``'s ITL; with stream_interval or MTP it stays
    comparable with TPOT, while its percentiles blur single tokens inside a chunk. Undefined (no element) for a record
    with fewer than two chunks or OSL < 2.
    """
    if isinstance(records, Columns):
        later = later_tokens(records)
        return _gaps_ms(records, (records.chunk_counts - 1) / np.where(later > 0, later, np.nan))
    gaps = [
        np.diff(np.asarray(r.chunk_ns, dtype=np.float64)) * ((len(r.chunk_ns) - 1) / tokens)
        for r, tokens in zip(records, later_tokens(records), strict=True)
        if len(r.chunk_ns) > 1 and tokens > 0
    ]
    return np.concatenate(gaps) / NS_PER_MS if gaps else np.empty(0)


def send_lag_ms(records: Sequence[RequestRecord]) -> Floats:
    """How late the client was = sent - intended, ms. Undefined when never sent."""
    return (_floats(records, "sent_ns") - _floats(records, "intended_ns")) / NS_PER_MS


def output_tokens(records: Sequence[RequestRecord]) -> Floats:
    """OSL from usage, tokens. Undefined without usage; never counted from chunks."""
    return _floats(records, "osl")


def tok_s_user(mean_tpot_ms: float | None) -> float | None:
    """Interactivity = 1000 / mean TPOT in ms, tok/s/user: the convention of published plots.

    Not ``benchmark_serving``'s "user throughput", which is mean(OSL / E2EL) and so includes TTFT.
    Undefined without TPOT, or when it is 0.
    """
    return 1000.0 / mean_tpot_ms if mean_tpot_ms else None


def seconds_inside(starts: Floats, ends: Floats, window_start_ns: float, window_end_ns: float) -> Floats:
    """How long each request held its slot inside the window, s. 0 for requests outside or without both instants."""
    inside = np.minimum(ends, window_end_ns) - np.maximum(starts, window_start_ns)
    return np.asarray(np.nan_to_num(np.maximum(inside, 0.0)) / 1e9)


def shares_inside(
    starts: Floats, ends: Floats, lives: Floats, window_start_ns: float, window_end_ns: float
) -> Floats:
    """Which part of each request's life (ns) lies inside the window, 0..1.

    The estimator behind ``req_s`` and ``tok_s``: a request that is half inside counts half. Counting completions
    instead is off by up to a whole wave when requests run in step (fixed OSL, burst start), and counting chunk
    arrivals is off by the wave's prefill pause; over a window of a few waves either error reaches several per cent.
    With shares, sum(share x life) = integral of the requests in flight, so Little's law holds between ``in_flight``,
    ``req_s`` and the latencies without a correction. ``lives`` is end - start, or :func:`lives_under_load_ns`.
    """
    inside = seconds_inside(starts, ends, window_start_ns, window_end_ns)
    # A request without duration inside the window is all there.
    whole = np.where((starts >= window_start_ns) & (ends <= window_end_ns), 1.0, 0.0)
    return np.where(lives > 0, np.minimum(inside * 1e9 / np.where(lives > 0, lives, 1.0), 1.0), whole)


def lives_under_load_ns(
    records: Sequence[RequestRecord], window_end_ns: float, ttft: float | None, tpot: float | None
) -> Floats:
    """How long each request holds its slot, ns, had the load not ended: closed loop, steady window only.

    Requests that outlive the window finish while the load drains, faster than under load (an aggregated server has no
    more prompts to prefill then), so their share of life inside would come out too big: by 7 % of the rate over three
    waves in one measured case. Their life is taken as TTFT + (tokens after the first arrival) x TPOT with ``ttft``
    and ``tpot``, the means in ms over the requests that ended inside the window. Others: end - start.
    """
    ends = end_ns(records)
    lives = ends - start_ns(records)
    if ttft is None:
        return lives
    expected = (ttft + later_tokens(records) * (tpot or 0.0)) * NS_PER_MS
    return np.where(ends > window_end_ns, expected, lives)


def mean_in_flight(starts: Floats, ends: Floats, window_start_ns: float, window_end_ns: float) -> float | None:
    """Mean requests in flight = integral over the window / its length. Undefined for an empty window."""
    seconds = (window_end_ns - window_start_ns) / 1e9
    if seconds <= 0:
        return None
    return float(seconds_inside(starts, ends, window_start_ns, window_end_ns).sum() / seconds)


def acceptance_length(records: Sequence[RequestRecord]) -> float | None:
    """Tokens that one iteration yields for one request, measured: sum(osl) / sum(osl / decoded_per_iter).

    1 without speculative decoding, up to drafts + 1 with it. From the server's own count per request
    (``avg_decoded_tokens_per_iter``). Undefined (``None``) when no answer reports it.
    """
    if isinstance(records, Columns):
        total, decoded = records.ints("osl"), records.decoded
        both = (total != ABSENT) & (total != 0) & (decoded != 0) & ~np.isnan(decoded)
        counts = list(zip(total[both].tolist(), decoded[both].tolist(), strict=True))
    else:
        counts = [(r.osl, r.decoded_per_iter) for r in records if r.osl and r.decoded_per_iter]
    iterations = sum(osl / per_iteration for osl, per_iteration in counts)
    return sum(osl for osl, _ in counts) / iterations if iterations else None


def littles_ratio(
    in_flight: float | None, req_s: float | None, ttft: float | None, tpot: float | None, osl: float | None
) -> float | None:
    """N / (req_s x (TTFT + (OSL-1) x TPOT)), latencies in ms: 1 when the figures agree with one another.

    ``osl``: tokens after the first arrival, on average, and one. Undefined without rate or TTFT, or with OSL > 1 and
    no TPOT.
    """
    if in_flight is None or not req_s or ttft is None or osl is None or (osl > 1 and tpot is None):
        return None
    latency_s = (ttft + (osl - 1) * (tpot or 0.0)) / 1000
    return in_flight / (req_s * latency_s) if latency_s > 0 else None
