"""A results folder to its figures and its Analysis: what ``ratematch pareto`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ratematch.detail import find_gpus_per_node, find_site, measured_in_detail
from ratematch.errors import ResultsError
from ratematch.loadgen.recordfile import read_records
from ratematch.loadgen.servermetrics import doubt_iterations
from ratematch.match.analysis import analyze
from ratematch.match.matching import Objective
from ratematch.match.packing import Packing
from ratematch.match.points import Analysis, Measured
from ratematch.match.servicetime import Routing
from ratematch.match.serving import say_limits
from ratematch.measure.measurement import Measurement, measure_load, to_json
from ratematch.measure.records import RequestRecord
from ratematch.plan.constraints import Constraints, Percentile
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.plan.serverlog import log_tok_s
from ratematch.store import Results, read_json, write_json

LIMITS = "limits.json"

ACCEPTANCE_EDGE = 0.02
"""How near to 1 (nothing accepted) or to MTP + 1 (everything) an acceptance length is not believed."""

LOG_DIFFERS = 0.1
"""How far tok/s by log and by client may lie apart without a word: known bias is 7.5 % and more (contract, 5.5)."""

MISSED = 0.05
"""Share of prompt tokens that may be missing from a warmed prefix cache: 5 % of 2,048 tokens are a short step."""

EMULATOR_LATE = 0.05
"""Share of its busy time by which the emulator may end steps late before its figures are not believed."""


def measure_run(
    records: Sequence[RequestRecord], load: Load, experiment: Experiment, run: dict[str, Any]
) -> Measurement:
    """The figures of one load: its records, judged together with what ``loadrun.json`` says of the servers.

    An emulator that could not keep its own step times makes the load not valid: the figures would be this
    machine's, not those of the GPU it stands for. In ``gen_only`` there is no TTFT: the first requests wait for the
    whole batch, and what later ones wait for is a supply that nobody sized. In ``gen_only_warmed`` there is none
    either, because prompts are found and not computed; where they were not found, the load is not valid.
    """
    measured = measure_load(records, load, experiment.workload, client=run.get("client"))
    figures = _add_servers_account(measured, experiment, run)
    late = [
        f"the emulator {name} ended its steps {spent['late_s'] + spent['lost_s']:.2f} s late "
        f"in {spent['busy_s']:.2f} s: this machine is too slow for the load"
        for name, spent in run.get("emulator", {}).items()
        if spent["late_s"] + spent["lost_s"] > EMULATOR_LATE * spent["busy_s"]
    ]
    warnings = (
        *figures.warnings,
        *_doubt_acceptance(experiment, figures),
        *_doubt_log(experiment, figures),
        *_doubt_connections(run),
        *_doubt_servers(experiment, run),
        *_doubt_warming(run),
    )
    late += _computed_again(run)
    if experiment.mode in ("gen_only", "gen_only_warmed"):
        figures = replace(figures, ttft_ms=None, e2el_ms=None)
        warnings = (*warnings, f"{experiment.mode}: TTFT is not reported, TPOT is")
    return replace(figures, valid=figures.valid and not late, reasons=(*figures.reasons, *late), warnings=warnings)


def _computed_again(run: dict[str, Any]) -> list[str]:
    """Prompts that were not in the prefix cache were computed between decode steps: TPOT is not that of decoding."""
    told = run.get("warmed")
    if told is None:
        return []
    if told["failed"]:
        return [f"{told['failed']} of {told['prompts']} prompts could not be warmed: {'; '.join(told['errors'])}"]
    found, expected = told["hit_rate"], told["expected"]
    if found is None or expected is None or found >= expected - MISSED:
        return []
    return [
        f"the prefix cache held {found:.0%} of the prompts, {expected:.0%} were expected: they were computed again "
        "between decode steps; lower the concurrency, or give the KV cache more room"
    ]


def _add_servers_account(figures: Measurement, experiment: Experiment, run: dict[str, Any]) -> Measurement:
    """``figures`` with what only the servers know: the acceptance length of drafts, and tok/s by log.

    The length that answers tell counts the iteration of the prompt, which drafts nothing: at short OSL it is too low,
    so it stands in only where ``/metrics`` has none. Log and client count differently: the log at full batch, the
    client over everything that happened in the window.
    """
    told = run.get("telemetry", {}).get("acceptance_length")
    figures = replace(figures, acceptance_length=told or figures.acceptance_length)
    spans = run.get("log", {}).values()
    # Without MTP a step is a token; with it and without a measured length nothing can be said.
    tokens = figures.acceptance_length or (None if experiment.deployment.mtp else 1.0)
    if not spans or tokens is None:
        return figures
    return replace(figures, tok_s_log=sum(log_tok_s(span["in_flight"], span["step_ms"], tokens) for span in spans))


def _doubt_log(experiment: Experiment, figures: Measurement) -> list[str]:
    """Where the batch is meant to be full, log and client should agree; the log does not see what lies around it."""
    if experiment.stage != "gen" or not figures.tok_s_log or not figures.tok_s:
        return []
    difference = figures.tok_s_log / figures.tok_s - 1
    if abs(difference) <= LOG_DIFFERS:
        return []
    return [
        f"the log says {figures.tok_s_log:.0f} tok/s at full batch, the client {figures.tok_s:.0f}: {difference:+.0%}"
    ]


def _doubt_connections(run: dict[str, Any]) -> list[str]:
    told = run.get("connections")
    if not told or not told["failed"]:
        return []
    return [
        f"{told['failed']} of {told['requests']} requests to open connections failed: {'; '.join(told['errors'])}"
    ]


def _doubt_servers(experiment: Experiment, run: dict[str, Any]) -> list[str]:
    """Queueing and a full KV cache where requests are generated; a context server's queue is a part of its TTFT."""
    told = run.get("telemetry", {}).get("window", {})
    if experiment.stage == "ctx":
        return []
    servers = {name: dict(figures) for name, figures in told.items() if not name.startswith("ctx")}
    if experiment.mode == "gen_only_warmed":  # there, hits are what is wanted
        for figures in servers.values():
            figures.pop("cache_hit_rate", None)
    return [
        text for name, figures in servers.items() for text in doubt_iterations(name, figures, experiment.workload)
    ]


def _doubt_warming(run: dict[str, Any]) -> list[str]:
    told = run.get("warmed")
    if told is None or told["failed"] or told["hit_rate"] is not None:
        return []
    return ["the server does not tell how much of the warmed prompts it found; TPOT may hold prefill"]


def _doubt_acceptance(experiment: Experiment, figures: Measurement) -> list[str]:
    """Known trouble: MTP that accepts nothing, or everything, which no real text does (contract, section 9)."""
    mtp, measured = experiment.deployment.mtp, figures.acceptance_length
    if not mtp or experiment.stage == "ctx" or not figures.num_ok:
        return []
    if measured is None:
        return ["MTP is on and the server does not tell how many drafts it accepts"]
    if measured < 1 + ACCEPTANCE_EDGE or measured > mtp + 1 - ACCEPTANCE_EDGE:
        told = f"MTP {mtp} yields {measured:.2f} tokens an iteration"
        return [f"{told}: nothing or everything is accepted; check the draft layers and the prompts"]
    return []


def remeasure(results: Results) -> int:
    """Compute the figures of every load measured here anew from its records; returns how many loads that were.

    Raises:
        ResultsError: records that cannot be read. DiskFull: no room for the new figures (the old ones stay).
    """
    count = 0
    for folder in results.folders():
        experiment = folder.read()
        for stored in folder.loads():
            if stored.run.get("origin"):  # of another tool: its figures are what they were, records or not
                continue
            records = read_records(stored.folder / "records.parquet")
            figures = measure_run(records, stored.load, experiment, stored.run)
            write_json(stored.folder / "measurement.json", to_json(figures))
            count += 1
    return count


def write_limits(results: Results, name: str, constraints: Constraints, max_gpus: int) -> None:
    """Keep what an analysis needs of the sweep file, so that the folder can be read without the file."""
    content = {
        "name": name,
        "max_gpus": max_gpus,
        "ttft_ms": constraints.ttft_ms,
        "tpot_ms": constraints.tpot_ms,
        "percentile": constraints.percentile,
    }
    write_json(results.path / LIMITS, content)


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
    kept = _read_limits(results)
    constraints = _constraints(kept, ttft_ms, tpot_ms, percentile)
    measured = measured_in_detail(results)
    if not measured:
        raise ResultsError(f"{results.path}: no load is measured yet; run `ratematch sweep` again to go on")
    return Inputs(
        kept["name"],
        tuple(measured),
        constraints,
        max_gpus,
        kept["max_gpus"],
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
        if origin := stored.run.get("origin"):
            tools[origin["tool"]] = tools.get(origin["tool"], 0) + 1
    return [
        f"{count} of {len(every)} loads are imported from {tool}, not measured by ratematch: definitions differ"
        for tool, count in sorted(tools.items())
    ]


def _read_limits(results: Results) -> dict[str, Any]:
    file = results.path / LIMITS
    if not file.exists():
        raise ResultsError(f"{results.path}: no {LIMITS} here; give a folder that `ratematch sweep` made")
    kept: dict[str, Any] = read_json(file)
    return kept


def _constraints(
    kept: dict[str, Any], ttft_ms: float | None, tpot_ms: float | None, percentile: Percentile | None
) -> Constraints:
    """The sweep's limits, with those that are given in their place."""
    return Constraints(
        kept["ttft_ms"] if ttft_ms is None else ttft_ms,
        kept["tpot_ms"] if tpot_ms is None else tpot_ms,
        kept["percentile"] if percentile is None else percentile,
    )


def say_limits_of(
    results: Results,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    percentile: Percentile | None = None,
) -> str:
    """The limits that :func:`analyze_inputs` judges by, in words."""
    return say_limits(_constraints(_read_limits(results), ttft_ms, tpot_ms, percentile))
