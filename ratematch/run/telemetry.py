"""What the servers tell about themselves while loads run: their iterations, and request timings at the end.

One thread a worker asks about once a second for as long as the servers live (where the route hands every iteration
out once, there must be one reader). A server without the route costs nothing but a note in the load's
``loadrun.json``; nothing here can fail a load.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ratematch.engines import Engine
from ratematch.loadgen.http import fetch
from ratematch.measure.loadrun import EmulatorTime
from ratematch.measure.servermetrics import Iteration, ReadIterations
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec

PERIOD_S = 1.0

ANSWER_S = 10.0
"""Longest wait for an answer; TensorRT-LLM's idle server holds it back for up to 2 s by itself."""

PERF_S = 60.0
"""Longest wait for the request timings of a whole load."""

IDLE_S = 0.05
"""A reader that waits this long for an answer has read everything: the route answers at once when it has news."""

GIVE_UP = 3
"""Answers in a row that are no statistics after which a server is not asked again."""


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
)
"""Columns of ``iterations.parquet``: the fields of :class:`ratematch.measure.servermetrics.Iteration`.

``read_ns``: the records' clock, when the answer with the iteration came.
"""


@dataclass
class _Reader:
    """One worker's statistics. Written by its own thread; ``rows`` only ever grow between two takes."""

    spec: ProcessSpec
    read: ReadIterations
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    asked_s: float | None = None
    answers: int = 0
    failures: int = 0
    problem: str | None = None

    @property
    def gone(self) -> bool:
        return self.failures >= GIVE_UP


class Telemetry:
    """Readers of every worker of a launch; used as a context around all of its loads.

    ``route``: where workers tell their iterations. ``new_reader``: makes what reads the answers of one worker.
    ``last_step_s``: when (monotonic) one last told of an iteration. ``told``: names of those that ever did.
    """

    def __init__(
        self, plan: LaunchPlan, route: str, new_reader: Callable[[], ReadIterations], period_s: float = PERIOD_S
    ):
        self._plan, self._route = plan, route
        self._period_s = period_s
        self._readers = [_Reader(spec, new_reader()) for spec in plan.processes if spec.role != "orchestrator"]
        self._over = threading.Event()
        self._wake = threading.Condition()
        self._flushes = 0
        self.last_step_s = time.monotonic()
        self.told: set[str] = set()

    def __enter__(self) -> Telemetry:
        for reader in self._readers:
            threading.Thread(
                target=self._read, args=(reader,), name=f"metrics {reader.spec.name}", daemon=True
            ).start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Not joined: a reader may wait two more seconds in an idle server's route, and the servers end now anyway.
        self._over.set()
        with self._wake:
            self._wake.notify_all()

    def take(self) -> list[tuple[Any, ...]]:
        """Every iteration told since the last take, as rows of :data:`COLUMNS`; reads what is still to come first."""
        with self._wake:
            self._flushes += 1
            self._wake.notify_all()
        begin = time.monotonic()
        before = [reader.answers for reader in self._readers]
        while time.monotonic() < begin + self._period_s and not all(
            reader.gone or reader.answers > count or self._is_idle(reader)
            for reader, count in zip(self._readers, before, strict=True)
        ):
            time.sleep(0.01)
        taken: list[tuple[Any, ...]] = []
        for reader in self._readers:
            count = len(reader.rows)
            taken += reader.rows[:count]
            del reader.rows[:count]
        return taken

    @property
    def blind(self) -> bool:
        """No server tells its iterations here."""
        return all(reader.gone for reader in self._readers)

    def problems(self) -> dict[str, str]:
        """Servers that do not tell their iterations, and why."""
        return {reader.spec.name: reader.problem for reader in self._readers if reader.problem}

    def _is_idle(self, reader: _Reader) -> bool:
        asked_s = reader.asked_s
        return asked_s is not None and time.monotonic() - asked_s > IDLE_S

    def _read(self, reader: _Reader) -> None:
        url = f"http://{reader.spec.host}:{reader.spec.port}{self._route}"
        while not self._over.is_set() and not reader.gone:
            flushes = self._flushes
            reader.asked_s = time.monotonic()
            try:
                with fetch(url, ANSWER_S) as answer:
                    body = answer.read()
                now_ns = time.monotonic_ns()
                told = reader.read(body, now_ns)
            except (OSError, ValueError, msgspec.DecodeError) as error:
                reader.failures += 1
                reader.problem = f"{self._route}: {error}"
                told = []
            else:
                reader.failures, reader.problem = 0, None
            reader.asked_s = None
            reader.rows += [(reader.spec.name, now_ns, *step) for step in told]
            reader.answers += 1
            if told:
                self.last_step_s = time.monotonic()
                self.told.add(reader.spec.name)
            with self._wake:
                self._wake.wait_for(lambda seen=flushes: self._over.is_set() or self._flushes != seen, self._period_s)  # type: ignore[misc]


def acceptance_length(rows: Sequence[tuple[Any, ...]]) -> float | None:
    """Tokens an iteration yields for a request that drafts: 1 + accepted tokens / requests with drafts, all rows.

    ``None`` when no row tells of drafts.
    """
    accepted = drafted = 0.0
    for row in rows:
        if row[-1]:
            accepted += row[-2] or 0.0
            drafted += row[-1]
    return 1 + accepted / drafted if drafted else None


_MEANS = {
    "step_ms": "step_ms",
    "active": "active",
    "queued": "queued",
    "kv_used": "kv_used_blocks",
    "kv_max": "kv_max_blocks",
    "cache_hit_rate": "cache_hit_rate",
}
"""Figures of a summary and the columns that they are means of."""


def summarise(rows: Sequence[tuple[Any, ...]], start_ns: int, end_ns: int) -> dict[str, dict[str, float]]:
    """By server: means over its iterations that were read inside a span, and how many (``iterations``).

    Rows carry the instant of reading, up to a second after the iteration.
    """
    places = {name: index for index, (name, _) in enumerate(COLUMNS)}
    by_server: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        if start_ns <= row[places["read_ns"]] <= end_ns:
            by_server.setdefault(row[places["server"]], []).append(row)
    summary = {}
    for server, own in by_server.items():
        figures = {"iterations": float(len(own))}
        for name, column in _MEANS.items():
            told = [row[places[column]] for row in own if row[places[column]] is not None]
            if told:
                figures[name] = sum(told) / len(told)
        summary[server] = figures
    return summary


def write_iterations(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(values, kind) for values, (_, kind) in zip(columns, COLUMNS, strict=True)]
    pq.write_table(pa.table(arrays, names=[name for name, _ in COLUMNS]), path, compression="zstd")


def read_perf_metrics(plan: LaunchPlan, route: str | None) -> tuple[list[bytes], dict[str, str]]:
    """Timings of the requests that ended since the last call, one JSON object each; and servers that tell none.

    ``route``: where they are told, ``None`` = nowhere. From the orchestrator where there is one (it joins its
    workers' records), else from each worker.
    """
    if route is None:
        return [], {}
    asked = [spec for spec in plan.processes if spec.role == "orchestrator"] or list(plan.processes)
    lines: list[bytes] = []
    problems: dict[str, str] = {}
    for spec in asked:
        try:
            with fetch(f"http://{spec.host}:{spec.port}{route}", PERF_S) as answer:
                records = msgspec.json.decode(answer.read(), type=list[dict[str, Any]])
        except (OSError, ValueError, msgspec.DecodeError) as error:
            problems[spec.name] = f"{route}: {error}"
            continue
        lines += [msgspec.json.encode({"server": spec.name, **record}) for record in records]
    return lines, problems


def write_lines(path: Path, lines: Sequence[bytes]) -> None:
    """One line each, zstd-compressed."""
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        for line in lines:
            file.write(line + b"\n")


class PrefixHits:
    """The counters of every generation server of ``plan`` from now on; one that does not answer tells nothing."""

    def __init__(self, plan: LaunchPlan, engine: Engine):
        self._servers = [
            (f"http://{spec.host}:{spec.port}{engine.routes.iterations}", engine.iteration_reader())
            for spec in plan.processes
            if spec.role == "gen"
        ]
        self._look()

    def rate(self) -> float | None:
        """Share of the prompt tokens since the beginning that were found; ``None`` when no server tells it."""
        told = [
            (step.cache_hit_rate, step.ctx_tokens)
            for step in self._look()
            if step.cache_hit_rate is not None and step.ctx_tokens
        ]
        total = sum(tokens for _, tokens in told)
        return sum(rate * tokens for rate, tokens in told) / total if total else None

    def _look(self) -> list[Iteration]:
        found: list[Iteration] = []
        for url, read in self._servers:
            try:
                with fetch(url, ANSWER_S) as answer:
                    found += read(answer.read(), time.monotonic_ns())
            except (OSError, ValueError):
                continue
        return found


Account = dict[str, EmulatorTime]


def read_account(plan: LaunchPlan) -> Account:
    """Per worker of the emulator: planned busy seconds, seconds late, seconds given up."""
    account: Account = {}
    for spec in plan.processes:
        if spec.role == "orchestrator":
            continue
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError),
            fetch(f"http://{spec.host}:{spec.port}/server_info", 5) as answer,
        ):
            told: dict[str, Any] = json.load(answer)["emulated"]
            account[spec.name] = EmulatorTime(*(float(told[name]) for name in ("busy_s", "late_s", "lost_s")))
    return account


def spent_between(before: Account, after: Account) -> Account:
    """What each server did in between."""
    return {
        name: EmulatorTime(now.busy_s - then.busy_s, now.late_s - then.late_s, now.lost_s - then.lost_s)
        for name, then in before.items()
        if (now := after.get(name)) is not None
    }
