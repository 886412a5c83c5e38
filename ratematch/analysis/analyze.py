"""A results folder to its figures and its Analysis: what ``ratematch pareto`` shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratematch.analysis.rows import find_gpus_per_node, find_site, measured_in_detail
from ratematch.errors import ResultsError
from ratematch.match.analysis import analyze
from ratematch.match.matching import Objective
from ratematch.match.openloop import say_limits
from ratematch.match.packing import Packing
from ratematch.match.points import Analysis
from ratematch.match.servicetime import Routing
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import to_json
from ratematch.measure.serverside import measure_run
from ratematch.plan.load import Constraints, Percentile
from ratematch.store import layout
from ratematch.store.files import write_json
from ratematch.store.folder import Results
from ratematch.store.records import read_records
from ratematch.store.sweeprun import SweepLimits


def remeasure(results: Results) -> int:
    """Compute the figures of every load measured here anew from its records; returns how many loads that were.

    Raises:
        ResultsError: records that cannot be read. DiskFull: no room for the new figures (the old ones stay).
    """
    count = 0
    for folder in results.folders():
        experiment = folder.read()
        for stored in folder.loads():
            if stored.run.imported:  # of another tool: its figures are what they were, records or not
                continue
            records = read_records(stored.folder / layout.RECORDS)
            figures = measure_run(records, stored.load, experiment, stored.run)
            write_json(stored.folder / layout.MEASUREMENT, to_json(figures))
            count += 1
    return count


def analyze_results(results: Results) -> Analysis:
    """Match and compare all that was measured, within the sweep's own limits.

    Raises:
        ResultsError: no limits.json, nothing measured yet, or results of different origins in one folder.
    """
    return analyze_inputs(read_inputs(results))


@dataclass(frozen=True)
class Inputs:
    """What an analysis is made from. ``max_gpus``: largest deployment planned, ``None`` = the sweep's, in ``limits``.

    ``gpus_per_node``: of the cluster it was measured on, ``None`` when there were several sizes. ``imported``: what
    was measured by other tools, in words.
    """

    sweep: str
    measured: tuple[Measured, ...]
    constraints: Constraints
    max_gpus: int | None
    sweep_max_gpus: int
    gpus_per_node: int | None = None
    imported: tuple[str, ...] = ()


def read_inputs(
    results: Results,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    percentile: Percentile | None = None,
    max_gpus: int | None = None,
) -> Inputs:
    """Everything measured, with the sweep's limits and those that are given in their place.

    Raises:
        ResultsError: no limits.json, or nothing measured yet.
    """
    kept = results.limits()
    constraints = _constraints(kept, ttft_ms, tpot_ms, percentile)
    measured = measured_in_detail(results)
    if not measured:
        raise ResultsError(f"{results.path}: no load is measured yet; run `ratematch sweep` again to go on")
    return Inputs(
        kept.name,
        tuple(measured),
        constraints,
        max_gpus,
        kept.max_gpus,
        find_gpus_per_node(results),
        tuple(_count_imported(results)),
    )


def analyze_inputs(
    inputs: Inputs,
    *,
    calibrate: bool = False,
    request_rate: float | None = None,
    routing: Routing = "round_robin",
    objective: Objective = "per_used_gpu",
    gpus_per_node: int | None = None,
    nodes: int | None = None,
    share_nodes: bool = True,
    segment_gpus: int | None = None,
) -> Analysis:
    """Match and compare ``inputs``.

    ``calibrate``, ``request_rate``, ``routing`` and ``objective``: see :func:`ratematch.match.analysis.analyze`.
    ``gpus_per_node``: the cluster's own unless given; ``nodes``: most of them; ``share_nodes``: may ctx and gen stand
    on one node (they do where ratematch places them); ``segment_gpus``: most GPUs of one instance.

    Raises:
        ResultsError: emulated and real results in one folder, or nodes of several sizes where their size matters.
    """
    size = gpus_per_node or inputs.gpus_per_node
    if size is None and (nodes is not None or objective == "per_allocated_gpu"):
        raise ResultsError(f"{inputs.sweep}: nodes of several sizes were used; give --gpus-per-node")
    packing = None if size is None else Packing(size, nodes, share_nodes)
    max_gpus = inputs.max_gpus
    if max_gpus is None:
        max_gpus = nodes * size if nodes and size else inputs.sweep_max_gpus
    analysis = analyze(
        inputs.measured,
        sweep=inputs.sweep,
        constraints=inputs.constraints,
        max_gpus=max_gpus,
        calibrate=calibrate,
        site=find_site(inputs.measured, packing, segment_gpus),
        request_rate=request_rate,
        routing=routing,
        objective=objective,
    )
    if not inputs.imported:
        return analysis
    return replace(
        analysis,
        workloads=tuple(replace(each, notes=(*inputs.imported, *each.notes)) for each in analysis.workloads),
    )


def _count_imported(results: Results) -> list[str]:
    """Loads that other tools measured, tool by tool: figures of two clients are never mixed in silence."""
    tools: dict[str, int] = {}
    every = [stored for folder in results.folders() for stored in folder.loads()]
    for stored in every:
        if origin := stored.run.imported:
            tools[origin.tool] = tools.get(origin.tool, 0) + 1
    return [
        f"{count} of {len(every)} loads are imported from {tool}, not measured by ratematch: definitions differ"
        for tool, count in sorted(tools.items())
    ]


def _constraints(
    kept: SweepLimits, ttft_ms: float | None, tpot_ms: float | None, percentile: Percentile | None
) -> Constraints:
    """The sweep's limits, with those that are given in their place."""
    return Constraints(
        kept.ttft_ms if ttft_ms is None else ttft_ms,
        kept.tpot_ms if tpot_ms is None else tpot_ms,
        kept.percentile if percentile is None else percentile,
    )


def say_limits_of(
    results: Results,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    percentile: Percentile | None = None,
) -> str:
    """The limits that :func:`analyze_inputs` judges by, in words."""
    return say_limits(_constraints(results.limits(), ttft_ms, tpot_ms, percentile))
