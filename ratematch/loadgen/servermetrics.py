"""Samples of what servers report at their metrics addresses while a load runs.

``ratematch load --server-metrics`` reads them through :class:`MetricsPoller`; a sweep through
:mod:`ratematch.run.telemetry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from ratematch.loadgen.limits import MOST_FIGURE
from ratematch.loadgen.poller import Poller, Subscription
from ratematch.measure.servermetrics import ReadSamples, is_counter, judge_figures, read_prometheus
from ratematch.plan.workload import Workload

PERIOD_S = 1.0


class Sample(NamedTuple):
    """Figures of one answer, or of one iteration in it. ``read_ns``: the records' clock, when the answer came."""

    read_ns: int
    url: str
    values: dict[str, float]


@dataclass
class MetricSamples:
    """All samples of some addresses, in the order in which they came. Readers' threads append to ``rows``.

    ``read``: what turns an answer into figures; the formats of engines are known to their rooms only.
    """

    read: ReadSamples = read_prometheus
    rows: list[Sample] = field(default_factory=list)

    def add(self, url: str, body: bytes, read_ns: int) -> None:
        """Keep an answer of ``url``.

        Raises:
            ValueError: the answer is not what it looks like.
        """
        self.rows += [Sample(read_ns, url, _sound(values)) for values in self.read(body)]

    def take(self) -> MetricSamples:
        """Everything so far. The newest sample of each address stays too: what follows counts from there."""
        rows = self.rows[:]
        newest = {row.url: row for row in rows}
        self.rows[: len(rows)] = newest.values()
        return MetricSamples(self.read, rows)

    def lines(self) -> Iterator[dict[str, float | str]]:
        """Everything that was read, for a file of one JSON object a line."""
        for row in self.rows:
            yield {"read_ns": row.read_ns, "url": row.url, **row.values}

    def summarise(self, start_ns: int, end_ns: int) -> dict[str, dict[str, float]] | None:
        """By address: means inside a span, and for counters (``_total``, ``_sum``, ``_count``) their growth in it.

        ``samples``: how many there are. ``None`` when there is none.
        """
        by_url: dict[str, list[dict[str, float]]] = {}
        for row in self.rows:
            if start_ns <= row.read_ns <= end_ns:
                by_url.setdefault(row.url, []).append(row.values)
        summary: dict[str, dict[str, float]] = {}
        for url, samples in by_url.items():
            figures: dict[str, float] = {}
            for name in sorted({name for sample in samples for name in sample}):
                values = [sample[name] for sample in samples if name in sample]
                figures[name] = values[-1] - values[0] if is_counter(name) else float(np.mean(values))
            if figures:
                summary[url] = {"samples": len(samples), **figures}
        return summary or None

    def growth(self, url: str, start_ns: int, end_ns: int) -> tuple[dict[str, float], float]:
        """How much each counter of an address grew over a span, and over how many seconds: from the last sample
        before it to the first one after it."""
        rows = [row for row in self.rows if row.url == url]
        begin = next((row for row in reversed(rows) if row.read_ns <= start_ns), rows[0] if rows else None)
        end = next((row for row in rows if row.read_ns >= end_ns), rows[-1] if rows else None)
        if begin is None or end is None or end.read_ns <= begin.read_ns:
            return {}, 0.0
        grown = {name: value - begin.values.get(name, 0.0) for name, value in end.values.items() if is_counter(name)}
        # What is no counter is given as it was at the end: labels such as the number of blocks.
        rest = {name: value for name, value in end.values.items() if name not in grown}
        return grown | rest, (end.read_ns - begin.read_ns) / 1e9


@dataclass
class MetricsPoller:
    """Reads every address of ``urls`` every ``period_s`` seconds while it is used as a context around a load."""

    urls: Sequence[str]
    period_s: float = PERIOD_S
    read: ReadSamples = read_prometheus

    def __post_init__(self) -> None:
        self.samples = MetricSamples(self.read)
        self._subscriptions = [
            Subscription(url, partial(self.samples.add, url), self.period_s) for url in dict.fromkeys(self.urls)
        ]
        self._poller = Poller(self._subscriptions)

    def __enter__(self) -> MetricsPoller:
        self._poller.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._poller.refresh()  # once more, for the end of the load
        self._poller.__exit__()

    @property
    def rows(self) -> list[Sample]:
        return self.samples.rows

    @property
    def notes(self) -> list[str]:
        """Addresses that did not answer, and why."""
        return [f"{own.url}: {problem}" for own in self._subscriptions for problem in own.problems]

    def judge(
        self, summary: Mapping[str, Mapping[str, float]] | None, span_ns: tuple[int, int], workload: Workload
    ) -> Iterator[tuple[bool, str]]:
        """(severe, text) of the servers' own figures: queueing, a full KV cache, prefix hits that nobody asked for.

        ``summary``: means over ``span_ns``. Counters are taken from the last sample before it to the first one after
        it, so that a span shorter than the time between two samples has some too.
        """
        for url in dict.fromkeys(sample.url for sample in self.rows):
            grown, _ = self.samples.growth(url, *span_ns)
            yield from judge_figures(url, {**grown, **(summary or {}).get(url, {}), **_counters(grown)}, workload)


def _sound(figures: Mapping[str, float]) -> dict[str, float]:
    """Those that can be added up; NaN and infinity, or a number that no counter reaches, are no figures."""
    return {name: value for name, value in figures.items() if abs(value) < MOST_FIGURE}


def _counters(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if is_counter(name)}
