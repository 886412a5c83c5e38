"""``ratematch load``: a ladder of loads against any OpenAI-compatible server, alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ratematch.loadgen.client import Target, request_url
from ratematch.loadgen.gpu import GpuSampler
from ratematch.loadgen.http import server_version
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.options import DEFAULT_VOCAB, LoadOptions, check_addresses
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.rungs import ENDLESS, Ladder, fingerprint, open_ladder
from ratematch.loadgen.send import Senders, send_load
from ratematch.loadgen.servermetrics import MetricsPoller
from ratematch.loadgen.shards import LoadJob
from ratematch.loadgen.warming import count_distinct, warm_prompts
from ratematch.measure.columns import columns_of
from ratematch.measure.goodput import Goodput
from ratematch.measure.loadrun import GpuSummary
from ratematch.measure.measurement import Measurement, add_findings, measure_load, to_json
from ratematch.measure.servermetrics import ReadSamples, read_prometheus
from ratematch.measure.validity import DEFAULT_LIMITS
from ratematch.plan.dataset import DatasetSummary, summary_to_json
from ratematch.plan.experiment import load_to_json
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.requestapi import Api
from ratematch.plan.workload import Workload, workload_to_json
from ratematch.store.files import write_json, write_lines
from ratematch.store.records import write_records

__all__ = ["LadderStart", "LoadOptions", "LoadRow", "run_ladder"]


class Sampled(Protocol):
    """What was sampled while a load ran; more of it than memory should hold, perhaps."""

    def __len__(self) -> int: ...
    def lines(self) -> Iterable[Mapping[str, object]]:
        """One JSON object for each line of a file."""


@dataclass(frozen=True)
class LoadRow:
    """One rung of the ladder. ``result`` holds the records and the client's health; ``seed``: what makes its requests
    again; ``notes``: what else to know; ``servers``, ``gpus``: what these reported meanwhile, over the window;
    ``samples``: all of it, by file name; ``dataset``: what was understood of it."""

    load: Load
    result: LoadResult
    measurement: Measurement
    workload: Workload
    target: Target
    emulated: bool = False
    seed: int = 0
    notes: tuple[str, ...] = ()
    servers: dict[str, dict[str, float]] | None = None
    gpus: GpuSummary | None = None
    samples: Mapping[str, Sampled] = field(default_factory=dict, repr=False)
    dataset: DatasetSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the records."""
        return {
            "load": load_to_json(self.load),
            "emulated": self.emulated,
            "seed": self.seed,
            "dataset": summary_to_json(self.dataset) if self.dataset else None,
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


@dataclass(frozen=True)
class LadderStart:
    """What a person should see before anything is sent. ``drawn``: nobody gave the seed. ``dataset``: what was
    understood of it. ``kept``: folders of rungs that the same command measured before."""

    seed: int
    drawn: bool
    resumed: bool
    dataset: DatasetSummary | None
    api: Api
    loads: tuple[Load, ...]
    kept: tuple[Path, ...]


def run_ladder(
    options: LoadOptions,
    output: Path | None,
    on_progress: Callable[[Load, Progress], None],
    on_row: Callable[[LoadRow, Path | None], None] = lambda row, folder: None,
    read_metrics: ReadSamples = read_prometheus,
    on_start: Callable[[LadderStart], None] = lambda start: None,
) -> list[LoadRow]:
    """Run every load in turn; with ``output`` each gets a folder with its records and figures.

    A load that the same command measured to its end in ``output`` before is kept. ``on_start`` is called before
    anything is sent, ``on_row`` with each load when it is measured, and its folder. With ``give_up`` the ladder ends
    at the load that was given up. ``read_metrics`` reads the answers of ``options.server_metrics``.

    Raises:
        UserError: a ladder that is not numbers, none at all, a URL, key or file that is not there, a folder in use.
    """
    workload, goal = options.workload(), options.goal()
    target = options.target()
    request_url(target)
    check_addresses(options.server_metrics)
    source = _prompt_source(options, workload)
    target = replace(target, spell=source.spell, api="chat" if source.chat else target.api)
    loads = options.loads(source.num_entries, source.timed, source.why_no_unit)
    ladder = open_ladder(output, options.seed)
    source.seed = ladder.seed
    command = fingerprint({**asdict(replace(target, spell=None, headers=())), "workload": workload_to_json(workload)})
    done = [load for load in loads if ladder.is_done(load.label, command)]
    start = _describe_start(ladder, target, source, loads, done)
    on_start(start)
    emulated = len(done) < len(loads) and _is_emulated(target)
    rows: list[LoadRow] = []
    for load in loads:
        job, again = _next_job(ladder, load, LoadJob(target, load, workload, source.vocab_size, ladder.seed), source)
        if load in done:
            if ladder.was_given_up(load.label):
                break
            if not ladder.resumed:
                _use_up(ladder, job, source)
            continue
        if options.warm_prompts:
            job = replace(job, distinct=count_distinct(load))
        folder = ladder.make_folder(load.label, command)
        ladder.begin(load.label, command, _after(ladder, job, source))
        row = _run_load(options, job, source, goal, on_progress, read_metrics, folder)
        row = replace(row, emulated=emulated, dataset=start.dataset, notes=_with_repeats(row, again))
        rows.append(row)
        if folder:
            _write(folder, row)
        on_row(row, folder)
        if row.result.aborted == "stopped on request":
            raise KeyboardInterrupt
        if row.result.aborted or (row.result.ended_early or "").startswith("given up"):
            break
        if isinstance(load, Concurrency) and load.seconds:
            used = int(columns_of(row.result.records).ints("seq").max(initial=0)) + 1
            ladder.finished(max(_next_seq(job), used))
    return rows


def _describe_start(
    ladder: Ladder, target: Target, source: PromptSource, loads: Sequence[Load], done: Sequence[Load]
) -> LadderStart:
    kept = tuple(ladder.folder / load.label for load in done if ladder.folder)
    return LadderStart(ladder.seed, ladder.drawn, ladder.resumed, source.summary(), target.api, tuple(loads), kept)


def _prompt_source(options: LoadOptions, workload: Workload) -> PromptSource:
    """Reads the workload's files. Raises UserError: one that is not read, or messages for the completions API."""
    source = PromptSource(workload, options.vocab_size or DEFAULT_VOCAB)
    if source.tokenizer_size is not None and options.vocab_size is None:
        source.vocab_size = source.tokenizer_size
    source.chat = options.api == "chat" or (options.api is None and source.wants_chat)
    return source


def _next_job(ladder: Ladder, load: Load, job: LoadJob, source: PromptSource) -> tuple[LoadJob, bool]:
    """What ``load`` sends, and whether that is sent again: requests go on being numbered across the ladder, and a
    data set's own prompts are used up, so that no load finds another one's prefix in the cache."""
    job = replace(job, first_seq=ladder.next_seq, rung=ladder.rung)
    if not source.fixed or not ladder.skip:
        return job, False
    if source.entries_for(load.num_requests, ladder.skip) is None:
        return job, True
    return replace(job, skip=ladder.skip), False


def _after(ladder: Ladder, job: LoadJob, source: PromptSource) -> tuple[int, int]:
    """Number of the next request, and entries of the data set that are used up, once ``job`` is over."""
    load = job.load
    next_seq = _next_seq(job)
    endless = isinstance(load, Concurrency) and load.seconds > 0
    used = source.entries_for(load.num_requests, job.skip) if source.fixed and not endless else None
    used = used if used is not None else source.num_entries or 0
    return next_seq + (ENDLESS if endless else 0), max(ladder.skip, used)


def _next_seq(job: LoadJob) -> int:
    """Number after those of the job's requests and warm-up."""
    return job.first_seq + job.load.num_requests + job.load.warmup


def _use_up(ladder: Ladder, job: LoadJob, source: PromptSource) -> None:
    """A rung that was measured before counts, so that the ones after it send what they would have sent."""
    ladder.next_seq, ladder.skip = _next_seq(job), _after(ladder, job, source)[1]
    ladder.rung += 1


def _with_repeats(row: LoadRow, again: bool) -> tuple[str, ...]:
    if not again or columns_of(row.result.records).known("cached_tokens").any():
        return row.notes
    return (*row.notes, SENT_AGAIN)


SENT_AGAIN = (
    "the data set does not last for the ladder: prompts of an earlier load were sent again, and a prefix cache makes "
    "this one look faster; give --num-requests so that it lasts, or restart the server between loads"
)


def _run_load(
    options: LoadOptions,
    job: LoadJob,
    source: PromptSource,
    goal: Goodput | None,
    on_progress: Callable[[Load, Progress], None],
    read_metrics: ReadSamples,
    folder: Path | None,
) -> LoadRow:
    load = job.load
    poller = MetricsPoller(options.server_metrics, read=read_metrics, folder=folder)
    with _stop_on_signal() as stop, poller as servers, GpuSampler(folder=folder) as gpus:
        if job.distinct:
            warm_prompts(job, source, stop)
        result = send_load(
            job,
            source,
            rules=options.early(),
            senders=Senders(options.processes),
            stop=stop,
            on_progress=lambda progress: on_progress(load, progress),
            folder=folder,
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
    samples: dict[str, Sampled] = {"server_metrics.jsonl": servers.samples, "gpus.jsonl": gpus}
    row = LoadRow(load, result, measured, job.workload, job.target, seed=job.seed, notes=tuple(notes))
    return replace(row, servers=summary, gpus=watts, samples=samples)


def _is_emulated(target: Target) -> bool:
    url = urlsplit(request_url(target))
    if url.scheme != "http" or url.hostname is None:
        return False
    return server_version(url.hostname, url.port or 80).emulated


def _write(folder: Path, row: LoadRow) -> None:
    write_records(folder / "warmup.parquet", row.result.warmup)
    write_records(folder / "records.parquet", row.result.records)
    for name, sampled in row.samples.items():
        if len(sampled):
            write_lines(folder / name, sampled.lines())
    write_json(folder / "measurement.json", row.to_json())


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Ctrl-C, and what `timeout`, `scancel` and a closed terminal send, end the load in order: what was measured so
    far is kept and shown."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
