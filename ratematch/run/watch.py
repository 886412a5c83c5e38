"""Looks after the servers while a load runs: has one died, do they still iterate?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ratematch.engines import Engine
from ratematch.errors import DiskFull, LoadAborted, ServerDied
from ratematch.measure.serverlog import Diagnosis
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.run.launch import Servers
from ratematch.run.serverlogs import Marks, mark_logs, read_since
from ratematch.run.telemetry import Telemetry

WATCH_S = 0.2


class Stalled(LoadAborted):
    """No server ran an iteration while requests were in flight.

    ``started``: had one that generates (or, where none does, any) ever run one in this launch?
    """

    def __init__(self, message: str, started: bool):
        super().__init__(message)
        self.started = started


@dataclass
class Watched:
    """``halt`` ends the load; ``died`` or ``stalled`` say why, unless somebody wanted it to end. ``in_flight``: the
    client's, written while the load runs. ``started``: when it stalled, had a server that generates ever iterated?"""

    halt: threading.Event = field(default_factory=threading.Event)
    in_flight: int = 0
    died: ServerDied | DiskFull | None = None
    stalled: str | None = None
    started: bool = False


@contextlib.contextmanager
def watch(
    servers: Servers, telemetry: Telemetry, engine: Engine, stop: threading.Event, stall_s: float | None
) -> Iterator[Watched]:
    """Ends the load when ``stop`` is set, a server dies, or for ``stall_s`` none iterates with requests in flight.

    Iterations are taken from ``/metrics``, and before giving up from the logs too. Servers that report iterations in
    neither are not held to it: silence would prove nothing.
    """
    watched, over = Watched(), threading.Event()
    silence = _Silence(servers, telemetry, engine)

    def check_servers() -> None:
        while not over.wait(WATCH_S):
            try:
                servers.check()
            except (ServerDied, DiskFull) as error:
                watched.died = error
            if stall_s is not None and watched.in_flight and silence.is_longer_than(stall_s):
                # Now, not when the load is over: requests that are given up can make a server iterate.
                watched.started = silence.has_started()
                waiting = f"{watched.in_flight} requests are in flight"
                watched.stalled = f"no server has run an iteration for {stall_s:g} s while {waiting}"
            elif not watched.in_flight:
                silence.restart()
            if watched.died or watched.stalled or stop.is_set():
                watched.halt.set()
                return

    thread = threading.Thread(target=check_servers, name="watch servers", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        over.set()
        thread.join()


class _Silence:
    """How long no server has reported an iteration."""

    def __init__(self, servers: Servers, telemetry: Telemetry, engine: Engine):
        self._plan, self._folder, self._telemetry, self._engine = servers.plan, servers.folder, telemetry, engine
        self.restart()

    def restart(self) -> None:
        self._since_s = time.monotonic()
        self._marks: Marks = mark_logs(self._plan, self._folder)

    def is_longer_than(self, limit_s: float) -> bool:
        if self._telemetry.last_step_s > self._since_s:
            self.restart()
        if time.monotonic() - self._since_s <= limit_s:
            return False
        if self._logs_iterations(self._marks) or (self._telemetry.blind and not self._logs_iterations({})):
            self.restart()
            return False
        return True

    def has_started(self) -> bool:
        """Has a server that generates ever iterated? Context servers may have, whatever gen does."""
        names = [spec.name for spec in self._plan.processes if spec.role in ("gen", "agg")]
        names = names or [spec.name for spec in self._plan.processes]
        texts = read_since(self._plan, self._folder, {})
        logs = zip((spec.name for spec in self._plan.processes), texts, strict=True)
        iterating = self._telemetry.reporting | {name for name, text in logs if self._engine.has_iterations(text)}
        return not iterating.isdisjoint(names)

    def _logs_iterations(self, marks: Marks) -> bool:
        return any(self._engine.has_iterations(text) for text in read_since(self._plan, self._folder, marks))


def find_cause(
    engine: Engine, plan: LaunchPlan, folder: Path, errors: Sequence[str] = (), marks: Mapping[str, int] | None = None
) -> Diagnosis | None:
    """The first known cause in ``errors`` and in the logs of all servers (since ``marks``), orchestrator included.

    The workers' logs are read before the orchestrator's, which mostly shows that a worker failed and not why.
    """
    return engine.diagnose([*read_since(plan, folder, marks or {}), *errors])


def explain_failure(
    engine: Engine, experiment: Experiment, plan: LaunchPlan, folder: Path, error: Exception
) -> Diagnosis | None:
    """Cause and remedy of what ended a launch; ``None`` when it is not known."""
    known = find_cause(engine, plan, folder)
    if known is None and isinstance(error, Stalled):
        return engine.explain("stalled" if error.started else "never_started", experiment)
    return known
