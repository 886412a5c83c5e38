"""From the names that servers give their Prometheus samples to the figures that all of them have in common. Pure.

The names themselves stand with the engines (``ratematch/engines``), a :class:`MetricNames` each. The common figures:

=========================================  =======================================================================
name                                       what
=========================================  =======================================================================
``queued``, ``active``                     requests that wait in the server, and that run; all ranks together
``awaiting``                               requests without a first token, as a frontend sees them
``kv_used`` of ``kv_max``                  KV blocks, or their share of 1; of the fullest rank
``paused``, ``preempted_total``            requests set aside now, and how often one was since the server started
``cache_hits_total``,                      prompt tokens (or blocks) found in the prefix cache, and looked for there
``cache_queries_total``
``cache_hit_rate``                         their ratio, for servers that count neither
``busy``                                   share of the time in which a frontend's threads worked, mean of all
``loop_late_s``                            how late its event loop ran what was due, mean
``external_hits_total``,                   the same for a cache outside the server, or for KV caches that another
``external_queries_total``                 server has computed
=========================================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

EMULATED_SECONDS = "ratematch_emulated_seconds"
"""How well an emulated engine kept its step times, where nothing but its metrics can say it: ``kind`` is ``busy_s``,
``late_s`` or ``lost_s``."""

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MetricNames:
    """Names of samples, without labels. Several for a figure: of other releases or modes; the first that is there
    counts. ``pairs``: (found, looked for), (used, most), and (sum, count)."""

    queued: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    awaiting: tuple[str, ...] = ()
    kv_share: tuple[str, ...] = ()
    kv_blocks: Pairs = ()
    paused: tuple[str, ...] = ()
    preempted: tuple[str, ...] = ()
    cache_hits: Pairs = ()
    cache_hit_rate: tuple[str, ...] = ()
    external_hits: Pairs = ()
    busy_permille: tuple[str, ...] = ()
    loop_late: Pairs = ()


Samples = Mapping[str, float]


def common_figures(samples: Samples, names: MetricNames) -> dict[str, float]:
    """The figures in one answer that stand under ``names``, as far as it has them."""
    by_name: dict[str, list[float]] = {}
    for name, value in samples.items():
        by_name.setdefault(_plain(name.partition("{")[0]), []).append(value)
    return _figures(by_name, names)


def _plain(name: str) -> str:
    """Exporters write ``vllm:x`` as ``vllm_x``."""
    return name.replace(":", "_")


def _look_up(by_name: Mapping[str, Sequence[float]], name: str) -> Sequence[float] | None:
    """The values under ``name``, or without the ``_total`` that not every exporter gives a counter."""
    plain = _plain(name)
    return by_name.get(plain) or by_name.get(plain.removesuffix("_total"))


def _figures(by_name: Mapping[str, Sequence[float]], names: MetricNames) -> dict[str, float]:
    def first(candidates: Iterable[str], join: Callable[[Sequence[float]], float] = sum) -> float | None:
        return next((join(values) for name in candidates if (values := _look_up(by_name, name))), None)

    def pair(candidates: Pairs, join: Callable[[Sequence[float]], float] = sum) -> tuple[float | None, float | None]:
        for left, right in candidates:
            both = _look_up(by_name, left), _look_up(by_name, right)
            if both[0] and both[1]:
                return join(both[0]), join(both[1])
        return None, None

    used, most = pair(names.kv_blocks, _mean)
    share = first(names.kv_share, max)
    if share is not None:
        used, most = (share / 100 if share > _SHARE else share), 1.0  # some report per cent
    hits, queries = pair(names.cache_hits)
    outside, outside_queries = pair(names.external_hits)
    busy = first(names.busy_permille, _mean)
    late, looked = pair(names.loop_late)
    figures = {
        "busy": None if busy is None else busy / 1000,
        "loop_late_s": late / looked if late is not None and looked else None,
        "queued": first(names.queued),
        "active": first(names.active),
        "awaiting": first(names.awaiting),
        "kv_used": used,
        "kv_max": most,
        "paused": first(names.paused),
        "preempted_total": first(names.preempted),
        "cache_hits_total": hits,
        "cache_queries_total": queries,
        "cache_hit_rate": None if queries is not None else first(names.cache_hit_rate, _mean),
        "external_hits_total": outside,
        "external_queries_total": outside_queries,
    }
    return {name: value for name, value in figures.items() if value is not None}


_SHARE = 1.5


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
