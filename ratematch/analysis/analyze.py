"""A results folder to its figures and its Analysis: what ``ratematch pareto`` shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratematch.analysis.rows import find_gpus_per_node, find_links, measured_in_detail
from ratematch.errors import ResultsError
from ratematch.match.analysis import analyze
from ratematch.match.points import Analysis
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import to_json
from ratematch.measure.serverside import measure_run
from ratematch.plan.load import Constraints
from ratematch.store import layout
from ratematch.store.files import write_json
from ratematch.store.folder import Results
from ratematch.store.records import read_records


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
    """What an analysis is made from. ``question``: filled in by the sweep's limits and the cluster's nodes; the size
    of a node is ``None`` when there were several. ``imported``: what was measured by other tools, in words.
    """

    sweep: str
    measured: tuple[Measured, ...]
    question: Question
    imported: tuple[str, ...] = ()

    @property
    def constraints(self) -> Constraints:
        """The limits, and where they are judged."""
        return self.question.constraints

    def asking(self, question: Question) -> Inputs:
        """The same measurements with another question; what it leaves open is as it was."""
        return replace(self, question=question.filled_in(self.question))


def read_inputs(results: Results, question: Question | None = None) -> Inputs:
    """Everything measured; what ``question`` leaves open is as the sweep has it.

    Raises:
        ResultsError: no limits.json, or nothing measured yet.
    """
    kept = results.limits()
    limits = Question(kept.ttft_ms, kept.tpot_ms, kept.percentile, kept.max_gpus)
    measured = measured_in_detail(results)
    if not measured:
        raise ResultsError(f"{results.path}: no load is measured yet; run `ratematch sweep` again to go on")
    sweep = replace(limits, gpus_per_node=find_gpus_per_node(results))
    filled_in = (question or Question()).filled_in(sweep)
    return Inputs(kept.name, tuple(measured), filled_in, tuple(_count_imported(results)))


def analyze_inputs(inputs: Inputs) -> Analysis:
    """Match and compare ``inputs``.

    Raises:
        ResultsError: emulated and real results in one folder, or nodes of several sizes where their size matters.
    """
    question = inputs.question
    if question.packing is None and (question.nodes is not None or question.objective == "per_allocated_gpu"):
        raise ResultsError(f"{inputs.sweep}: nodes of several sizes were used; give --gpus-per-node")
    analysis = analyze(inputs.measured, question, sweep=inputs.sweep, links=find_links(inputs.measured))
    if not inputs.imported:
        return analysis
    workloads = (replace(workload, notes=(*inputs.imported, *workload.notes)) for workload in analysis.workloads)
    return replace(analysis, workloads=tuple(workloads))


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
