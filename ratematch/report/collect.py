"""A results folder to its ``report.html``: everything the page says, gathered from what is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ratematch.analysis import analyze
from ratematch.errors import UserError
from ratematch.match.analysis import select_workload
from ratematch.match.openloop import describe_limits
from ratematch.match.points import Analysis, WorkloadAnalysis
from ratematch.match.recommend import TARGETS, Recommendation, recommend_all
from ratematch.measure.measured import Measured
from ratematch.plan.experiment import Experiment
from ratematch.report import pictures
from ratematch.report.bundles import make_bundles
from ratematch.report.contents import Report, Section
from ratematch.report.page import render_report
from ratematch.store.damage import Damage
from ratematch.store.files import write_aside
from ratematch.store.folder import GpuHours, Results
from ratematch.store.snapshot import Snapshot

MOST_VALUES = 3
"""Different values of one fact that are spelt out."""
UNITS = ("tok/s/user", "tok/s", "tps")


def parse_targets(text: str) -> tuple[float, ...]:
    """Interactivities as typed: ``20,50,100`` or ``50 tok/s/user``.

    Raises:
        UserError: not such numbers.
    """
    speeds = []
    for part in text.split(","):
        word = part.strip().lower()
        for unit in UNITS:
            word = word.removesuffix(unit).strip()
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 0 < value < 1e6:
            raise UserError(f"--at {text}: write tok/s/user, such as 50 or 20,50,100")
        speeds.append(value)
    return tuple(sorted(set(speeds)))


def choose_targets(inputs: analyze.Inputs, requested: Sequence[float] | None) -> tuple[float, ...]:
    """Those requested; else the TPOT limit's own tok/s/user, else 20, 50 and 100."""
    if requested:
        return tuple(requested)
    if inputs.constraints.tpot_ms is not None:
        return (1000 / inputs.constraints.tpot_ms,)
    return TARGETS


def write_report(
    results: Results,
    inputs: analyze.Inputs,
    analysis: Analysis,
    output: Path,
    *,
    command: str,
    targets: Sequence[float] | None = None,
) -> Path:
    """Write the page to ``output``. ``command``: what made it, as typed.

    Raises:
        ResultsError: stored files that cannot be read. OSError: ``output`` cannot be written.
    """
    return write_aside(output, make_report(results, inputs, analysis, command, targets).encode("utf-8", "replace"))


def make_report(
    results: Results,
    inputs: analyze.Inputs,
    analysis: Analysis,
    command: str,
    targets: Sequence[float] | None = None,
) -> str:
    """The page as text."""
    speeds = choose_targets(inputs, targets)
    stored = results.now()
    sections = [
        _make_section(results, inputs, analysis, workload, number, recommend_all(workload, speeds))
        for number, workload in enumerate(analysis.workloads)
    ]
    facts = collect_provenance(stored)
    report = Report(
        analysis=analysis,
        command=command,
        limits=describe_limits(inputs.constraints),
        origin=_describe_origin(inputs.measured, facts),
        provenance=tuple(facts.items()),
        sections=tuple(sections),
        warnings=tuple(collect_warnings(analysis, inputs, stored)),
    )
    return render_report(report)


def _make_section(
    results: Results,
    inputs: analyze.Inputs,
    analysis: Analysis,
    workload: WorkloadAnalysis,
    number: int,
    recommendations: Sequence[Recommendation],
) -> Section:
    lengths = pictures.find_workload(inputs.measured, workload.workload)
    rows = select_workload(inputs.measured, lengths)
    return Section(
        workload,
        tuple(recommendations),
        tuple(pictures.draw_workload(results, inputs, analysis, workload, lengths)),
        tuple(row for row in rows if row.experiment.stage in ("ifb", "e2e") and not row.measurement.valid),
        make_bundles(results, inputs, workload, recommendations, number),
    )


def collect_warnings(analysis: Analysis, inputs: analyze.Inputs, stored: Snapshot) -> list[str]:
    """What a reader must know before believing the page: damaged files, failures, loads left out, doubts, notes."""
    warnings = list(inputs.damaged)
    for part in stored.experiments:
        name = part.folder.path.name
        if (state := part.state()) in ("failed", "interrupted"):
            why = (part.outcome and part.outcome.error) or "no reason known"
            warnings.append(f"{name} {state}: {why.splitlines()[0]}")
        elif part.missing:
            warnings.append(f"{name}: {len(part.missing)} of its loads are not measured")
    for workload in analysis.workloads:
        for label, load, reasons in workload.left_out:
            warnings.append(f"left out: {label} {load}: {', '.join(reasons)}")
        notes = (note for note in workload.notes if note not in inputs.damaged)
        warnings += [f"{workload.workload}: {note}" for note in notes]
    return warnings + _group_warnings(inputs.measured)


def _group_warnings(measured: Sequence[Measured]) -> list[str]:
    """Warnings of loads, those that differ only in their numbers together, the most common first."""
    alike: dict[str, list[str]] = {}
    for row in measured:
        for warning in row.measurement.warnings:
            text = f"{row.experiment.label} {row.load.label}: {warning}"
            alike.setdefault(re.sub(r"[-+]?\d[\d.,]*", "#", warning), []).append(text)
    ordered = sorted(alike.values(), key=len, reverse=True)
    return [texts[0] if len(texts) == 1 else f"{len(texts)} loads, such as {texts[0]}" for texts in ordered]


def collect_provenance(stored: Snapshot) -> dict[str, str]:
    """Where the figures come from, each fact in words: what all launches say, and how they differ."""
    experiments = [part.experiment for part in stored.experiments]
    unknown: list[Damage] = []
    launches = [launch for part in stored.experiments for launch in part.folder.provenances(unknown)]
    spent = sum((part.account for part in stored.experiments), GpuHours())
    runs = [load.run for load in stored.loads]
    times = sorted(run.wall_start_ns for run in runs if run.wall_start_ns)
    facts = {
        "results folder": stored.path.name,
        "measured": f"{_date(times[0])} to {_date(times[-1])} UTC" if times else "",
        "model": _join({f"{e.model} ({e.model_path})" if e.model_path != e.model else e.model for e in experiments}),
        "GPU, cluster": _join({f"{e.gpu}, {e.cluster}" for e in experiments}),
        "engine asked for": _join({e.stack for e in experiments}),
        "IFB servers' options": _join({describe_options(e) for e in experiments if e.stage == "ifb"}),
        "servers said": _join({str(version) for launch in launches for version in launch.server_versions}),
        "servers run": _join({text for launch in launches for text in launch.running_texts}),
        "not as their files say": _join({note for launch in launches for note in launch.notes}),
        "figures are": _join({e.origin for e in experiments}),
        "imported from": _join({f"{run.imported.tool}: {run.imported.file}" for run in runs if run.imported}),
        "ratematch": _join({f"{launch.ratematch} ({launch.git or 'no git'})" for launch in launches}),
        "Python, platform": _join({f"{launch.python}, {launch.platform}" for launch in launches}),
        "packages": _join({launch.package_list for launch in launches}),
        "times of requests from": _join({str(run.telemetry.times_from) for run in runs if run.telemetry.times_from}),
        "load generator on": _join({str(launch.host) for launch in launches}),
        "experiments, launches, loads": f"{len(experiments)}, {len(launches)}, {len(times)}",
        "GPU-hours": f"{spent.total:.2f} (starting {spent.starting:.2f}, measuring {spent.measuring:.2f})",
    }
    return {name: value for name, value in facts.items() if value}


def describe_options(experiment: Experiment) -> str:
    """What the sweep file sets of servers, beyond what is derived: a gain over IFB is worth what its baseline is."""
    texts = []
    for group in experiment.deployment.groups:
        texts += ["a file of the user's own"] if group.config is not None else sorted(_spell(group.options))
    return ", ".join(texts) or "derived alone"


def _spell(options: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in options.items():
        if isinstance(value, dict) and value:
            yield from _spell(value, f"{where}{key}.")
        else:
            yield f"{where}{key} {json.dumps(value, default=str)}"


def _join(values: Iterable[str]) -> str:
    known = sorted({value for value in values if value})
    more = f" and {len(known) - MOST_VALUES} more" if len(known) > MOST_VALUES else ""
    return "; ".join(known[:MOST_VALUES]) + more


def _date(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _describe_origin(measured: Sequence[Measured], facts: dict[str, str]) -> str:
    valid = sum(row.measurement.valid for row in measured)
    simulated = all(row.experiment.origin == "simulated" for row in measured)
    when = f", {'simulated' if simulated else 'measured'} {facts['measured']}" if "measured" in facts else ""
    return f"{valid} of {len(measured)} loads valid{when}"
