"""What servers report over HTTP, in fields that every engine can fill in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ratematch.plan.workload import Workload

FULL = 0.98
"""Share of the KV blocks in use from which on the cache counts as full."""

QUEUED = 0.05
"""Waiting requests, as a share of the active ones, from which on a load is warned of them."""


AWAITING = 0.5
"""Requests without a first token, as a share of those in flight at a frontend, likewise. Prefill is a part of it."""

BUSY = 0.8
"""Share of the time in which a frontend's threads work from which on it may be what limits."""

LATE_S = 0.02
"""Lateness of a frontend's event loop, likewise: a token waits as long there, and so does each that follows."""

HITS = 0.01
"""Share of prompt tokens from the prefix cache, where no prompt shares a prefix, from which on a load is not
valid."""


class Iteration(NamedTuple):
    """One look at a worker: an iteration, of one rank or of all (``rank`` is ``None``), or all since the last look
    where a server only counts them.

    ``step_ms``: time of the iteration, or mean time of each. ``active``, ``queued``: requests in the server, running
    and waiting. ``kv_used_blocks`` of ``kv_max_blocks``. ``cache_hit_rate``: share of prompts' tokens or blocks found
    in the prefix cache. ``draft_tokens`` and ``accepted_tokens`` of ``drafted_requests``: requests x iterations with
    drafts. ``host_ms``: time of the iteration on the host; ``before_device_ms``: of the iteration before it on the
    GPU. ``None``: not reported.
    """

    iter: int
    rank: int | None = None
    step_ms: float | None = None
    active: float | None = None
    queued: float | None = None
    scheduled: float | None = None
    ctx_requests: float | None = None
    gen_requests: float | None = None
    ctx_tokens: float | None = None
    kv_used_blocks: float | None = None
    kv_max_blocks: float | None = None
    cache_hit_rate: float | None = None
    draft_tokens: float | None = None
    accepted_tokens: float | None = None
    drafted_requests: float | None = None
    host_ms: float | None = None
    before_device_ms: float | None = None


ReadIterations = Callable[[bytes, int], list[Iteration]]
"""The iterations in an answer of one server, which came at an instant (ns), that no earlier answer had.

Raises ValueError: the answer has none.
"""


ReadSamples = Callable[[bytes], list[dict[str, float]]]
"""The figures in one answer of a metrics address, by name: one map for Prometheus text, one an iteration where a
server lists its iterations.

Raises ValueError: the answer is not what it looks like.
"""


@dataclass(frozen=True)
class Routes:
    """Where servers report. ``iterations``: read about once a second; ``None``: they are in logs only.
    ``prometheus``: counters and histograms. ``judged``: servers without iterations are judged by these."""

    iterations: str | None
    prometheus: str
    judged: bool = False


@dataclass(frozen=True)
class StageTimes:
    """Mean seconds of the stages of ``num`` requests in a disaggregated deployment, from the servers' own sums.

    ``ctx_queue_s``: arrival to first scheduled, ``prefill_s``: to the first token, in the ctx server.
    ``kv_transfer_s``: the transfer by its own clock, ``kv_post_s`` of it while the gen server did nothing else.
    ``gen_queue_s``: wait in the gen server beyond the transfer. ``decode_s``: first scheduled to last token there.
    ``kv_posting``: share of the time in which gen servers posted transfers in place of decoding. ``kv_b`` bytes in
    ``kv_descriptors`` pieces a request. ``kv_expired``: KV caches that ctx gave up while gen might still want them.
    """

    num: int
    ctx_queue_s: float
    prefill_s: float
    kv_transfer_s: float
    kv_post_s: float
    gen_queue_s: float
    decode_s: float
    kv_posting: float
    kv_b: float | None = None
    kv_descriptors: float | None = None
    kv_expired: int = 0


Samples = Mapping[str, float]
"""Prometheus samples by name and labels, as written."""

_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(\{[^}]*\})?\s+([0-9.eE+-]+|NaN|[+-]Inf)")


def parse_prometheus(text: str) -> dict[str, float]:
    """Samples by name and labels, as written. Buckets of histograms are left out: their sum and count say enough."""
    samples = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and not match[1].endswith("_bucket"):
            value = float(match[3])
            if math.isfinite(value):
                samples[match[1] + (match[2] or "")] = value
    return samples


def read_prometheus(body: bytes) -> list[dict[str, float]]:
    """A :data:`ReadSamples` for servers that answer in Prometheus text."""
    return [parse_prometheus(body.decode("utf-8", "replace"))]


def is_counter(name: str) -> bool:
    """Does a sample only grow, by its name: a counter, or a sum or a count of a histogram?"""
    return name.partition("{")[0].endswith(("_total", "_sum", "_count"))


def judge_figures(server: str, figures: Mapping[str, Any], workload: Workload) -> Iterator[tuple[bool, str]]:
    """(severe, text) of queueing, a full KV cache, requests set aside and cache hits, from what a server reports.

    ``figures``: means of its iterations or samples, and growths of its counters, over a load; the names are those of
    :mod:`ratematch.measure.metricnames`. A severe finding forbids the load on a front.
    """
    queued, active = figures.get("queued"), figures.get("active")
    if queued and queued > QUEUED * (active or 1.0):
        yield False, f"{server}: {queued:.1f} requests waited in the server on average, {active or 0:.1f} ran"
    awaiting = figures.get("awaiting")
    if awaiting and awaiting > AWAITING * (active or 1.0):
        yield False, f"{server}: {awaiting:.1f} of {active or 0:.1f} requests waited for a first token on average"
    yield from _judge_frontend(server, figures)
    used, most = figures.get("kv_used"), figures.get("kv_max")
    if used is not None and most and used / most > FULL:
        yield False, f"{server}: the KV cache was full ({used / most:.1%}): requests wait or are evicted"
    if figures.get("paused"):
        yield False, f"{server}: {figures['paused']:.1f} requests were paused on average: KV cache evicted"
    if (preempted := figures.get("preempted_total")) and preempted > 0:
        yield False, f"{server}: requests were preempted {preempted:.0f} times: KV cache evicted"
    yield from judge_hits(server, figures, workload)


def _judge_frontend(server: str, figures: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Is what stands in front of the engines busy or late? Then more GPUs would not make it faster."""
    busy, late_s = figures.get("busy"), figures.get("loop_late_s")
    signs = [f"its threads worked {busy:.0%} of the time"] if busy and busy > BUSY else []
    signs += [f"its event loop ran {late_s * 1e3:.0f} ms late on average"] if late_s and late_s > LATE_S else []
    if signs:
        yield False, f"{server}: {' and '.join(signs)}: it may be what limits, and not the GPUs"


def judge_hits(server: str, figures: Mapping[str, Any], workload: Workload) -> Iterator[tuple[bool, str]]:
    """(severe, text) of prefix cache hits that nobody asked for."""
    if workload.reuses:
        return
    counted = "cache_queries_total" in figures
    rate = _hit_rate(figures, "cache") if counted else figures.get("cache_hit_rate")
    if rate and rate > 0:
        text = f"{server}: its prefix cache answered {rate:.1%}, and no prompt shares a prefix"
        yield rate > HITS, f"{text}: prefill looks faster than it is"
    outside = _hit_rate(figures, "external")
    if outside and outside > 0:
        text = f"{server}: {outside:.1%} of the prompt tokens came through its KV connector"
        yield False, f"{text}: from servers that computed them, or from a cache"


def _hit_rate(figures: Mapping[str, Any], which: str) -> float | None:
    hits, queries = figures.get(f"{which}_hits_total"), figures.get(f"{which}_queries_total")
    return hits / queries if hits and queries and queries > 0 else None


def doubt_iterations(server: str, figures: Mapping[str, Any], workload: Workload) -> list[str]:
    """The texts of :func:`judge_figures`, severe or not."""
    return [text for _, text in judge_figures(server, figures, workload)]
