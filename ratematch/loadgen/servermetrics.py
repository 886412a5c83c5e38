"""What servers say of themselves while a load runs: the answers of their metrics addresses.

One thread an address. TensorRT-LLM's ``/metrics`` and ``/perf_metrics`` hand every entry out once, so nobody else may
read them meanwhile. Nothing here can fail a load: an address that does not answer becomes a note.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from types import TracebackType
from typing import Any

import numpy as np

from ratematch.loadgen.http import fetch
from ratematch.measure.servermetrics import ReadSamples, doubt_iterations, is_counter, read_prometheus
from ratematch.plan.workload import Workload

PERIOD_S = 1.0
ANSWER_S = 5.0

GIVE_UP = 3
"""Failures in a row after which an address is not asked again."""


@dataclass
class MetricsPoller:
    """Reads every address once a second; used as a context around a load. ``rows``: (instant ns, address, values).

    ``read``: what turns an answer into values; the formats of engines are known to their rooms only.
    """

    urls: Sequence[str]
    period_s: float = PERIOD_S
    read: ReadSamples = read_prometheus
    notes: list[str] = field(default_factory=list)
    rows: list[tuple[int, str, dict[str, float]]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> MetricsPoller:
        for url in self.urls:
            thread = threading.Thread(target=self._poll, args=(url,), name=f"metrics {url}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(ANSWER_S)

    def _poll(self, url: str) -> None:
        failures = 0
        while True:
            last = self._over.is_set()  # one more look, for the end of the load
            try:
                with fetch(url, ANSWER_S) as answer:
                    body = answer.read()
                now_ns = monotonic_ns()
                self.rows += [(now_ns, url, values) for values in self.read(body)]
            except (OSError, ValueError) as problem:
                failures += 1
                if failures == 1:
                    self.notes.append(f"{url}: {problem}")
            else:
                failures = 0
            if last or failures == GIVE_UP:
                return
            self._over.wait(self.period_s)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Everything that was read, for a file of one JSON object a line."""
        for at_ns, url, values in self.rows:
            yield {"read_ns": at_ns, "url": url, **values}

    def summarise(self, start_ns: int, end_ns: int) -> dict[str, Any] | None:
        """By address: means inside a span, and for counters (``_total``, ``_sum``, ``_count``) their growth in it."""
        told: dict[str, Any] = {}
        for url in self.urls:
            rows = [values for at_ns, of, values in self.rows if of == url and start_ns <= at_ns <= end_ns]
            names = sorted({name for row in rows for name in row})
            figures = {}
            for name in names:
                values = [row[name] for row in rows if name in row]
                figures[name] = values[-1] - values[0] if is_counter(name) else float(np.mean(values))
            if figures:
                told[url] = {"samples": len(rows), **figures}
        return told or None

    def growth(self, url: str, start_ns: int, end_ns: int) -> tuple[dict[str, float], float]:
        """How much each counter of an address grew over a span, and over how many seconds: from the last look before
        it to the first one after it."""
        rows = [(at_ns, values) for at_ns, of, values in self.rows if of == url]
        begin = next((row for row in reversed(rows) if row[0] <= start_ns), rows[0] if rows else None)
        end = next((row for row in rows if row[0] >= end_ns), rows[-1] if rows else None)
        if begin is None or end is None or end[0] <= begin[0]:
            return {}, 0.0
        grown = {name: value - begin[1].get(name, 0.0) for name, value in end[1].items() if is_counter(name)}
        # What is no counter is told as it was at the end: labels such as the number of blocks.
        rest = {name: value for name, value in end[1].items() if name not in grown}
        return grown | rest, (end[0] - begin[0]) / 1e9

    def doubts(self, told: dict[str, Any] | None, workload: Workload) -> list[str]:
        """What the servers' own figures throw doubt on, in words."""
        found = []
        for url, figures in (told or {}).items():
            found += doubt_iterations(url, figures, workload)
        return found
