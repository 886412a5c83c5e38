"""A results folder to its figures and its Analysis: what ``ratematch pareto`` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ratematch.analysis.joined import join_precisions
from ratematch.analysis.names import with_one_name
from ratematch.analysis.rows import find_gpus_per_node, find_links, measured_in_detail, measured_without_detail
from ratematch.errors import DamagedFile, ResultsError
from ratematch.inputs.ratetable import RACK_GPUS
from ratematch.match.analysis import analyze
from ratematch.match.points import Analysis
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.measure.serverside import measure_run
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Constraints
from ratematch.store import layout
from ratematch.store.damage import Damage, readable
from ratematch.store.folder import Results
from ratematch.store.records import records_from_bytes
from ratematch.store.snapshot import Snapshot
from ratematch.store.storedload import read_run, read_sealed
from ratematch.store.sweeprun import SweepLimits
from ratematch.store.uncollected import uncollected


def remeasure(results: Results) -> int:
    """Compute the figures of every load measured here anew from its records; returns how many loads that were.

    A load whose records cannot be used keeps the figures that it has.

    Raises:
        DiskFull: no room for the new figures (the old ones stay).
    """
    count = 0
    for stored in results.now().experiments:
        for place in stored.folder.finished_folders():
            if (anew := measure_again(place, stored.experiment)) is not None:
                stored.folder.replace_figures(place, anew)
                count += 1
    return count


def measure_again(load: Path, experiment: Experiment) -> Measurement | None:
    """The figures of the finished load in the folder ``load``, from its records; ``None`` for one of another tool,
    whose figures are what they were, and for one whose records or ``loadrun.json`` cannot be used."""
    try:
        setting, run, sealed = read_run(load)
        if run.imported:
            return None
        records = records_from_bytes(load / layout.RECORDS, read_sealed(load / layout.RECORDS, sealed))
    except DamagedFile:
        return None
    return measure_run(records, setting, experiment, run)


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
    ``damaged``: files that were left out, a line each.
    """

    sweep: str
    measured: tuple[Measured, ...]
    question: Question
    imported: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def constraints(self) -> Constraints:
        """The limits, and where they are judged."""
        return self.question.constraints

    def asking(self, question: Question) -> Inputs:
        """The same measurements with another question; what it leaves open is as it was."""
        return replace(self, question=question.filled_in(self.question))


def read_inputs(results: Results, question: Question | None = None) -> Inputs:
    """Everything measured; what ``question`` leaves open is as the sweep has it. Files that cannot be used are left
    out; without those of the sweep's limits, there are no limits but those of ``question``.

    Raises:
        ResultsError: nothing is measured yet, or nothing of it can be used.
    """
    return _inputs(results, results.now(), question or Question(), measured_in_detail)


@dataclass(frozen=True)
class Figures:
    """What :func:`read_inputs` reads, with the figures alone at first. ``inputs``: its rows have neither noise nor
    breakdown. ``stored``: what was there when it was read."""

    results: Results
    stored: Snapshot
    inputs: Inputs

    def in_detail(self) -> Inputs:
        """With noise and breakdown, from the records as they are now. A load whose records were lost since is left
        out, and ``damaged`` says so.

        Raises:
            ResultsError: nothing can be used any more.
        """
        whole = _inputs(self.results, self.stored, Question(), measured_in_detail)
        new = (line for line in whole.damaged if line not in self.inputs.damaged)
        return replace(self.inputs, measured=whole.measured, damaged=(*self.inputs.damaged, *new))


def read_figures(results: Results) -> Figures:
    """Everything measured, as far as it can be read fast.

    Raises:
        ResultsError: nothing is measured yet, or nothing of it can be used.
    """
    stored = results.now()
    return Figures(results, stored, _inputs(results, stored, Question(), measured_without_detail))


def _inputs(
    results: Results,
    stored: Snapshot,
    question: Question,
    read_rows: Callable[[Snapshot, list[Damage]], list[Measured]],
) -> Inputs:
    damaged = list(stored.damaged)
    kept = readable(results.limits, damaged) or SweepLimits.of(results.path.name, Constraints(), RACK_GPUS)
    with uncollected():
        measured = read_rows(stored, damaged)
    lines = tuple(damage.describe(results.path) for damage in damaged)
    if not measured and damaged:
        raise ResultsError(f"{results.path}: no load can be used; `ratematch verify` lists why; first: {lines[0]}")
    if not measured:
        raise ResultsError(f"{results.path}: no load is measured yet; run `ratematch sweep` again to go on")
    limits = Question.of(kept.constraints, kept.max_gpus)
    sweep = replace(limits, gpus_per_node=find_gpus_per_node(stored))
    filled_in = question.filled_in(sweep)
    measured = with_one_name(measured)
    if filled_in.join_precisions:
        measured = join_precisions(measured)
    return Inputs(kept.name, tuple(measured), filled_in, tuple(_count_imported(stored)), lines)


def analyze_inputs(inputs: Inputs) -> Analysis:
    """Match and compare ``inputs``.

    Raises:
        ResultsError: emulated and real results in one folder, or nodes of several sizes where their size matters.
    """
    question = inputs.question
    if question.packing is None and (question.nodes is not None or question.objective == "per_allocated_gpu"):
        raise ResultsError(f"{inputs.sweep}: nodes of several sizes were used; give --gpus-per-node")
    analysis = analyze(inputs.measured, question, sweep=inputs.sweep, links=find_links(inputs.measured))
    first = (*inputs.damaged, *inputs.imported)
    if not first:
        return analysis
    workloads = (replace(workload, notes=(*first, *workload.notes)) for workload in analysis.workloads)
    return replace(analysis, workloads=tuple(workloads))


def _count_imported(stored: Snapshot) -> list[str]:
    """Loads that other tools measured, tool by tool: figures of two clients are never mixed in silence."""
    tools: dict[str, int] = {}
    for load in stored.loads:
        if origin := load.run.imported:
            tools[origin.tool] = tools.get(origin.tool, 0) + 1
    every = len(stored.loads)
    return [
        f"{count} of {every} loads are imported from {tool}, not measured by ratematch: definitions differ"
        for tool, count in sorted(tools.items())
    ]
