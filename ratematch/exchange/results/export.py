"""A results folder in the formats of other tools: what stands in ratematch's store, load by load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ratematch.analysis.analyze import read_inputs
from ratematch.analysis.flatrows import load_row, request_rows
from ratematch.errors import UserError
from ratematch.exchange.results import aiperf
from ratematch.exchange.results.benchmark_serving import benchmark_serving_result
from ratematch.exchange.results.foreign import RunInfo
from ratematch.exchange.results.inferencex import make_row
from ratematch.measure.records import RequestRecord
from ratematch.plan.experiment import Experiment
from ratematch.store import layout
from ratematch.store.damage import Damage, readable
from ratematch.store.files import plain_text, write_aside
from ratematch.store.folder import ExperimentFolder, Results, StoredLoad

Form = Literal["aiperf", "benchmark-serving", "inferencex", "csv"]
LOADS_CSV, REQUESTS_CSV = "loads.csv", "requests.csv"


def export_results(results: Results, form: Form, output: Path) -> tuple[list[Path], list[str]]:
    """Write every finished load of ``results`` below ``output``; returns the files, and notes on what has none.

    AIPerf: ``<experiment>/<load>/profile_export.jsonl`` and ``profile_export_aiperf.json``. benchmark_serving:
    ``<experiment>/<load>.json``, with per-request lists. InferenceX: ``agg_<experiment>_<load>.json``, a row each,
    of aggregated and end-to-end loads. csv: ``loads.csv`` and ``requests.csv``. What cannot be used is left out.

    Raises:
        UserError: nothing in the folder fits the format.
    """
    notes: list[str] = []
    match form:
        case "csv":
            written = _write_csv(results, output, notes)
        case "inferencex":
            written = list(_write_rows(results, output, notes))
        case _:
            written = list(_write_records(results, form, output, notes))
    if not written:
        raise UserError(f"{results.path}: nothing to write as {form}: " + ("; ".join(notes) or "no finished load"))
    return written, notes


def _stored(results: Results, notes: list[str]) -> Iterator[tuple[ExperimentFolder, Experiment, StoredLoad]]:
    """Every finished load that can be used, but for those run for a breakdown only; ``notes`` has the files that
    cannot."""
    now = results.now()
    notes += [damage.describe(results.path) for damage in now.damaged]
    for part in now.experiments:
        for stored in part.loads:
            if not stored.load.breakdown:
                yield part.folder, part.experiment, stored


def _write_records(results: Results, form: Form, output: Path, notes: list[str]) -> Iterator[Path]:
    for folder, experiment, stored in _stored(results, notes):
        if not stored.has(layout.RECORDS):
            notes.append(f"{folder.path.name}/{stored.folder.name}: has no requests, only figures; left out")
            continue
        damaged: list[Damage] = []
        records, info = readable(stored.records, damaged), _make_info(experiment, stored)
        warmup = readable(partial(_warmup, stored), damaged)
        notes += [damage.describe(results.path) for damage in damaged]
        if records is None:
            continue
        place = output / folder.path.name
        if form == "benchmark-serving":
            yield _write_json(place / f"{stored.folder.name}.json", benchmark_serving_result(records, info))
            continue
        place = place / stored.folder.name
        lines = aiperf.profile_export_lines(records, info, warmup or [])
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        yield write_aside(place / aiperf.RECORDS_FILE, text.encode("utf-8"))
        yield _write_json(place / aiperf.SUMMARY_FILE, aiperf.profile_export_aiperf(records, info))


def _warmup(stored: StoredLoad) -> list[RequestRecord]:
    return stored.records(layout.WARMUP) if stored.has(layout.WARMUP) else []


def _make_info(experiment: Experiment, stored: StoredLoad) -> RunInfo:
    """What an exported file says of the run; the records' clock is tied to the wall clock where the load tells it."""
    start, wall = stored.run.start_ns, stored.run.wall_start_ns
    offset = 0 if wall is None or start is None else wall - start
    return RunInfo(experiment.model, "", stored.load, wall_offset_ns=offset, emulated=experiment.emulated)


def _write_rows(results: Results, output: Path, notes: list[str]) -> Iterator[Path]:
    for folder, experiment, stored in _stored(results, notes):
        name = f"{folder.path.name}_{stored.folder.name}"
        if not stored.measurement.valid:
            notes.append(f"{name}: not valid; left out")
            continue
        row = make_row(experiment, stored.load, stored.measurement)
        if row is not None:
            yield _write_json(output / f"agg_{name}.json", row)


def _write_csv(results: Results, output: Path, notes: list[str]) -> list[Path]:
    inputs = read_inputs(results)
    damaged: list[Damage] = []
    frames = {
        LOADS_CSV: pd.DataFrame([load_row(row) for row in inputs.measured]),
        REQUESTS_CSV: pd.DataFrame(list(request_rows(results, inputs.measured, damaged))),
    }
    notes += [*inputs.damaged, *(damage.describe(results.path) for damage in damaged)]
    return [
        write_aside(output / name, _plain(frame).to_csv(index=False, lineterminator="\n").encode("utf-8"))
        for name, frame in frames.items()
    ]


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with texts that no spreadsheet runs."""
    return frame.map(lambda value: plain_text(value) if isinstance(value, str) else value)


def _write_json(path: Path, content: dict[str, Any]) -> Path:
    return write_aside(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("utf-8"))
