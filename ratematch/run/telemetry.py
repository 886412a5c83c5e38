"""What servers report of themselves while loads run: iterations, Prometheus samples, and request timings at the end.

One :class:`Telemetry` reads every server for as long as a launch lives, through one reader an address
(:mod:`ratematch.loadgen.poller`). A server without a route costs nothing but a note in the load's ``loadrun.json``;
nothing here can fail a load.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ratematch.loadgen.http import get
from ratematch.loadgen.limits import MOST_FIGURE, TIMINGS_BYTES
from ratematch.loadgen.poller import Poller, Subscription
from ratematch.loadgen.servermetrics import MetricSamples
from ratematch.measure.loadrun import EmulatorTime
from ratematch.measure.servermetrics import Iteration, ReadIterations, Routes
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec
from ratematch.store.files import disk_full_as, disk_full_message, replacing
from ratematch.store.masking import masker

PERIOD_S = 1.0
"""Between two looks at a worker's iterations."""

PROMETHEUS_S = 5.0
"""Between two looks at a server's Prometheus samples."""

ANSWER_S = 10.0
"""Longest wait for iterations; TensorRT-LLM's idle server holds its answer back for up to 2 s by itself."""

_PROBLEM = 300
"""Characters of a problem that are kept."""

PERF_S = 60.0
"""Longest wait for the request timings of a whole load."""


class WorkerIteration(NamedTuple):
    """One iteration. ``read_ns``: the records' clock, when the answer with it came, up to a second after it ran."""

    server: str
    read_ns: int
    iteration: Iteration


@dataclass(frozen=True)
class Reports:
    """What servers reported over a stretch of time. ``samples``: Prometheus, one more from before the stretch."""

    iterations: Sequence[WorkerIteration]
    samples: MetricSamples


@dataclass
class _Worker:
    """One worker's iterations. Written by its reader's thread; ``rows`` only ever grow between two takes."""

    name: str
    read: ReadIterations
    rows: list[WorkerIteration] = field(default_factory=list)


class Telemetry:
    """Readers of every server of a launch; used as a context around all of its loads.

    ``routes``: where servers report. ``new_reader``: makes what reads the iterations in the answers of one worker.
    ``last_step_s``: when (monotonic) one last reported an iteration. ``reporting``: names of those that ever did.
    """

    def __init__(
        self, plan: LaunchPlan, routes: Routes, new_reader: Callable[[], ReadIterations], period_s: float = PERIOD_S
    ) -> None:
        self.last_step_s = time.monotonic()
        self.reporting: set[str] = set()
        self._route = routes.iterations
        self._samples = MetricSamples()
        self._workers: dict[str, _Worker] = {}
        self._iterations: dict[str, Subscription] = {}
        self._prometheus: dict[str, Subscription] = {}
        for spec in plan.processes:
            if spec.role != "orchestrator":
                worker = self._workers[spec.name] = _Worker(spec.name, new_reader())
                url, take = _url(spec, routes.iterations), partial(self._take_iterations, worker)
                self._iterations[spec.name] = Subscription(url, take, period_s, ANSWER_S, holds_back=True)
            url = _url(spec, routes.prometheus)
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
        iterations: list[WorkerIteration] = []
        for worker in self._workers.values():
            count = len(worker.rows)
            iterations += worker.rows[:count]
            del worker.rows[:count]
        return Reports(iterations, self._samples.take())

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
        worker.rows += [WorkerIteration(worker.name, read_ns, step) for step in steps]
        if steps:
            self.last_step_s = time.monotonic()
            self.reporting.add(worker.name)


def _is_sound(step: Iteration) -> bool:
    """Do its numbers fit the columns of ``iterations.parquet``?"""
    ranked = step.rank is None or 0 <= step.rank < 1 << 31
    return ranked and all(value is None or abs(value) < MOST_FIGURE for value in step)


def _url(spec: ProcessSpec, route: str) -> str:
    return f"http://{spec.host}:{spec.port}{route}"


# ------------------------------------------------------------------------------------------------ iterations

COLUMNS = (
    ("server", pa.dictionary(pa.int32(), pa.string())),
    ("read_ns", pa.int64()),
    ("iter", pa.int64()),
    ("rank", pa.int32()),
    ("step_ms", pa.float64()),
    ("active", pa.float32()),
    ("queued", pa.float32()),
    ("scheduled", pa.float32()),
    ("ctx_requests", pa.float32()),
    ("gen_requests", pa.float32()),
    ("ctx_tokens", pa.float32()),
    ("kv_used_blocks", pa.float32()),
    ("kv_max_blocks", pa.float32()),
    ("cache_hit_rate", pa.float32()),
    ("draft_tokens", pa.float32()),
    ("accepted_tokens", pa.float32()),
    ("drafted_requests", pa.float32()),
    ("host_ms", pa.float64()),
    ("before_device_ms", pa.float64()),
)
"""Columns of ``iterations.parquet``: server, instant of reading, and the fields of
:class:`ratematch.measure.servermetrics.Iteration`."""


def write_iterations(path: Path, rows: Sequence[WorkerIteration]) -> None:
    columns = list(zip(*((row.server, row.read_ns, *row.iteration) for row in rows), strict=True))
    columns = columns or [()] * len(COLUMNS)
    arrays = [pa.array(values, kind) for values, (_, kind) in zip(columns, COLUMNS, strict=True)]
    with disk_full_as(disk_full_message(path)), replacing(path) as aside:
        pq.write_table(pa.table(arrays, names=[name for name, _ in COLUMNS]), aside, compression="zstd")


def acceptance_length(rows: Sequence[WorkerIteration]) -> float | None:
    """Tokens an iteration yields for a request that drafts: 1 + accepted tokens / requests with drafts, all rows.

    ``None`` when no row has drafts.
    """
    accepted = drafted = 0.0
    for row in rows:
        if row.iteration.drafted_requests:
            accepted += row.iteration.accepted_tokens or 0.0
            drafted += row.iteration.drafted_requests
    return 1 + accepted / drafted if drafted else None


def prefix_hit_rate(rows: Sequence[WorkerIteration], servers: Collection[str]) -> float | None:
    """Share of the prompt tokens of ``servers`` that were found in their prefix caches, all rows.

    ``None`` when no row reports hits.
    """
    shares = [
        (row.iteration.cache_hit_rate, row.iteration.ctx_tokens)
        for row in rows
        if row.server in servers and row.iteration.cache_hit_rate is not None and row.iteration.ctx_tokens
    ]
    total = sum(tokens for _, tokens in shares)
    return sum(rate * tokens for rate, tokens in shares) / total if total else None


_MEANS = {
    "step_ms": "step_ms",
    "active": "active",
    "queued": "queued",
    "kv_used": "kv_used_blocks",
    "kv_max": "kv_max_blocks",
    "cache_hit_rate": "cache_hit_rate",
    "host_ms": "host_ms",
    "device_ms": "before_device_ms",
}
"""Figures of a summary and the fields of an iteration that they are means of."""


def summarise(rows: Sequence[WorkerIteration], start_ns: int, end_ns: int) -> dict[str, dict[str, float]]:
    """By server: means over its iterations that were read inside a span, and how many (``iterations``)."""
    by_server: dict[str, list[Iteration]] = {}
    for row in rows:
        if start_ns <= row.read_ns <= end_ns:
            by_server.setdefault(row.server, []).append(row.iteration)
    summary = {}
    for server, steps in by_server.items():
        figures = {"iterations": float(len(steps))}
        for name, attribute in _MEANS.items():
            values = [value for step in steps if (value := getattr(step, attribute)) is not None]
            if values:
                figures[name] = sum(values) / len(values)
        summary[server] = figures
    return summary


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


def write_lines(path: Path, lines: Sequence[bytes]) -> None:
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
        if spec.role == "orchestrator":
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            reported = json.loads(get(_url(spec, "/server_info"), 5).body)["emulated"]
            seconds = [float(reported[name]) for name in ("busy_s", "late_s", "lost_s")]
            if all(abs(value) < MOST_FIGURE for value in seconds):
                times[spec.name] = EmulatorTime(*seconds)
    return times


def spent_between(before: Mapping[str, EmulatorTime], after: Mapping[str, EmulatorTime]) -> dict[str, EmulatorTime]:
    """What each server that answered both times did in between."""
    return {
        name: EmulatorTime(now.busy_s - then.busy_s, now.late_s - then.late_s, now.lost_s - then.lost_s)
        for name, then in before.items()
        if (now := after.get(name)) is not None
    }
