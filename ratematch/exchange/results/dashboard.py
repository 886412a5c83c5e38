"""The CSV that InferenceX's dashboard exports, as rows of its files. Pure.

Its columns say ms and hold seconds (the dashboard writes the figures of its database under heads of its chart), and
copies with real milliseconds go round. Which it is, is told by the row itself: TPOT x tok/s/user is 1 s, or 1000 ms.
A figure that the database has not is 0 there. Of a disaggregated deployment it has GPUs, not servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ratematch.errors import UserError
from ratematch.exchange.results.fields import flag, positive, text
from ratematch.exchange.results.foreign import ForeignLoad
from ratematch.exchange.results.inferencex import read_row

COLUMNS = {
    "Model": "model",
    "ISL": "isl",
    "OSL": "osl",
    "Framework": "framework",
    "Precision": "precision",
    "Concurrency": "conc",
    "Throughput/GPU (tok/s)": "tput_per_gpu",
    "Output Throughput/GPU (tok/s)": "output_tput_per_gpu",
    "Input Throughput/GPU (tok/s)": "input_tput_per_gpu",
    "Disaggregated": "disagg",
    "Num Prefill GPUs": "num_prefill_gpu",
    "Num Decode GPUs": "num_decode_gpu",
    "Spec Decoding": "spec_decoding",
    "EP": "ep",
    "DP Attention": "dp_attention",
    "Is Multinode": "is_multinode",
}
"""Columns and the keys of a row of the files."""
TIMES = {"TTFT": "ttft", "TPOT": "tpot", "ITL": "itl", "E2E Latency": "e2el"}
NAMES = {"Mean": "mean", "Median": "median", "P90": "p90", "P95": "p95", "P99": "p99", "Std": "std"}
SPEED = "{} Interactivity (tok/s/user)"
NEEDED = ("Hardware", "Concurrency", "Throughput/GPU (tok/s)", "Mean TPOT (ms)")


def is_table(header: Sequence[str]) -> bool:
    """Is this the dashboard's table, by its columns?"""
    return set(NEEDED) <= set(header)


def read_line(cells: Mapping[str, str], file: str, place: str) -> ForeignLoad:
    """One line of the table.

    Raises:
        UserError: as :func:`ratematch.exchange.results.inferencex.read_row`, or the unit of its times is not told.
    """
    where = f"{file}: {place}"
    per_second = _find_unit(cells, where)
    row: dict[str, object] = {key: cells.get(column) or None for column, key in COLUMNS.items()}
    row["hw"] = text(cells, "Hardware", where) or text(cells, "Hardware Key", where)
    apart = flag(row, "disagg")
    row["num_gpus" if apart else "tp"] = cells.get("TP") or None  # of a disaggregated row, the GPUs of all
    if not apart:
        row["num_prefill_gpu"] = row["num_decode_gpu"] = None
    for statistic, name in NAMES.items():
        for column, key in TIMES.items():
            value = positive(cells, f"{statistic} {column} (ms)", where)
            row[f"{name}_{key}"] = None if value is None else value / per_second
        row[f"{name}_intvty"] = positive(cells, SPEED.format(statistic), where)
    return read_row(row, file, place)


def _find_unit(cells: Mapping[str, str], where: str) -> float:
    """How many of the unit of its times make a second: 1 or 1000."""
    for statistic in ("Mean", "Median"):
        step, speed = (
            positive(cells, f"{statistic} TPOT (ms)", where),
            positive(cells, SPEED.format(statistic), where),
        )
        if step and speed:
            for per_second in (1.0, 1000.0):
                if 0.5 < step * speed / per_second < 2:
                    return per_second
            raise UserError(f"{where}: {statistic} TPOT {step:g} and {speed:g} tok/s/user fit neither s nor ms")
    raise UserError(f"{where}: no TPOT and tok/s/user of one kind, so nothing tells whether its times are s or ms")
