"""What servers report of themselves while loads run: iterations, Prometheus samples, and request timings at the end.

One :class:`Telemetry` reads every server for as long as a launch lives, through one reader an address
(:mod:`ratematch.loadgen.poller`). A server without a route costs nothing but a note in the load's ``loadrun.json``;
nothing here can fail a load.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from ratematch.loadgen.http import get
from ratematch.loadgen.limits import MOST_FIGURE, TIMINGS_BYTES
from ratematch.loadgen.poller import Poller, Subscription
from ratematch.loadgen.servermetrics import MetricSamples
from ratematch.measure.emulatedmarks import EMULATED_INFO
from ratematch.measure.loadrun import EmulatorTime
from ratematch.measure.metricnames import EMULATED_SECONDS
from ratematch.measure.servermetrics import Iteration, ReadIterations, Routes, parse_prometheus
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec
from ratematch.run.iterations import KEPT, IterationLog
from ratematch.store.files import disk_full_as, disk_full_message, replacing
from ratematch.store.masking import masker
from ratematch.store.rowlog import RowLog

PERIOD_S = 1.0
"""Between two looks at a worker's iterations."""

PROMETHEUS_S = 1.0
"""Between two looks at a server's Prometheus samples: stage times of a load are read between the two nearest to the
ends of its window, which may be some seconds long."""

ANSWER_S = 10.0
"""Longest wait for iterations; TensorRT-LLM's idle server holds its answer back for up to 2 s by itself."""

_PROBLEM = 300
"""Characters of a problem that are kept."""

PERF_S = 60.0
"""Longest wait for the request timings of a whole load."""


@dataclass(frozen=True)
class Reports:
    """What servers reported over a stretch of time. ``samples``: Prometheus, one more from before the stretch."""

    iterations: IterationLog
    samples: MetricSamples


@dataclass
class _Worker:
    """One worker's iterations. Written by its reader's thread."""

    name: str
    read: ReadIterations
    rows: RowLog


class Telemetry:
    """Readers of every server of a launch; used as a context around all of its loads.

    ``routes``: where servers report. ``new_reader``: makes what reads the iterations in the answers of one worker.
    ``folder``: where what is older is kept while a load runs.
    ``last_step_s``: when (monotonic) one last reported an iteration. ``reporting``: names of those that ever did.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        routes: Routes,
        new_reader: Callable[[], ReadIterations],
        period_s: float = PERIOD_S,
        folder: Path | None = None,
    ) -> None:
        self.last_step_s = time.monotonic()
        self.reporting: set[str] = set()
        self._route = routes.iterations
        self._folder, self._taking = folder, threading.Lock()
        self._samples = MetricSamples(folder=folder)
        self._workers: dict[str, _Worker] = {}
        self._iterations: dict[str, Subscription] = {}
        self._prometheus: dict[str, Subscription] = {}
        for spec in plan.processes:
            if spec.role == "service":
                continue
            if spec.is_worker and routes.iterations is not None:
                worker = self._workers[spec.name] = _Worker(spec.name, new_reader(), RowLog(KEPT, folder))
                url, take = _metrics_url(spec, routes.iterations), partial(self._take_iterations, worker)
                self._iterations[spec.name] = Subscription(url, take, period_s, ANSWER_S, holds_back=True)
            url = _metrics_url(spec, routes.prometheus)
            self._prometheus[spec.name] = Subscription(url, partial(self._samples.add, url), PROMETHEUS_S)
        self._poller = Poller([*self._iterations.values(), *self._prometheus.values()])

    def __enter__(self) -> Telemetry:
        self._poller.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._poller.__exit__()

    def take(self) -> Reports:
        """Everything reported since the last take; what is still to come is read first."""
        self._poller.refresh()
        with self._taking:
            taken = [worker.rows for worker in self._workers.values()]
            for worker in self._workers.values():
                worker.rows = RowLog(KEPT, self._folder)
        return Reports(IterationLog(taken), self._samples.take())

    @property
    def blind(self) -> bool:
        """No server reports its iterations here."""
        return all(subscription.gone for subscription in self._iterations.values())

    def problems(self) -> dict[str, str]:
        """Servers that do not report their iterations, and why."""
        return {
            name: f"{self._route}: {subscription.problem}"
            for name, subscription in self._iterations.items()
            if subscription.problem is not None
        }

    def prometheus_url(self, server: str) -> str:
        """The address under which the samples of ``server`` are kept."""
        return self._prometheus[server].url

    def _take_iterations(self, worker: _Worker, body: bytes, read_ns: int) -> None:
        steps = worker.read(body, read_ns)
        if not all(_is_sound(step) for step in steps):
            raise ValueError("an iteration with a number that none can be")
        with self._taking:
            worker.rows.extend((worker.name, read_ns, *step) for step in steps)
        if steps:
            self.last_step_s = time.monotonic()
            self.reporting.add(worker.name)


def _is_sound(step: Iteration) -> bool:
    """Do its numbers fit the columns of ``iterations.parquet``?"""
    ranked = step.rank is None or 0 <= step.rank < 1 << 31
    return ranked and all(value is None or abs(value) < MOST_FIGURE for value in step)


def _url(spec: ProcessSpec, route: str) -> str:
    return f"http://{spec.host}:{spec.port}{route}"


def _metrics_url(spec: ProcessSpec, route: str) -> str:
    return f"http://{spec.host}:{spec.metrics_port or spec.port}{route}"


# ------------------------------------------------------------------------------------------------ timings of requests


def read_perf_metrics(plan: LaunchPlan, route: str | None) -> tuple[list[bytes], dict[str, str]]:
    """Timings of the requests that ended since the last call, one JSON object each; and servers that report none.

    ``route``: where they are, ``None`` = nowhere. From the orchestrator where there is one (it joins its workers'
    records), else from each worker.
    """
    if route is None:
        return [], {}
    servers = [spec for spec in plan.processes if spec.role == "orchestrator"] or list(plan.processes)
    lines: list[bytes] = []
    problems: dict[str, str] = {}
    for spec in servers:
        try:
            body = get(_url(spec, route), PERF_S, TIMINGS_BYTES).body
            records = msgspec.json.decode(body, type=list[dict[str, Any]])
            lines += [msgspec.json.encode({"server": spec.name, **record}) for record in records]
        except Exception as error:  # bytes of a foreign program; they are no reason to lose a load
            problems[spec.name] = f"{route}: {error}"[:_PROBLEM]
    return lines, problems


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """One line each, zstd-compressed."""
    with (
        disk_full_as(disk_full_message(path)),
        replacing(path) as aside,
        pa.CompressedOutputStream(str(aside), "zstd") as file,
    ):
        found = masker()
        for line in lines:
            file.write(found.data(line) + b"\n")


# ------------------------------------------------------------------------------------------ the emulator's own time


def read_emulator_times(plan: LaunchPlan) -> dict[str, EmulatorTime]:
    """Of every emulated worker that answers, since its start."""
    times: dict[str, EmulatorTime] = {}
    for spec in plan.processes:
        if not spec.is_worker:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            reported = _emulated_info(spec)
            seconds = [float(reported[name]) for name in ("busy_s", "late_s", "lost_s")]
            if all(abs(value) < MOST_FIGURE for value in seconds):
                times[spec.name] = EmulatorTime(*seconds)
    return times


def _emulated_info(spec: ProcessSpec) -> Mapping[str, float]:
    """What an emulated worker says of itself; or, of several engines behind one address, the sums in its metrics.

    Raises:
        OSError: it does not say.
    """
    if not spec.metrics_port:
        info: Mapping[str, float] = json.loads(_server_info(spec))["emulated"]
        return info
    sums: dict[str, float] = {}
    for name, value in parse_prometheus(get(_metrics_url(spec, "/metrics"), 5).body.decode()).items():
        if name.startswith(EMULATED_SECONDS) and (kind := re.search(r'kind="(\w+)"', name)):
            sums[kind[1]] = sums.get(kind[1], 0.0) + value
    return sums


def _server_info(spec: ProcessSpec) -> bytes:
    """What an emulated worker says of itself, on its own port or, for Dynamo's, on its system port.

    Raises:
        OSError: it does not say.
    """
    try:
        return get(_url(spec, "/server_info"), 5).body
    except urllib.error.HTTPError:
        return get(_url(spec, f"/engine/{EMULATED_INFO}"), 5).body


def spent_between(before: Mapping[str, EmulatorTime], after: Mapping[str, EmulatorTime]) -> dict[str, EmulatorTime]:
    """What each server that answered both times did in between."""
    return {
        name: EmulatorTime(now.busy_s - then.busy_s, now.late_s - then.late_s, now.lost_s - then.lost_s)
        for name, then in before.items()
        if (now := after.get(name)) is not None
    }
