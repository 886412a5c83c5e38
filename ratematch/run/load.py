"""One load against servers that are up: send it, watch them meanwhile, keep what both sides report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from ratematch.errors import DiskFull, LoadAborted, RunError, ServerDied
from ratematch.inputs.catalog import model_of
from ratematch.loadgen.cores import keep_apart
from ratematch.loadgen.gpu import GpuSampler
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.send import Senders, send_load
from ratematch.loadgen.servermetrics import MetricSamples
from ratematch.loadgen.shards import LoadJob
from ratematch.loadgen.warming import count_distinct, warm_prompts
from ratematch.measure import loadrun as loadruns
from ratematch.measure import measurement
from ratematch.measure.columns import columns_of
from ratematch.measure.early import EarlyRules
from ratematch.measure.loadrun import LoadRun, TelemetrySummary
from ratematch.measure.records import RequestRecord
from ratematch.measure.serverlog import Diagnosis
from ratematch.measure.servermetrics import StageTimes
from ratematch.measure.serverside import judge_servers, limits_of
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment, seed_of
from ratematch.plan.load import Load
from ratematch.run.conversing import recheck
from ratematch.run.iterations import Iterations, acceptance_length, prefix_hit_rate, summarise, write_iterations
from ratematch.run.live import Live, Reported, Sent
from ratematch.run.loadprogress import describe_progress, reporting_progress
from ratematch.run.probes import probe_ready
from ratematch.run.requesttimes import CollectedTimes, collect_times, mark_times
from ratematch.run.serverlogs import mark_logs, read_logs
from ratematch.run.stopping import Interrupted
from ratematch.run.telemetry import read_emulator_times, spent_between, write_lines
from ratematch.run.watch import Stalled, find_cause, watch
from ratematch.store import layout
from ratematch.store.files import DISK_FULL, reserve, write_json
from ratematch.store.records import write_records

RECORD_B = 512
TOKEN_B = 10
"""Bytes a request and a token chunk take in a records file, before compression: what is reserved on the disk, and as
much again for what is spilt while the load runs."""


def measure_load(live: Live, load: Load, number: int, total: int) -> None:
    """Run ``load``, the ``number``-th (from 0) of ``total``, and commit its records and figures.

    Raises:
        ServerDied, Stalled, Interrupted, LoadAborted: it ended early; what there is of it is kept aside.
        DiskFull: no room for its records.
    """
    at = live.folder.load_folder(load)
    recheck(live.servers, live.engine, live.experiment, live.stop)
    sent = _send(live, load, number, total)
    reported = _collect(live, load, sent)
    if why := _why_not_kept(live, load, sent, reported.run):
        _keep_partial(at, sent.result, reported.run, reported.rows)
        raise why
    write_records(at / layout.WARMUP, sent.result.warmup)
    write_records(at / layout.RECORDS, sent.result.records)
    write_iterations(at / layout.ITERATIONS, reported.rows)
    write_lines(at / layout.PERF_METRICS, reported.perf)
    write_lines(at / layout.PROMETHEUS, (msgspec.json.encode(line) for line in reported.samples.lines()))
    figures = measurement.measure_load(
        sent.result.records,
        load,
        live.experiment.workload,
        limits=limits_of(live.experiment),
        client=reported.run.client,
    )
    run = reported.run
    if figures.window is not None:
        run = _add_window(live, sent, reported, (figures.window.start_ns, figures.window.end_ns), figures.tok_s)
    live.folder.finish_load(load, run, judge_servers(figures, live.experiment, run))


def _send(live: Live, load: Load, number: int, total: int) -> Sent:
    """Warm what is to be warmed, send the load and watch the servers meanwhile."""
    experiment, plan = live.experiment, live.servers.plan
    job = job_of(live, load)
    source = job.source()
    warmed = warm_prompts(job, source, live.stop, _block(live)) if experiment.mode == "gen_only_warmed" else None
    size = (load.num_requests + load.warmup) * (RECORD_B + TOKEN_B * experiment.workload.osl)
    before = read_emulator_times(plan) if experiment.emulated else {}
    live.telemetry.take()
    marks, times = mark_logs(plan, live.servers.folder), mark_times(plan, live.servers.folder, live.times)
    gpus = GpuSampler(folder=live.launch, only=_gpus_of(live))
    with (
        watch(live.servers, live.telemetry, live.engine, live.stop, live.stall_s) as watched,
        reserve(live.folder.load_folder(load), size, spare=size),
        reporting_progress(live.folder) as report,
        gpus,
        keep_apart(live.cores, live.servers.known_by) as notes,
    ):

        def show(progress: Progress) -> None:
            watched.in_flight = progress.in_flight
            report(describe_progress(progress, load, number, total))

        result = send_load(
            job,
            source,
            rules=EarlyRules(target_ci=getattr(load, "target_ci", 0.0) or None),
            senders=Senders(None, live.senders.most, live.senders.drive) if live.senders else Senders(),
            stop=watched.halt,
            on_progress=show,
            folder=live.folder.load_folder(load),
        )
    result = replace(result, notes=(*result.notes, *notes))
    return Sent(result, watched, marks, times, before, gpus, warmed)


def _collect(live: Live, load: Load, sent: Sent) -> Reported:
    """What client and servers report of a load that is over."""
    experiment, plan, result = live.experiment, live.servers.plan, sent.result
    run = describe_run(result, live.launch, experiment)
    emulator = spent_between(sent.before, read_emulator_times(plan)) if experiment.emulated else {}
    log = read_logs(plan, live.servers.folder, sent.marks, live.engine, experiment, load)
    reports = live.telemetry.take()
    rows = reports.iterations
    times = CollectedTimes((), None, None, {})
    if result.aborted is None:
        every = [*result.warmup, *result.records]
        times = collect_times(plan, live.servers.folder, live.times, sent.times, every, live.engine.trim_times)
    warmed = sent.warmed
    if warmed is not None:
        servers = {spec.name for spec in plan.processes if spec.role == "gen"}
        rate = prefix_hit_rate(rows, servers)
        warmed = replace(warmed, hit_rate=_hits_by_answers(result.records) if rate is None else rate)
    run = replace(
        run,
        beside=_beside(live, run),
        emulator=emulator,
        connections=live.connections,
        log=log,
        telemetry=TelemetrySummary(
            len(rows),
            len(times.lines),
            acceptance_length(rows),
            {**live.telemetry.problems(), **times.problems},
            times_from=times.source,
            times_note=times.note,
        ),
        warmed=warmed,
    )
    known = _find_cause(live, sent, run)
    run = replace(run, cause=known.cause, remedy=known.remedy) if known else run
    return Reported(run, rows, reports.samples, times.lines)


def _hits_by_answers(records: Sequence[RequestRecord]) -> float | None:
    """Share of the prompt tokens that answers say were found in a prefix cache, where the servers' own figures do not
    tell; ``None`` where an answer does not say."""
    whole = [record for record in records if record.outcome == "ok"]
    tokens = sum(record.isl_reported or 0 for record in whole)
    cached = [record.cached_tokens for record in whole]
    counted = [count for count in cached if count is not None]
    return sum(counted) / tokens if tokens and len(counted) == len(cached) else None


def _beside(live: Live, run: LoadRun) -> tuple[str, ...]:
    """What ran on other GPUs of this machine while the load did."""
    if live.presence is None or run.wall_start_ns is None or run.start_ns is None or run.end_ns is None:
        return ()
    begin = run.wall_start_ns / 1e9
    return live.presence.during(begin, begin + (run.end_ns - run.start_ns) / 1e9)


def _find_cause(live: Live, sent: Sent, run: LoadRun) -> Diagnosis | None:
    """Why requests of a load failed; ``None`` where none did or nothing is known."""
    errors = _errors(sent.result.records)
    if not errors:
        return None
    known = find_cause(live.engine, live.servers.plan, live.servers.folder, errors, sent.marks)
    if known is None and run.failed == run.sent:
        return live.engine.explain("all_failed", live.experiment)
    return known


def _why_not_kept(live: Live, load: Load, sent: Sent, run: LoadRun) -> RunError | None:
    """Why the load is not whole; ``None`` when it is."""
    watched = sent.watched
    if sent.result.aborted is None:
        return _ruined(live) if run.failed else _changed(live)
    if watched.died:
        return type(watched.died)(f"during {load.label}: {watched.died}")
    if watched.stalled:
        return Stalled(f"{load.label}: {watched.stalled}", started=watched.started)
    if live.stop.is_set():
        return Interrupted(f"stopped during {load.label}; loads before it are kept")
    if DISK_FULL in sent.result.aborted:
        return DiskFull(f"{load.label}: {sent.result.aborted}")
    try:
        # A server that refuses every connection may have ended since the watch last looked.
        live.servers.check()
    except (ServerDied, DiskFull) as error:
        return type(error)(f"during {load.label}: {error}")
    return LoadAborted(f"{load.label}: {sent.result.aborted}")


def _add_window(live: Live, sent: Sent, reported: Reported, span: tuple[int, int], tok_s: float | None) -> LoadRun:
    """``reported.run`` with what servers and GPUs did in the steady window ``span`` (ns)."""
    run, samples = reported.run, reported.samples.summarise(*span)
    window = {**_without_iterations(live, samples or {}), **summarise(reported.rows, *span)}
    return replace(
        run,
        telemetry=replace(run.telemetry, window=window),
        gpus=sent.gpus.summarise(*span, tok_s),
        prometheus=samples,
        stages=_read_stages(live, reported.samples, span),
    )


def _without_iterations(live: Live, samples: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The figures that servers report of a window in their samples only, by server."""
    if not live.engine.routes.judged:
        return {}
    found = {
        spec.name: live.engine.read_figures(samples.get(live.telemetry.prometheus_url(spec.name), {}))
        for spec in live.servers.plan.processes
        if spec.role != "service"
    }
    for spec in live.servers.plan.processes:
        if spec.role == "orchestrator":
            # What a decode worker was handed over counts as cached there; answers and workers tell of real hits.
            for hits in ("cache_hits_total", "cache_queries_total", "cache_hit_rate"):
                found[spec.name].pop(hits, None)
    return {name: figures for name, figures in found.items() if figures}


def _ruined(live: Live) -> RunError | None:
    """Did requests fail because servers were going away? Then the load is no measure of them and is not kept.

    Servers that are ended together with us (scancel, a preemption) or by themselves refuse the rest of a load within
    milliseconds: it is over before anybody has noticed that they are gone.
    """
    if live.stop.is_set():
        return Interrupted("stopped while its servers were going away; loads before it are kept")
    try:
        live.servers.check()
    except (ServerDied, DiskFull) as error:
        return error
    for spec in live.servers.plan.processes:
        if why := probe_ready(spec.ready):
            return ServerDied(f"{spec.name} no longer answers ({why})")
    return None


def _changed(live: Live) -> RunError | None:
    """Are other servers there than were started? Then the load is no measure of ours and is not kept."""
    try:
        recheck(live.servers, live.engine, live.experiment, live.stop)
    except RunError as error:
        return error
    return None


def job_of(live: Live, load: Load) -> LoadJob:
    """What is to be sent: reproducible; two requests share a prompt only where the workload or the mode wants it."""
    experiment = live.experiment
    vocab = model_of(experiment).vocab
    distinct = block = 0
    if experiment.mode == "gen_only_warmed":
        # A token more must fit where somebody has set the longest sequence.
        longest, workload = live.engine.kv_settings(_gen(live)).max_seq_len, experiment.workload
        fits = longest is None or longest > workload.isl + workload.osl
        distinct, block = count_distinct(load), _block(live) if fits else 0
    seed = seed_of(experiment, load)
    return LoadJob(live.target, load, experiment.workload, vocab, seed, distinct=distinct, block=block)


def _block(live: Live) -> int:
    """Tokens of a KV block of the generation servers."""
    return live.engine.kv_settings(_gen(live)).block


def _gpus_of(live: Live) -> frozenset[int] | None:
    """The GPUs that servers are given by number; ``None`` where one has all of a node. Its neighbours' power is not
    theirs."""
    servers = [dict(spec.env) for spec in live.servers.plan.processes if spec.is_worker]
    lists = [env.get("CUDA_VISIBLE_DEVICES", "") for env in servers]
    if not lists or not all(lists):
        return None
    numbers = [number for text in lists for number in text.split(",")]
    return frozenset(map(int, numbers)) if all(number.isdigit() for number in numbers) else None


def _gen(live: Live) -> ServerGroup:
    gen = live.experiment.deployment.gen
    assert gen is not None
    return gen


def _read_stages(live: Live, samples: MetricSamples, span: tuple[int, int]) -> StageTimes | None:
    """Mean times of the stages of this load's requests, where the servers have counters of them."""
    if live.experiment.mode != "e2e":
        return None
    grown: dict[str, list[dict[str, float]]] = {"ctx": [], "gen": []}
    seconds: list[float] = []
    for spec in live.servers.plan.processes:
        if spec.role in grown:
            growth, elapsed_s = samples.growth(live.telemetry.prometheus_url(spec.name), *span)
            grown[spec.role].append(growth)
            seconds.append(elapsed_s)
    return live.engine.read_stages(grown["ctx"], grown["gen"], max(seconds, default=0.0))


def _errors(records: Sequence[RequestRecord]) -> list[str]:
    """Distinct error texts of failed requests; cancellations by the client are left out."""
    columns = columns_of(records)
    others = columns.take(~columns.text("outcome").equal("cancelled")).text("error")
    return sorted({error for code in np.unique(others.codes) if (error := others.values[code])})


def describe_run(result: LoadResult, launch: Path, experiment: Experiment) -> LoadRun:
    """How a load of ``experiment`` ran by the client's account alone."""
    records = columns_of(result.records)
    return LoadRun(
        launch=launch.name,
        mode=experiment.mode,
        origin=experiment.origin,
        start_ns=result.start_ns,
        end_ns=result.end_ns,
        wall_start_ns=result.wall_start_ns,
        sent=int(records.known("sent_ns").sum()),
        failed=len(records) - int(records.text("outcome").equal("ok").sum()),
        aborted=result.aborted,
        ended_early=result.ended_early,
        notes=tuple(result.notes),
        client=result.health,
    )


def _keep_partial(at: Path, result: LoadResult, run: LoadRun, rows: Iterations) -> None:
    """An unfinished load's records stay for a person to look at; the load itself will be measured again."""
    number = 1
    while (aside := at / f"partial-{number}").exists():
        number += 1
    aside.mkdir(parents=True)
    write_records(aside / layout.RECORDS, result.records)
    write_iterations(aside / layout.ITERATIONS, rows)
    write_json(aside / layout.LOADRUN, loadruns.to_json(run))
