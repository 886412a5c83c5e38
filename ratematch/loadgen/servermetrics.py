"""Samples of what servers report at their metrics addresses while a load runs.

``ratematch load --server-metrics`` reads them through :class:`MetricsPoller`; a sweep through
:mod:`ratematch.run.telemetry`.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ratematch.loadgen.limits import MOST_FIGURE
from ratematch.loadgen.poller import Poller, Subscription
from ratematch.measure.servermetrics import ReadSamples, is_counter, judge_figures, read_prometheus
from ratematch.plan.workload import Workload
from ratematch.store.rowlog import RowLog

PERIOD_S = 1.0


class Sample(NamedTuple):
    """Figures of one answer, or of one iteration in it. ``read_ns``: the records' clock, when the answer came."""

    read_ns: int
    url: str
    values: dict[str, float]


_SCHEMA = pa.schema([("read_ns", pa.int64()), ("url", pa.string()), ("values", pa.binary())])


def _decode(packed: bytes) -> dict[str, float]:
    figures: dict[str, float] = msgspec.msgpack.decode(packed)
    return figures


class MetricSamples:
    """All samples of some addresses, in the order in which they came. Readers' threads add to them; what is older is
    in a file without a name in ``folder``, see :class:`ratematch.store.spill.Spill`.

    ``read``: what turns an answer into figures; the formats of engines are known to their rooms only.
    """

    def __init__(self, read: ReadSamples = read_prometheus, folder: Path | None = None) -> None:
        self.read, self._folder = read, folder
        self._log = RowLog(_SCHEMA, folder)
        self._newest: dict[str, tuple[int, str, bytes]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._log)

    @property
    def rows(self) -> list[Sample]:
        """All of them, in memory: for a few."""
        return list(self._samples())

    @property
    def urls(self) -> list[str]:
        """Addresses that gave samples."""
        return list(self._newest)

    def add(self, url: str, body: bytes, read_ns: int) -> None:
        """Keep an answer of ``url``.

        Raises:
            ValueError: the answer is not what it looks like.
        """
        rows = [(read_ns, url, msgspec.msgpack.encode(_sound(values))) for values in self.read(body)]
        with self._lock:
            self._log.extend(rows)
            if rows:
                self._newest[url] = rows[-1]

    def take(self) -> MetricSamples:
        """Everything so far. The newest sample of each address stays too: what follows counts from there."""
        taken = MetricSamples(self.read, self._folder)
        with self._lock:
            taken._log, taken._newest = self._log, dict(self._newest)
            self._log = RowLog(_SCHEMA, self._folder)
            self._log.extend(self._newest.values())
        return taken

    def lines(self) -> Iterator[dict[str, float | str]]:
        """Everything that was read, for a file of one JSON object a line."""
        for row in self._samples():
            yield {"read_ns": row.read_ns, "url": row.url, **row.values}

    def _samples(self) -> Iterator[Sample]:
        for read_ns, url, values in self._log:
            yield Sample(read_ns, url, _decode(values))

    def summarise(self, start_ns: int, end_ns: int) -> dict[str, dict[str, float]] | None:
        """By address: means inside a span, and for counters (``_total``, ``_sum``, ``_count``) their growth in it.

        ``samples``: how many there are. ``None`` when there is none.
        """
        numbers: dict[str, int] = {}
        ends: dict[str, dict[str, tuple[float, float]]] = {}  # first and last of each counter
        gauges: dict[str, dict[str, array[float]]] = {}
        for read_ns, url, packed in self._log:
            if start_ns <= read_ns <= end_ns:
                numbers[url] = numbers.get(url, 0) + 1
                for name, value in _decode(packed).items():
                    if is_counter(name):
                        own = ends.setdefault(url, {})
                        own[name] = (own[name][0] if name in own else value, value)
                    else:
                        gauges.setdefault(url, {}).setdefault(name, array("d")).append(value)
        summary: dict[str, dict[str, float]] = {}
        for url, number in numbers.items():
            grown = {name: last - first for name, (first, last) in ends.get(url, {}).items()}
            means = {name: float(np.mean(values)) for name, values in gauges.get(url, {}).items()}
            if figures := grown | means:
                summary[url] = {"samples": number, **dict(sorted(figures.items()))}
        return summary or None

    def growth(self, url: str, start_ns: int, end_ns: int) -> tuple[dict[str, float], float]:
        """How much each counter of an address grew over a span, and over how many seconds: from the last sample
        before it to the first one after it."""
        begin = end = None
        for read_ns, of, packed in self._log:
            if of != url:
                continue
            if begin is None or read_ns <= start_ns:
                begin = (read_ns, packed)
            if end is None or end[0] < end_ns:
                end = (read_ns, packed)
        if begin is None or end is None or end[0] <= begin[0]:
            return {}, 0.0
        before, after = _decode(begin[1]), _decode(end[1])
        grown = {name: value - before.get(name, 0.0) for name, value in after.items() if is_counter(name)}
        # What is no counter is given as it was at the end: labels such as the number of blocks.
        rest = {name: value for name, value in after.items() if name not in grown}
        return grown | rest, (end[0] - begin[0]) / 1e9


@dataclass
class MetricsPoller:
    """Reads every address of ``urls`` every ``period_s`` seconds while it is used as a context around a load.
    ``folder``: see :class:`MetricSamples`."""

    urls: Sequence[str]
    period_s: float = PERIOD_S
    read: ReadSamples = read_prometheus
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.samples = MetricSamples(self.read, self.folder)
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
        for url in self.samples.urls:
            grown, _ = self.samples.growth(url, *span_ns)
            yield from judge_figures(url, {**grown, **(summary or {}).get(url, {}), **_counters(grown)}, workload)


def _sound(figures: Mapping[str, float]) -> dict[str, float]:
    """Those that can be added up; NaN and infinity, or a number that no counter reaches, are no figures."""
    return {name: value for name, value in figures.items() if abs(value) < MOST_FIGURE}


def _counters(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if is_counter(name)}
