"""How the cause of a failure is found in logs.

A log of a failed server holds many frightening lines and one cause. What counts, in this order:

1. a line that was not dealt with over one that was (:mod:`ratematch.engines.loglines`): a warning, an error that
   something caught and went round, and what came before the server was ready and did not end it, count for nothing;
2. the rank of what it tells (:mod:`ratematch.engines.knownfailure`): a root over a request that was refused, over
   what is known to be harmless at times, over what only follows (``MPI_ABORT``, a dead engine process) and over the
   end itself (a traceback, an ended step);
3. what ended the process: an error before a stretch of working iterations was survived;
4. in what is left the first line, and among the logs of several ranks the earliest.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ratematch.engines.knownfailure import KnownFailure, Rank
from ratematch.engines.loglines import Time, find_level, find_time, shorten, was_dealt_with
from ratematch.engines.logscan import Alike, prepare, scan, split_lines
from ratematch.measure.serverlog import Diagnosis

SURVIVED = 3
"""Working iterations between two failures that show that the first was survived; one or two of other ranks can still
be written after one rank has failed."""

_WEIGHT: Mapping[Rank, int] = {"root": 6, "request": 5, "suspect": 3, "general": 2, "end": 1}
_BEFORE_READY = 4
"""Weight of an error before the server was ready, where it died later."""

_READY = re.compile(r"Application startup complete|Uvicorn running on|[Ss]ervers are ready|Server is ready")
_WORKS = re.compile(r"\biter = \d+|Avg generation throughput: |\" 200 OK|Application startup complete")
_IDLE = "generation throughput: 0.0 "
_LEAVES = re.compile(
    r"INFO:\s+Shutting down|Application shutdown complete|\[shutdown\] EngineCore: start|^\W*KeyboardInterrupt"
    r"|\bCancelledError\b"
)
_MARKS = (
    "application startup",
    "uvicorn running on",
    "servers are ready",
    "server is ready",
    "iter = ",
    "avg generation throughput",
    '" 200 ok',
    "shutting down",
    "[shutdown] enginecore: start",
    "application shutdown",
    "keyboardinterrupt",
    "cancellederror",
)
TRIED_AGAIN = frozenset(
    (
        "hub-unreachable",
        "image-access",
        "image-rate-limit",
        "image-registry",
        "container-image-file",
        "container-mount",
        "credential",
        "file-system",
        "controller",
        "prolog",
        "requeued",
        "preempted",
        "node-failure",
        "time-limit",
        "rendezvous",
        "etcd",
    )
)
"""Causes that are told of something that is tried again, or by a scheduler that ends the step itself: a start may
still come up after them."""

_ERROR = re.compile(r"Traceback \(most recent call last\)|^terminate called|\[E\] |\bERROR\b|\[ERROR\]", re.M)

_STACK = 80
"""Lines of a stack before the exception that ends it."""


def find_failure(texts: Sequence[str], known: Sequence[KnownFailure]) -> Diagnosis | None:
    """The cause among ``known`` that ``texts`` (logs, error answers) show best; ``None`` when they show none.

    Of causes that count alike in several texts the earliest is taken, by the times in them, else by the order of
    ``texts``.
    """
    table = prepare(tuple(known), _MARKS)
    best: _Event | None = None
    for text in texts:
        log = _Log(split_lines(text))
        for alike in scan(log.lines, table):
            log.add(alike)
        event = log.judge()
        if event and (best is None or event.comes_before(best)):
            best = event
    return best.failure.diagnosis if best else None


def root_cause(texts: Sequence[str], known: Sequence[KnownFailure]) -> Diagnosis | None:
    """The root among ``known`` that logs of servers that are still starting show, told as an error that nothing dealt
    with; ``None`` for none. What stands in healthy logs too, or is only a warning, is no root; nor is anything in a
    log without an error of the server itself, or what is :data:`TRIED_AGAIN`."""
    return find_failure([text for text in texts if _ERROR.search(text)], _roots(tuple(known)))


@cache
def _roots(known: tuple[KnownFailure, ...]) -> tuple[KnownFailure, ...]:
    return tuple(
        failure
        for failure in known
        if failure.rank == "root" and not failure.quiet and failure.diagnosis.name not in TRIED_AGAIN
    )


@dataclass(frozen=True)
class _Event:
    """A line that tells of a known failure. ``weight``: how much it counts, larger is more."""

    line: int
    failure: KnownFailure
    weight: int
    time: Time | None = None

    def comes_before(self, other: _Event) -> bool:
        if self.weight != other.weight:
            return self.weight > other.weight
        return bool(self.time and other.time and self.time < other.time)


class _Log:
    """One log and the lines of it that matter, by their numbers."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self._ready = -1
        self._leaves = len(lines) + _STACK
        self._works: list[int] = []
        self._events: list[_Event] = []

    def add(self, alike: Alike) -> None:
        """Takes in lines that are alike, and what they tell."""
        if _READY.search(alike.line):
            self._ready = max(self._ready, alike.places[-1])
        if _WORKS.search(alike.line):
            self._works += [at for at in alike.places if _IDLE not in self.lines[at]]
        if _LEAVES.search(alike.line):
            self._leaves = min(self._leaves, alike.places[0])
        for at, failures in alike.matches:
            dealt_with = was_dealt_with(self.lines, at)
            weighed = [
                (failure, self._weight(at, failure) if dealt_with else _WEIGHT[failure.rank]) for failure in failures
            ]
            self._events += [_Event(at, failure, weight) for failure, weight in weighed if weight]

    def _weight(self, at: int, failure: KnownFailure) -> int:
        """How much a line counts that was dealt with: 0 unless it is known to be quiet about real trouble.

        A request that was lost is often told in a warning, and in notes only as a setting.
        """
        if not failure.quiet:
            return 0
        if failure.rank == "request":
            return _WEIGHT["request"] if find_level(shorten(self.lines[at])) == "warning" else 0
        return min(_WEIGHT[failure.rank], _WEIGHT["suspect"])

    def judge(self) -> _Event | None:
        """The event that tells best why this process failed, with its time; ``None`` when none does."""
        self._works.sort()
        worked = max([self._ready, *self._works[-1:]])
        follows = [event for event in self._events if event.weight <= _WEIGHT["general"] and event.line > worked]
        died = any(not (event.failure.ordinary and worked >= 0) for event in follows)
        self._events.sort(key=lambda event: event.line)
        counted = [found for event in self._events if (found := self._weigh(event, worked, died))]
        if not counted:
            return None
        most = max(event.weight for event in counted)
        chosen = self._first_of_last_stretch([event for event in counted if event.weight == most])
        return replace(chosen, time=find_time(self.lines, chosen.line))

    def _weigh(self, event: _Event, worked: int, died: bool) -> _Event | None:
        """``event`` with its weight in view of what came after it; ``None`` when it counts for nothing."""
        if event.failure.ordinary and worked >= 0:
            return None
        if event.weight <= _WEIGHT["suspect"]:
            gone = event.line < worked and not (died and event.weight == _WEIGHT["suspect"])
            stack = _STACK if event.failure.rank == "end" else 0
            return None if gone or event.line > self._leaves - stack else event
        if event.line < self._ready:
            return replace(event, weight=_BEFORE_READY) if died else None
        return event

    def _first_of_last_stretch(self, events: Sequence[_Event]) -> _Event:
        """The first of ``events`` after the last stretch of work that lies between two of them."""
        chosen = events[-1]
        for event in reversed(events[:-1]):
            if bisect(self._works, chosen.line) - bisect(self._works, event.line) >= SURVIVED:
                break
            chosen = event
        return chosen
