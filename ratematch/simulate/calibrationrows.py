"""Points of a calibration from a table of whole deployments, as ``benchmarks/real_deployments/rows.csv`` has them.

A row's TPOT is that of its gen servers at the number of requests that generate in them (Little's law, of the row's
own figures). Its request rate is what its ctx servers reach where requests wait for those, and not for room in
generation. Aggregated rows are left out: a few of them cannot tell prompts from generation.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from ratematch.errors import Problem, TableError, UserError
from ratematch.plan.deployment import Deployment, Options, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.load import Concurrency
from ratematch.plan.memory import default_precision
from ratematch.plan.numbers import brief, parse_number, parse_whole
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.precision import read_precision
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.simulate.calibrationpoints import MeasuredSpeed

NEEDED = (
    "kind",
    "gpu",
    "precision",
    "isl",
    "osl",
    "gen",
    "concurrency",
    "gpus",
    "out_tok_s_gpu",
    "tpot_ms",
    "ttft_ms",
)
WAITING_STEPS = 2
"""Requests wait for ctx servers where more than this many full steps of them are in front of generation."""
FULL = 0.9
"""Generation is full from this share of its batch size on."""


@dataclass(frozen=True)
class _Row:
    """One row. Lengths are means, rates are of the whole deployment."""

    isl: float
    osl: float
    generating: float
    req_s: float
    tpot_s: float
    ttft_s: float
    workload: Workload


def is_deployment_table(text: str) -> bool:
    """Whether the first line of ``text`` has the columns that tell such a table from one of rates."""
    header = text.partition("\n")[0].split(",")
    return {"kind", "out_tok_s_gpu"} <= {cell.strip() for cell in header}


def speeds_of_deployments(text: str, sweep: Sweep, name: str) -> list[MeasuredSpeed]:
    """What the disaggregated rows of the GPU type and weight format of ``sweep`` say; ``name``: of the table.

    Raises:
        TableError: with every such row that lacks a figure. UserError: no row is of the sweep's GPU and format.
    """
    reader = csv.DictReader(io.StringIO(text))
    if missing := [column for column in NEEDED if column not in (reader.fieldnames or ())]:
        raise TableError([Problem(name, f"row 1: no column {missing[0]!r}", f"columns: {', '.join(NEEDED)}")])
    precision = default_precision(sweep.model, sweep.gpu)
    speeds: list[MeasuredSpeed] = []
    problems: list[Problem] = []
    for number, cells in enumerate(reader, start=2):
        try:
            same = cells["gpu"] == sweep.cluster.gpu and read_precision(cells["precision"], sweep.gpu) == precision
            if same and cells["kind"] == "disagg":
                speeds += _speeds(cells, sweep)
        except (ValueError, AttributeError) as error:
            problems.append(Problem(f"{name}: row {number}", str(error)))
    if problems:
        raise TableError(problems)
    if not speeds:
        raise UserError(f"{name}: no row with kind disagg is of {sweep.cluster.gpu} and {precision}, as the sweep is")
    return speeds


def _number(cells: Mapping[str, str], column: str, usual: float | None = None) -> float:
    text = (cells.get(column) or "").strip()
    if not text and usual is not None:
        return usual
    try:
        value = parse_number(text)
    except ValueError as error:
        raise ValueError(f"{column}: {brief(text)} must be {error}") from None
    if value <= 0:
        raise ValueError(f"{column}: {brief(text)} must be above 0")
    return value


def _whole(cells: Mapping[str, str], column: str) -> int | None:
    text = (cells.get(column) or "").strip()
    try:
        return parse_whole(text) if text else None
    except ValueError as error:
        raise ValueError(f"{column}: {brief(text)} must be {error}") from None


def _read(cells: Mapping[str, str], sweep: Sweep) -> _Row:
    ratio = _number(cells, "length_ratio", 1.0)
    isl, osl = _whole(cells, "isl") or 0, _whole(cells, "osl") or 0
    if isl < 1 or osl < 2 or ratio > 1:
        raise ValueError("isl, osl and length_ratio must be 1 or more, 2 or more, and 1 at most")
    mean_osl = osl * (1 + ratio) / 2
    tpot_s, ttft_s = _number(cells, "tpot_ms") / 1000, _number(cells, "ttft_ms") / 1000
    decoding_s = tpot_s * (mean_osl - 1)
    return _Row(
        isl * (1 + ratio) / 2,
        mean_osl,
        _number(cells, "concurrency") * decoding_s / (decoding_s + ttft_s),
        _number(cells, "out_tok_s_gpu") * _number(cells, "gpus") / mean_osl,
        tpot_s,
        ttft_s,
        Workload(isl, osl, ratio, ratio, precision=sweep.workloads[0].precision),
    )


def _group(cells: Mapping[str, str], role: str) -> ServerGroup:
    backend = (cells.get(f"{role}_moe_backend") or "").strip()
    options: Options = {"moe_config": {"backend": backend}} if backend else {}
    return ServerGroup(
        "ctx" if role == "ctx" else "gen",
        parse_mapping(cells[role]),
        _whole(cells, f"{role}_instances") or 1,
        _whole(cells, "mtp") or 0,
        _whole(cells, f"{role}_max_batch_size"),
        _whole(cells, f"{role}_max_num_tokens"),
        options,
    )


def _speeds(cells: Mapping[str, str], sweep: Sweep) -> list[MeasuredSpeed]:
    row, gen = _read(cells, sweep), _group(cells, "gen")
    load = Concurrency(max(gen.instances, round(row.generating)), max(gen.instances, round(row.generating)), 0)
    experiment = experiment_of(sweep, "gen", Deployment(gen=gen), row.workload, (load,))
    speeds = [MeasuredSpeed(experiment, sweep.cluster, load, None, row.tpot_s)]
    room = (gen.max_batch_size or 0) * gen.mapping.dp_ranks * gen.instances
    if not (cells.get("ctx") or "").strip() or (room and row.generating > FULL * room):
        return speeds
    ctx = _group(cells, "ctx")
    prompts = max(1, min(ctx.max_batch_size or 1, int((ctx.max_num_tokens or row.isl) // row.isl)))
    step = prompts * ctx.mapping.dp_ranks * ctx.instances
    if row.req_s * row.ttft_s > WAITING_STEPS * step:
        load = Concurrency(2 * WAITING_STEPS * step, 2 * WAITING_STEPS * step, 0)
        one_token = Workload(row.workload.isl, 1, 1.0, row.workload.isl_ratio, precision=row.workload.precision)
        experiment = experiment_of(sweep, "ctx", Deployment(ctx=ctx), one_token, (load,))
        speeds.append(MeasuredSpeed(experiment, sweep.cluster, load, row.req_s, None))
    return speeds
