"""Which tool wrote a file, and what it holds: loads, or rows of a rate table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ratematch.errors import UserError
from ratematch.exchange.results import aiconfigurator, aiperf, benchmark_serving, inferencex
from ratematch.exchange.results.foreign import ForeignLoad, Hints, lay_over
from ratematch.match.table import TableRow


def read_foreign(path: Path) -> tuple[list[ForeignLoad], list[TableRow]]:
    """What a file of AIPerf, ``benchmark_serving``, InferenceX or AIConfigurator holds, whichever of them wrote it.

    Raises:
        UserError: it cannot be read, or is of none of them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text") from error
    name = str(path)
    if path.suffix == ".csv":
        return [], aiconfigurator.read_rates(text, name)
    if path.suffix == ".jsonl":
        load = aiperf.read_lines(text.splitlines(), name)
        return [replace(load, hints=lay_over(_read_summary_beside(path), load.hints))], []
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    rows = content if isinstance(content, list) else [content]
    if rows and all(inferencex.is_row(row) for row in rows):
        places = [f"row {number}" if len(rows) > 1 else "" for number in range(1, len(rows) + 1)]
        return [inferencex.read_row(row, name, place) for row, place in zip(rows, places, strict=True)], []
    if aiperf.is_summary(content):
        return [aiperf.read_summary(content, name)], []
    if benchmark_serving.is_result(content):
        return [benchmark_serving.read_result(content, name)], []
    raise UserError(
        f"{path}: of none of the tools that can be imported: AIPerf's profile_export.jsonl and "
        "profile_export_aiperf.json, benchmark_serving's result JSON, InferenceX rows, AIConfigurator's CSV"
    )


def _read_summary_beside(path: Path) -> Hints:
    """What the summary that AIPerf writes beside its records says of model and load."""
    summary = path.with_name(aiperf.SUMMARY_FILE)
    if not summary.exists():
        return Hints()
    content = json.loads(summary.read_text(encoding="utf-8"))
    return aiperf.read_config(content) if aiperf.is_summary(content) else Hints()
