"""``ratematch load``: a ladder of loads against any OpenAI-compatible server, alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ratematch.errors import UserError
from ratematch.loadgen.client import Target, request_url
from ratematch.loadgen.gpu import GpuSampler
from ratematch.loadgen.http import server_version
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.options import DEFAULT_VOCAB, LoadOptions
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.send import Senders, send_load
from ratematch.loadgen.servermetrics import MetricsPoller
from ratematch.loadgen.shards import LoadJob
from ratematch.loadgen.warming import count_distinct, warm_prompts
from ratematch.measure.goodput import Goodput
from ratematch.measure.loadrun import GpuSummary
from ratematch.measure.measurement import Measurement, add_findings, measure_load, to_json
from ratematch.measure.servermetrics import ReadSamples, read_prometheus
from ratematch.measure.validity import DEFAULT_LIMITS
from ratematch.plan.experiment import load_to_json
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.workload import Workload
from ratematch.store.files import write_json, write_lines
from ratematch.store.records import write_records

__all__ = ["LoadOptions", "LoadRow", "run_ladder"]


@dataclass(frozen=True)
class LoadRow:
    """One rung of the ladder. ``result`` holds the records and the client's health; ``notes``: what else to know;
    ``servers``, ``gpus``: what these reported meanwhile, over the window; ``samples``: all of it, by file name."""

    load: Load
    result: LoadResult
    measurement: Measurement
    workload: Workload
    target: Target
    emulated: bool = False
    notes: tuple[str, ...] = ()
    servers: dict[str, dict[str, float]] | None = None
    gpus: GpuSummary | None = None
    samples: dict[str, list[Mapping[str, object]]] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the records."""
        return {
            "load": load_to_json(self.load),
            "emulated": self.emulated,
            "aborted": self.result.aborted,
            "ended_early": self.result.ended_early,
            "notes": list(self.notes),
            "start_ns": self.result.start_ns,
            "wall_start_ns": self.result.wall_start_ns,
            "client": asdict(self.result.health),
            "servers": self.servers,
            "gpus": asdict(self.gpus) if self.gpus else None,
            **to_json(self.measurement),
        }


def run_ladder(
    options: LoadOptions,
    output: Path | None,
    on_progress: Callable[[Load, Progress], None],
    on_row: Callable[[LoadRow, Path | None], None] = lambda row, folder: None,
    read_metrics: ReadSamples = read_prometheus,
) -> list[LoadRow]:
    """Run every load in turn; with ``output`` each gets a folder with its records and figures.

    ``on_row`` is called with each load when it is measured, and its folder. With ``give_up`` the ladder ends at the
    load that was given up. ``read_metrics`` reads the answers of ``options.server_metrics``.

    Raises:
        UserError: a ladder that is not numbers, none at all, a URL, key or file that is not there, a folder in use.
    """
    workload, target, goal = options.workload(), options.target(), options.goal()
    request_url(target)
    source = PromptSource(workload, options.vocab_size or DEFAULT_VOCAB, options.seed)
    if source.tokenizer_size is not None and options.vocab_size is None:
        source.vocab_size = source.tokenizer_size
    target = replace(target, spell=source.spell)
    emulated = _is_emulated(target)
    rows: list[LoadRow] = []
    first = 0
    for load in options.loads(source.num_entries, source.timed):
        # Prompts go on being numbered across the ladder: no load may find another one's prefix in the cache.
        distinct = count_distinct(load) if options.warm_prompts else 0
        job = LoadJob(target, load, workload, source.vocab_size, options.seed, first, distinct)
        first += load.num_requests + load.warmup
        folder = _new_folder(output, load)
        row = _run_load(options, job, source, goal, emulated, on_progress, read_metrics)
        rows.append(row)
        if folder:
            _write(folder, row)
        on_row(row, folder)
        if row.result.aborted == "stopped on request":
            raise KeyboardInterrupt
        if row.result.aborted or (row.result.ended_early or "").startswith("given up"):
            break
        if isinstance(load, Concurrency) and load.seconds:
            first = max(first, max((record.seq for record in row.result.records), default=0) + 1)
    return rows


def _run_load(
    options: LoadOptions,
    job: LoadJob,
    source: PromptSource,
    goal: Goodput | None,
    emulated: bool,
    on_progress: Callable[[Load, Progress], None],
    read_metrics: ReadSamples,
) -> LoadRow:
    load = job.load
    poller = MetricsPoller(options.server_metrics, read=read_metrics)
    with _stop_on_ctrl_c() as stop, poller as servers, GpuSampler() as gpus:
        if job.distinct:
            warm_prompts(job, source, stop)
        result = send_load(
            job,
            source,
            rules=options.early(),
            senders=Senders(options.processes),
            stop=stop,
            on_progress=lambda progress: on_progress(load, progress),
        )
    warmed = bool(job.distinct)  # such prompts are meant to be found in the cache
    limits = replace(DEFAULT_LIMITS, cached=1.0) if warmed else DEFAULT_LIMITS
    measured = measure_load(result.records, load, job.workload, limits=limits, goodput=goal, client=result.health)
    window = measured.window
    span = (window.start_ns, window.end_ns) if window else (result.start_ns, result.end_ns)
    summary, watts = servers.samples.summarise(*span), gpus.summarise(*span, measured.tok_s)
    notes = (*result.notes, *servers.notes, *gpus.notes)
    findings = servers.judge(summary, span, job.workload)
    measured = add_findings(measured, ((severe and not warmed, text) for severe, text in findings))
    samples: dict[str, list[Mapping[str, object]]] = {
        "server_metrics.jsonl": list(servers.samples.lines()),
        "gpus.jsonl": list(gpus.lines()),
    }
    return LoadRow(load, result, measured, job.workload, job.target, emulated, tuple(notes), summary, watts, samples)


def _is_emulated(target: Target) -> bool:
    url = urlsplit(request_url(target))
    if url.scheme != "http" or url.hostname is None:
        return False
    return server_version(url.hostname, url.port or 80).emulated


def _new_folder(output: Path | None, load: Load) -> Path | None:
    if output is None:
        return None
    folder = output / load.label
    if folder.exists():
        raise UserError(f"{folder}: holds an earlier run; give another -o, nothing measured is overwritten")
    folder.mkdir(parents=True)
    return folder


def _write(folder: Path, row: LoadRow) -> None:
    write_records(folder / "warmup.parquet", row.result.warmup)
    write_records(folder / "records.parquet", row.result.records)
    for name, lines in row.samples.items():
        if lines:
            write_lines(folder / name, lines)
    write_json(folder / "measurement.json", row.to_json())


@contextmanager
def _stop_on_ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C ends the load in order: what was measured so far is kept and shown."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
