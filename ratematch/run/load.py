"""One load against servers that are up: send it, watch them meanwhile, keep what both sides tell."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from ratematch.engines import Engine
from ratematch.errors import LoadAborted, RunError, ServerDied
from ratematch.inputs.catalog import load_model
from ratematch.loadgen.client import Target
from ratematch.loadgen.gpu import GpuSampler
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.send import Senders, send_load
from ratematch.loadgen.servermetrics import MetricSamples
from ratematch.loadgen.shards import LoadJob
from ratematch.loadgen.warming import Warming, count_distinct, warm_prompts
from ratematch.measure.early import EarlyRules
from ratematch.measure.records import RequestRecord
from ratematch.measure.serverside import measure_run
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.run.launch import Interrupted, Servers, probe
from ratematch.run.senders import NodeSenders
from ratematch.run.serverlogs import mark_logs, read_logs, read_since
from ratematch.run.telemetry import (
    Telemetry,
    WorkerIteration,
    acceptance_length,
    prefix_hit_rate,
    read_emulator_times,
    read_perf_metrics,
    spent_between,
    summarise,
    write_iterations,
    write_lines,
)
from ratematch.run.watch import Stalled, find_cause, watch
from ratematch.store.files import reserve, write_json
from ratematch.store.folder import ExperimentFolder
from ratematch.store.records import write_records

RECORD_B = 512
TOKEN_B = 10
"""Bytes a request and a token chunk take in a records file, before compression: what is reserved on the disk."""


@dataclass(frozen=True)
class Live:
    """A deployment that is up. ``connections``: what became of opening its connections, if that was done.
    ``senders``: on the nodes of its allocation, if it is in one."""

    folder: ExperimentFolder
    launch: Path
    servers: Servers
    engine: Engine
    experiment: Experiment
    telemetry: Telemetry
    stop: threading.Event
    stall_s: float | None
    connections: Warming | None = None
    senders: NodeSenders | None = None

    @property
    def target(self) -> Target:
        body = self.engine.extra_body(self.experiment)
        return Target(self.servers.plan.endpoint, self.experiment.model_path, extra_body=body)


def measure_load(live: Live, load: Load, number: int, total: int) -> None:
    """Run ``load``, the ``number``-th (from 0) of ``total``, and commit its records and figures.

    Raises:
        ServerDied, Stalled, Interrupted, LoadAborted: it ended early; what there is of it is kept aside.
        DiskFull: no room for its records.
    """
    experiment, plan, at = live.experiment, live.servers.plan, live.folder.load_folder(load)
    routes = live.engine.routes
    job = job_of(live, load)
    source = job.source()
    warmed = None
    if experiment.mode == "gen_only_warmed":
        warmed = warm_prompts(job, source, live.stop, _block(live))
    size = (load.num_requests + load.warmup) * (RECORD_B + TOKEN_B * experiment.workload.osl)
    before = read_emulator_times(plan) if experiment.emulated else {}
    live.telemetry.take()
    read_perf_metrics(plan, routes.request_times)
    marks = mark_logs(plan, live.launch)
    gpus = GpuSampler()
    with (
        watch(live.servers, live.telemetry, live.engine, live.stop, live.stall_s) as watched,
        reserve(at, size),
        telling(live.folder) as tell,
        gpus,
    ):

        def show(progress: Progress) -> None:
            watched.in_flight = progress.in_flight
            tell(_describe_progress(progress, load, number, total))

        rules = EarlyRules(target_ci=getattr(load, "target_ci", 0.0) or None)
        result = send_load(
            job,
            source,
            rules=rules,
            senders=Senders(None, live.senders.most, live.senders.drive) if live.senders else Senders(),
            stop=watched.halt,
            on_progress=show,
        )
    run = describe_run(result, live.launch, experiment)
    if experiment.emulated:
        spent = spent_between(before, read_emulator_times(plan))
        run["emulator"] = {name: asdict(own) for name, own in spent.items()}
    if live.connections is not None:
        run["connections"] = asdict(live.connections)
    run["log"] = read_logs(plan, live.launch, marks, live.engine, experiment, load)
    reports = live.telemetry.take()
    rows = reports.iterations
    perf, problems = read_perf_metrics(plan, routes.request_times) if result.aborted is None else ([], {})
    run["telemetry"] = {
        "iterations": len(rows),
        "perf_records": len(perf),
        "acceptance_length": acceptance_length(rows),
        "problems": live.telemetry.problems() | problems,
    }
    if warmed is not None:
        servers = {spec.name for spec in plan.processes if spec.role == "gen"}
        run["warmed"] = asdict(replace(warmed, hit_rate=prefix_hit_rate(rows, servers)))
    if errors := _errors(result.records):
        found = find_cause(live.engine, plan, live.launch, errors, marks)
        if found is None and run["failed"] == run["sent"]:
            found = live.engine.explain("all_failed", experiment)
        if found is not None:
            run["cause"], run["remedy"] = found.cause, found.remedy
    if result.aborted is not None:
        _keep_partial(at, result, run, rows)
        if watched.died:
            raise ServerDied(f"during {load.label}: {watched.died}")
        if watched.stalled:
            raise Stalled(f"{load.label}: {watched.stalled}", started=_have_started(live))
        if live.stop.is_set():
            raise Interrupted(f"stopped during {load.label}; loads before it are kept")
        raise LoadAborted(f"{load.label}: {result.aborted}")
    if run["failed"] and (why := _ruined(live)):
        _keep_partial(at, result, run, rows)
        raise why
    write_records(at / "warmup.parquet", result.warmup)
    write_records(at / "records.parquet", result.records)
    write_iterations(at / "iterations.parquet", rows)
    write_lines(at / "perf_metrics.jsonl.zst", perf)
    write_lines(at / "prometheus.jsonl.zst", [msgspec.json.encode(line) for line in reports.samples.lines()])
    figures = measure_run(result.records, load, experiment, run)
    if figures.window is not None:
        span = (figures.window.start_ns, figures.window.end_ns)
        run["telemetry"]["window"] = summarise(rows, *span)
        watts = gpus.summarise(*span, figures.tok_s)
        run["gpus"] = None if watts is None else asdict(watts)
        run["prometheus"] = reports.samples.summarise(*span)
        run["stages"] = _read_stages(live, reports.samples, span)
        figures = measure_run(result.records, load, experiment, run)
    live.folder.finish_load(load, run, figures)


def _ruined(live: Live) -> RunError | None:
    """Did requests fail because servers were going away? Then the load says nothing of them and is not kept.

    Servers that are ended together with us (scancel, a preemption) or by themselves refuse the rest of a load within
    milliseconds: it is over before anybody has noticed that they are gone.
    """
    if live.stop.is_set():
        return Interrupted("stopped while its servers were going away; loads before it are kept")
    try:
        live.servers.check()
    except ServerDied as error:
        return error
    for spec in live.servers.plan.processes:
        if why := probe(spec.ready.url):
            return ServerDied(f"{spec.name} no longer answers ({why})")
    return None


def job_of(live: Live, load: Load) -> LoadJob:
    """What is to be sent: reproducible; two requests share a prompt only where the workload or the mode wants it."""
    experiment = live.experiment
    vocab = load_model(experiment.model).vocab
    distinct = count_distinct(load) if experiment.mode == "gen_only_warmed" else 0
    return LoadJob(live.target, load, experiment.workload, vocab, seed_of(experiment, load), distinct=distinct)


def _block(live: Live) -> int:
    """Tokens of a KV block of the generation servers."""
    gen = live.experiment.deployment.gen
    assert gen is not None
    return live.engine.kv_settings(gen).block


def _read_stages(live: Live, samples: MetricSamples, span: tuple[int, int]) -> dict[str, Any] | None:
    """Mean times of the stages of this load's requests, where the servers' counters tell them."""
    if live.experiment.mode != "e2e":
        return None
    grown: dict[str, list[dict[str, float]]] = {"ctx": [], "gen": []}
    seconds: list[float] = []
    for spec in live.servers.plan.processes:
        if spec.role in grown:
            growth, elapsed_s = samples.growth(live.telemetry.prometheus_url(spec.name), *span)
            grown[spec.role].append(growth)
            seconds.append(elapsed_s)
    stages = live.engine.read_stages(grown["ctx"], grown["gen"], max(seconds, default=0.0))
    return None if stages is None else asdict(stages)


def seed_of(experiment: Experiment, load: Load) -> int:
    digest = hashlib.sha256(f"{experiment.id} {load.label}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _have_started(live: Live) -> bool:
    """Has a server that generates ever run an iteration? In gen_only the context servers have, whatever gen does."""
    plan = live.servers.plan
    names = [spec.name for spec in plan.processes if spec.role in ("gen", "agg")]
    names = names or [spec.name for spec in plan.processes]
    logs = zip((spec.name for spec in plan.processes), read_since(plan, live.launch, {}), strict=True)
    iterating = live.telemetry.reporting | {name for name, text in logs if live.engine.has_iterations(text)}
    return not iterating.isdisjoint(names)


def _errors(records: Sequence[RequestRecord]) -> list[str]:
    """What failed requests were told, each text once; the client's own giving up tells nothing about the servers."""
    return sorted({record.error for record in records if record.error and record.outcome != "cancelled"})


def _describe_progress(progress: Progress, load: Load, number: int, total: int) -> dict[str, Any]:
    return {
        "phase": "measuring",
        "load": load.label,
        "load_number": number + 1,
        "loads": total,
        "time": time.time(),
        "part": progress.phase,
        "total": progress.total,
        "done": progress.done,
        "failed": progress.failed,
        "in_flight": progress.in_flight,
        "tok_s": progress.tokens / progress.elapsed_s if progress.elapsed_s > 0 else 0.0,
        "ttft_ms": progress.ttft_ms,
    }


def describe_run(result: LoadResult, launch: Path, experiment: Experiment) -> dict[str, Any]:
    health = result.health
    return {
        "launch": launch.name,
        "mode": experiment.mode,
        "emulated": experiment.emulated,
        "simulated": experiment.simulated,
        "start_ns": result.start_ns,
        "end_ns": result.end_ns,
        "wall_start_ns": result.wall_start_ns,
        "sent": sum(record.sent_ns is not None for record in result.records),
        "failed": sum(record.outcome != "ok" for record in result.records),
        "aborted": result.aborted,
        "ended_early": result.ended_early,
        "notes": list(result.notes),
        "client": {name: getattr(health, name) for name in health.__dataclass_fields__},
    }


def _keep_partial(at: Path, result: LoadResult, run: dict[str, Any], rows: Sequence[WorkerIteration]) -> None:
    """An unfinished load's records stay for a person to look at; the load itself will be measured again."""
    number = 1
    while (aside := at / f"partial-{number}").exists():
        number += 1
    aside.mkdir(parents=True)
    write_records(aside / "records.parquet", result.records)
    write_iterations(aside / "iterations.parquet", rows)
    write_json(aside / "loadrun.json", run)


LAST_S = 2.0
"""How long the end of a load waits for the last word to be written."""


@contextlib.contextmanager
def telling(folder: ExperimentFolder) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that hands over what ``progress.json`` is to hold and returns at once."""
    newest: list[dict[str, Any]] = []
    news, over = threading.Event(), threading.Event()

    def write() -> None:
        while True:
            news.wait()
            news.clear()
            if newest:
                folder.write_progress(newest.pop())
            if over.is_set() and not newest:
                return

    def tell(content: dict[str, Any]) -> None:
        newest[:] = [content]
        news.set()

    thread = threading.Thread(target=write, name="tell progress", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        news.set()
        thread.join(LAST_S)
