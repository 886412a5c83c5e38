"""A results folder to its ``report.html``: everything the page says, gathered from what is stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from ratematch.analysis import analyze
from ratematch.errors import PlacementError, UserError
from ratematch.match.analysis import select_workload
from ratematch.match.openloop import say_limits
from ratematch.match.points import Analysis, WorkloadAnalysis
from ratematch.match.recommend import TARGETS, Recommendation, recommend_all
from ratematch.measure.measured import Measured
from ratematch.report import deployment, pictures
from ratematch.report.page import Bundle, Report, RunFile, Section, render_report
from ratematch.store.files import write_aside
from ratematch.store.folder import ExperimentFolder, GpuHours, Results

MOST_SAID = 3
"""Different values of one fact that are spelt out."""
UNITS = ("tok/s/user", "tok/s", "tps")


def parse_targets(text: str) -> tuple[float, ...]:
    """Interactivities a person typed: ``20,50,100`` or ``50 tok/s/user``.

    Raises:
        UserError: not such numbers.
    """
    found = []
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
        found.append(value)
    return tuple(sorted(set(found)))


def choose_targets(inputs: analyze.Inputs, asked: Sequence[float] | None) -> tuple[float, ...]:
    """Those asked for; else the TPOT limit's own tok/s/user, else 20, 50 and 100."""
    if asked:
        return tuple(asked)
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
    wanted = choose_targets(inputs, targets)
    folders = results.folders()
    sections: list[Section] = []
    for workload in analysis.workloads:
        asked = pictures.find_workload(inputs.measured, workload.workload)
        rows = select_workload(inputs.measured, asked)
        found = recommend_all(workload, wanted)
        sections.append(
            Section(
                workload,
                tuple(found),
                tuple(pictures.draw_workload(results, inputs, analysis, workload, asked)),
                tuple(row for row in rows if row.experiment.stage in ("ifb", "e2e") and not row.measurement.valid),
                make_bundles(results, inputs, workload, found, len(sections)),
            )
        )
    facts = collect_provenance(results, folders)
    report = Report(
        analysis=analysis,
        command=command,
        limits=say_limits(inputs.constraints),
        origin=_say_origin(inputs.measured, facts),
        provenance=tuple(facts.items()),
        sections=tuple(sections),
        warnings=tuple(collect_warnings(analysis, inputs.measured, folders)),
    )
    return render_report(report)


def make_bundles(
    results: Results,
    inputs: analyze.Inputs,
    workload: WorkloadAnalysis,
    found: Sequence[Recommendation],
    number: int,
) -> dict[float, Bundle]:
    """The ready-to-run files of each recommendation, one bundle a deployment and load; none where they cannot be
    made (an imported load has no engine of ours)."""
    bundles: dict[float, Bundle] = {}
    made: dict[tuple[str, float], Bundle] = {}
    for each in found:
        if each.point is None:
            continue
        key = (each.point.label, each.point.concurrency)
        if key not in made:
            try:
                handed = deployment.hand_over(results, inputs.measured, workload, each.at)
            except (UserError, PlacementError):
                continue
            made[key] = _bundle(handed, results, f"files-{number}-{each.at:g}")
        bundles[each.at] = made[key]
    return bundles


def _bundle(handed: deployment.Handover, results: Results, anchor: str) -> Bundle:
    point = handed.found.point
    assert point is not None
    start = "sbatch job.sbatch" if "job.sbatch" in handed.files else "bash run.sh"
    again = f"ratematch export deployment {results.path.name} --at {handed.found.at:g} -o deploy"
    return Bundle(
        anchor,
        f"{point.label}, for {handed.found.at:g} tok/s/user, on {handed.cluster.name}",
        f"{start} runs it. To write these files, also for another cluster (--cluster): {again}",
        tuple(RunFile(name, text) for name, text in handed.files.items()),
    )


def collect_warnings(
    analysis: Analysis, measured: Sequence[Measured], folders: Iterable[ExperimentFolder]
) -> list[str]:
    """What a reader must know before believing the page: failures, loads left out, doubts, notes."""
    found = []
    for folder in folders:
        if (state := folder.state()) in ("failed", "interrupted"):
            outcome = folder.outcome()
            why = (outcome and outcome.error) or "no reason known"
            found.append(f"{folder.path.name} {state}: {why.splitlines()[0]}")
        elif missing := folder.missing():
            found.append(f"{folder.path.name}: {len(missing)} of its loads are not measured")
    for workload in analysis.workloads:
        for label, load, reasons in workload.left_out:
            found.append(f"left out: {label} {load}: {', '.join(reasons)}")
        found += [f"{workload.workload}: {note}" for note in workload.notes]
    return found + _group_doubts(measured)


def _group_doubts(measured: Sequence[Measured]) -> list[str]:
    """Warnings of loads, those that differ only in their numbers together, the most common first."""
    doubts: dict[str, list[str]] = {}
    for row in measured:
        for warning in row.measurement.warnings:
            told = f"{row.experiment.label} {row.load.label}: {warning}"
            doubts.setdefault(re.sub(r"[-+]?\d[\d.,]*", "#", warning), []).append(told)
    ordered = sorted(doubts.values(), key=len, reverse=True)
    return [told[0] if len(told) == 1 else f"{len(told)} loads, such as {told[0]}" for told in ordered]


def collect_provenance(results: Results, folders: Sequence[ExperimentFolder]) -> dict[str, str]:
    """Where the figures come from, each fact in words: what all launches say, and how they differ."""
    launches = [launch for folder in folders for launch in folder.provenances()]
    experiments = [folder.read() for folder in folders]
    spent = sum((folder.account() for folder in folders), GpuHours())
    times = sorted(
        stored.run.wall_start_ns for folder in folders for stored in folder.loads() if stored.run.wall_start_ns
    )
    servers = [server for launch in launches for server in launch.servers.values()]
    imports = [stored.run.imported for folder in folders for stored in folder.loads() if stored.run.imported]
    origins = sorted({f"{each.tool}: {each.file}" for each in imports})
    facts = {
        "results folder": results.path.name,
        "measured": f"{_date(times[0])} to {_date(times[-1])} UTC" if times else "",
        "model": _say({f"{e.model} ({e.model_path})" if e.model_path != e.model else e.model for e in experiments}),
        "GPU, cluster": _say({f"{e.gpu}, {e.cluster}" for e in experiments}),
        "engine asked for": _say({e.stack for e in experiments}),
        "servers said": _say({str(server.version) for server in servers}),
        "figures are": _say({e.origin for e in experiments}),
        "imported from": _say(origins),
        "ratematch": _say({f"{f.ratematch} ({f.git or 'no git'})" for f in launches}),
        "Python, platform": _say({f"{f.python}, {f.platform}" for f in launches}),
        "packages": _say({", ".join(f"{n} {v}" for n, v in sorted(f.packages.items())) for f in launches}),
        "load generator on": _say({str(f.host) for f in launches}),
        "experiments, launches, loads": f"{len(experiments)}, {len(launches)}, {len(times)}",
        "GPU-hours": f"{spent.total:.2f} (starting {spent.starting:.2f}, measuring {spent.measuring:.2f})",
    }
    return {name: value for name, value in facts.items() if value}


def _say(values: Iterable[str]) -> str:
    known = sorted({value for value in values if value})
    more = f" and {len(known) - MOST_SAID} more" if len(known) > MOST_SAID else ""
    return "; ".join(known[:MOST_SAID]) + more


def _date(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _say_origin(measured: Sequence[Measured], facts: dict[str, str]) -> str:
    valid = sum(row.measurement.valid for row in measured)
    when = f", measured {facts['measured']}" if "measured" in facts else ""
    return f"{valid} of {len(measured)} loads valid{when}"
