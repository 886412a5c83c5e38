"""Reads addresses of servers over and over while loads run: one thread an address, and one reader of each address.

TensorRT-LLM's ``/metrics`` and ``/perf_metrics`` hand every entry out once: a second reader would take entries away
from the first. So everybody who wants an address's answers subscribes to its one reader. Nothing here can fail a
load: an address that does not answer is a problem to be reported, and after a few failures it is left alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns

from ratematch.loadgen.http import get
from ratematch.loadgen.limits import METRICS_BYTES

GIVE_UP = 3
"""Failures in a row after which an address is not read again until the next refresh."""

IDLE_S = 0.05
"""A route that holds its answer back for this long has no news: it answers at once when it has."""

_CHECK_S = 0.01

_PROBLEM = 300
"""Characters of a problem that are kept."""


@dataclass
class Subscription:
    """One use of an address's answers.

    ``take``: gets the body of an answer and the instant at which it came (ns, the records' clock), in the reader's
    thread; raises ValueError, or anything else, when the body is not what it expects. ``period_s``: how often it
    wants one. ``timeout_s``: longest wait for an answer. ``holds_back``: the route keeps its answer while it has no
    news, so that a refresh need not wait for it. ``problem``: why there is no answer now; ``problems``: the first of
    each series.
    """

    url: str
    take: Callable[[bytes, int], None]
    period_s: float = 1.0
    timeout_s: float = 5.0
    holds_back: bool = False
    failures: int = 0
    problem: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Has it failed so often that it is read no more?"""
        return self.failures >= GIVE_UP

    def note_failure(self, problem: Exception) -> None:
        self.failures += 1
        self.problem = (str(problem) or type(problem).__name__)[:_PROBLEM]
        if self.failures == 1:
            self.problems.append(self.problem)

    def deliver(self, body: bytes, read_ns: int) -> None:
        """Hand an answer over; a body that is not what was expected counts as a failure."""
        try:
            self.take(body, read_ns)
        except Exception as problem:  # bytes of a foreign program: the reader's thread must outlive them
            self.note_failure(problem)
        else:
            self.failures, self.problem = 0, None


@dataclass
class _Reader:
    """The one reader of an address. Written by its own thread only.

    ``waiting_since_s``: since when it waits for an answer; ``None`` = it does not. ``refreshed``: the last refresh
    after whose beginning it has read.
    """

    url: str
    subscriptions: Sequence[Subscription]
    due_s: list[float]
    waiting_since_s: float | None = None
    refreshed: int = 0

    @property
    def gone(self) -> bool:
        return all(subscription.gone for subscription in self.subscriptions)

    @property
    def is_idle(self) -> bool:
        """Does it wait in a route that has no news?"""
        waiting_since_s = self.waiting_since_s
        held_back = all(subscription.holds_back for subscription in self.subscriptions)
        return held_back and waiting_since_s is not None and time.monotonic() - waiting_since_s > IDLE_S

    @property
    def patience_s(self) -> float:
        """How long a refresh waits for it."""
        return max(own.period_s if own.holds_back else own.timeout_s for own in self.subscriptions)

    def read(self, refresh: int) -> None:
        """Read the address once and hand the answer to whoever is due; to all of them after a new refresh."""
        begin_s = time.monotonic()
        due = [
            index
            for index, own in enumerate(self.subscriptions)
            if refresh != self.refreshed or (begin_s >= self.due_s[index] and not own.gone)
        ]
        if not due:
            return
        self.waiting_since_s = begin_s
        try:
            body = get(self.url, max(self.subscriptions[index].timeout_s for index in due), METRICS_BYTES).body
            read_ns = monotonic_ns()
        except OSError as problem:
            for index in due:
                self.subscriptions[index].note_failure(problem)
        else:
            for index in due:
                self.subscriptions[index].deliver(body, read_ns)
        self.waiting_since_s = None
        for index in due:
            self.due_s[index] = time.monotonic() + self.subscriptions[index].period_s
        self.refreshed = refresh

    def wait_s(self) -> float | None:
        """Seconds until somebody is due again; ``None``: nobody before the next refresh."""
        due_s = [self.due_s[index] for index, own in enumerate(self.subscriptions) if not own.gone]
        return max(0.0, min(due_s) - time.monotonic()) if due_s else None


class Poller:
    """Reads every address of ``subscriptions`` as long as it is used as a context."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        by_url: dict[str, list[Subscription]] = {}
        for subscription in subscriptions:
            by_url.setdefault(subscription.url, []).append(subscription)
        self._readers = [_Reader(url, own, [0.0] * len(own)) for url, own in by_url.items()]
        self._over = False
        self._refresh = 0
        self._wake = threading.Condition()

    def __enter__(self) -> Poller:
        for reader in self._readers:
            threading.Thread(target=self._run, args=(reader,), name=f"poll {reader.url}", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Not joined: a reader may wait seconds more in an idle server's route, and it writes nothing that lasts.
        with self._wake:
            self._over = True
            self._wake.notify_all()

    def refresh(self) -> None:
        """Read every address once more, and return when the answers are there or are not worth waiting for."""
        with self._wake:
            self._refresh += 1
            self._wake.notify_all()
        target, begin_s = self._refresh, time.monotonic()
        for reader in self._readers:
            while not (reader.gone or reader.refreshed >= target or reader.is_idle):
                if time.monotonic() >= begin_s + reader.patience_s:
                    break
                time.sleep(_CHECK_S)

    def _run(self, reader: _Reader) -> None:
        refresh = 0
        while not self._over:
            reader.read(refresh)
            refresh = self._wait(refresh, reader.wait_s())

    def _wait(self, refresh: int, seconds: float | None) -> int:
        """Return after ``seconds``, or when there is a refresh newer than ``refresh``; the newest one."""
        with self._wake:
            self._wake.wait_for(lambda: self._over or self._refresh != refresh, seconds)
            return self._refresh
