"""Which tool wrote a file, and what it holds: loads, or rows of a rate table. Its content says so, not its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratematch.errors import UserError
from ratematch.exchange.results import aiperf, aiperfrecords, benchmark_serving, inferencex
from ratematch.exchange.results.csvtables import read_csv
from ratematch.exchange.results.documents import parse_documents, parse_json, read_text
from ratematch.exchange.results.foreign import ForeignLoad, Hints, Tool, lay_over
from ratematch.match.table import TableRow

NONE_OF_THEM = (
    "of none of the tools that can be imported: AIPerf's profile_export.jsonl and profile_export_aiperf.json, "
    "benchmark_serving's result JSON (TensorRT-LLM, vLLM, SGLang, sa-bench), InferenceX rows and its dashboard's "
    "CSV, AIConfigurator's CSV"
)
RELATIVES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset(("metadata", "payload")), f"AIPerf's raw requests; import the {aiperf.RECORDS_FILE} beside it"),
    (frozenset(("timeslices",)), f"AIPerf's figures by time slice; import the {aiperf.SUMMARY_FILE} beside it"),
    (frozenset(("benchmark_type", "runs")), "srt-slurm's rollup; import the results_*.json of its runs"),
    (
        frozenset(("scenario_type", "request_metrics")),
        f"InferenceX's row of a replayed trace, of no one ISL and OSL; import the {aiperf.RECORDS_FILE} of the run",
    ),
    (
        frozenset(("performance", "request_info")),
        "a report of trtllm-bench, of an engine without a server",
    ),
    (
        frozenset(("latencies", "avg_latency")),
        "a result of vllm bench latency, of an engine without a server",
    ),
    (
        frozenset(("elapsed_time", "requests_per_second")),
        "a result of vllm bench throughput, of an engine without a server",
    ),
    (frozenset(("batch_size", "overall_throughput")), "a result of SGLang's bench_one_batch, of batches and no load"),
)
"""Keys of files that are near those that can be imported, and what they are."""


def read_files(paths: Sequence[Path]) -> Iterator[tuple[Path, list[ForeignLoad], list[TableRow]]]:
    """What each file holds, see :func:`read_foreign`. Of several, one that cannot be read is a load that is
    ``refused``, and does not stop the others.

    Raises:
        UserError: the only file cannot be read.
    """
    for path in paths:
        try:
            loads, rows = read_foreign(path)
        except UserError as error:
            if len(paths) == 1:
                raise
            why = str(error).removeprefix(f"{path}: ")
            loads, rows = [ForeignLoad("benchmark_serving", str(path), Hints(), refused=why)], []
        yield path, loads, rows


def read_foreign(path: Path) -> tuple[list[ForeignLoad], list[TableRow]]:
    """What a file of AIPerf, ``benchmark_serving``, InferenceX or AIConfigurator holds, whichever of them wrote it.

    A file may hold several results: a list, or one after the other. Of those, one that cannot be read is a load that
    is ``refused``, with its reason.

    Raises:
        UserError: it cannot be read, is of none of them, or nothing in it can be read.
    """
    text, name = read_text(path), str(path)
    if not text.strip():
        raise UserError(f"{path}: is empty, {NONE_OF_THEM}")
    if text.lstrip()[:1] not in ("{", "[") and (
        path.suffix.lower() == ".csv" or "," in text.lstrip().split("\n", 1)[0]
    ):
        loads, rows = read_csv(text, name)
    elif _is_records(text):
        load = aiperfrecords.read_lines(text.split("\n"), name)
        return [replace(load, hints=lay_over(_read_summary_beside(path), load.hints))], []
    else:
        loads, rows = list(_read_results(text, name)), []
    if not rows and all(load.refused for load in loads):
        more = f"; and {len(loads) - 1} more" if len(loads) > 1 else ""
        raise UserError(f"{loads[0].where}: {loads[0].refused}{more}" if loads else f"{path}: {NONE_OF_THEM}")
    return loads, rows


def _is_records(text: str) -> bool:
    """Is the first line a record of AIPerf's? SGLang writes .jsonl too, and anybody may."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(first, dict)
        and "metadata" in first
        and bool({"metrics", "error"} & set(first))
        and not {"payload", "responses"} & set(first)
    )


def _read_results(text: str, name: str) -> Iterator[ForeignLoad]:
    results = list(_flatten(parse_documents(text, name)))
    for number, result in enumerate(results, 1):
        place = f"row {number}" if len(results) > 1 else ""
        where = f"{name}: {place}" if place else name
        tool: Tool = "benchmark_serving"
        try:
            if inferencex.is_row(result):
                tool = "InferenceX"
                yield inferencex.read_row(result, name, place)
            elif aiperf.is_summary(result):
                tool = "AIPerf"
                yield aiperf.read_summary(result, name, place)
            elif benchmark_serving.is_result(result):
                yield benchmark_serving.read_result(result, name, place)
            elif aiperf.is_aggregate(result):
                raise UserError(
                    f"{where}: AIPerf's figures over several runs; import the {aiperf.SUMMARY_FILE} of each"
                )
            else:
                raise UserError(f"{where}: {_name_relative(result) or NONE_OF_THEM}")
        except UserError as error:
            why = str(error).removeprefix(f"{where}: ")
            yield ForeignLoad(tool, name, Hints(), place, refused=why)


def _name_relative(result: Any) -> str:
    """What ``result`` is, if it is one of the :data:`RELATIVES`; else nothing."""
    keys = set(result) if isinstance(result, dict) else set()
    return next((what for needed, what in RELATIVES if needed <= keys), "")


def _flatten(documents: Sequence[tuple[int, Any]]) -> Iterator[Any]:
    """Each result, whether in a list, in a list of lists, or not."""
    for _, value in documents:
        for part in value if isinstance(value, list) else [value]:
            yield from part if isinstance(part, list) else [part]


def _read_summary_beside(path: Path) -> Hints:
    """What the summary that AIPerf writes beside its records says of model and load.

    Raises:
        UserError: it is there and cannot be read.
    """
    summary = path.with_name(aiperf.SUMMARY_FILE)
    if not summary.exists():
        return Hints()
    try:
        content = parse_json(read_text(summary), str(summary))
        return aiperf.read_config(content, str(summary)) if aiperf.is_summary(content) else Hints()
    except UserError as error:
        raise UserError(
            f"{error}; it stands beside {path.name} and says its load: mend it or move it away"
        ) from error
