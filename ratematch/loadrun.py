"""``ratematch load``: a ladder of loads against any OpenAI-compatible server, alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ratematch.errors import UserError
from ratematch.loadgen.client import Target
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.recordfile import write_records
from ratematch.measure.measurement import Measurement, measure_load, to_json
from ratematch.plan.experiment import load_to_json
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.workload import Workload, make_requests
from ratematch.store import write_json


@dataclass(frozen=True)
class LoadOptions:
    """What was asked on the command line; ladders as the text a person typed."""

    url: str
    model: str
    concurrency: str = ""
    request_rate: str = ""
    arrival: Literal["poisson", "constant"] = "poisson"
    num_requests: int | None = None
    warmup: int | None = None
    isl: int = 1024
    osl: int = 128
    osl_ratio: float = 1.0
    vocab_size: int = 32000
    api: Literal["completions", "chat"] = "completions"
    api_key_env: str | None = None
    timeout_s: float = 3600.0
    seed: int = 0


@dataclass(frozen=True)
class LoadRow:
    """One rung of the ladder. ``result`` holds the records and the client's health."""

    load: Load
    result: LoadResult
    measurement: Measurement


def run_ladder(
    options: LoadOptions, output: Path | None, on_progress: Callable[[Load, Progress], None]
) -> list[LoadRow]:
    """Run every load in turn; with ``output`` each gets a folder with its records and figures.

    Raises:
        UserError: a ladder that is not numbers, none at all, a URL or key that is not there, or a folder in use.
    """
    workload = Workload(options.isl, options.osl, options.osl_ratio)
    loads = list(_loads(options))
    target = Target(options.url, options.model, options.api, _headers(options), options.timeout_s)
    rows: list[LoadRow] = []
    first = 0
    for load in loads:
        # Prompts go on being numbered across the ladder: no load may find another one's prefix in the cache.
        requests = make_requests(workload, load.num_requests, options.vocab_size, options.seed, first)
        first += load.num_requests
        warmup = make_requests(workload, load.warmup, options.vocab_size, options.seed + 1, first)
        first += load.warmup
        folder = _new_folder(output, load)
        with _stop_on_ctrl_c() as stop:
            result = drive(
                target,
                load,
                requests,
                warmup,
                seed=options.seed,
                stop=stop,
                on_progress=lambda progress, load=load: on_progress(load, progress),  # type: ignore[misc]
            )
        row = LoadRow(load, result, measure_load(result.records, load, workload))
        rows.append(row)
        if folder:
            _write(folder, row)
        if stop.is_set():
            raise KeyboardInterrupt
        if result.aborted:
            break
    return rows


def _loads(options: LoadOptions) -> Iterator[Load]:
    if not options.concurrency and not options.request_rate:
        raise UserError("no load: give --concurrency 1,4,16 or --request-rate 0.5,1")
    for number in _numbers("--concurrency", options.concurrency, int):
        slots = int(number)
        requests = options.num_requests or max(16, 8 * slots)
        warmup = options.warmup if options.warmup is not None else max(1, slots // 4)
        yield Concurrency(slots, requests, warmup)
    for rate in _numbers("--request-rate", options.request_rate, float):
        requests = options.num_requests or max(16, round(60 * rate))
        yield Rate(rate, requests, options.arrival, options.warmup if options.warmup is not None else 1)


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> list[float]:
    try:
        numbers = [kind(part) for part in text.replace("x", ",").split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{option} {text}: write numbers with commas between, such as 1,4,16") from error
    if any(number <= 0 for number in numbers):
        raise UserError(f"{option} {text}: every number must be greater than 0")
    return list(numbers)


def _headers(options: LoadOptions) -> tuple[tuple[str, str], ...]:
    if options.api_key_env is None:
        return ()
    key = os.environ.get(options.api_key_env)
    if not key:
        raise UserError(f"--api-key-env {options.api_key_env}: that environment variable is not set")
    return (("Authorization", f"Bearer {key}"),)


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
    write_json(folder / "measurement.json", {"load": load_to_json(row.load), **to_json(row.measurement)})


@contextmanager
def _stop_on_ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C ends the load in order: what was measured so far is still told."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
