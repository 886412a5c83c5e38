"""A results folder to all its pictures, each with the data behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ratematch.analysis.analyze import Inputs, analyze_inputs
from ratematch.analysis.flatrows import find_records
from ratematch.errors import UserError
from ratematch.match.analysis import list_workloads, select_workload
from ratematch.match.choose import spread_along
from ratematch.match.figures import collect_figures, select_stage
from ratematch.match.points import Analysis, Kind, Point, WorkloadAnalysis
from ratematch.measure.measured import Measured
from ratematch.plan.workload import Workload
from ratematch.show.files import name_part
from ratematch.show.picture import Picture
from ratematch.show.plots.cdfs import MOST_LOADS, LoadRecords, keep_counted, picture_cdf, picture_slip
from ratematch.show.plots.gap import picture_gap
from ratematch.show.plots.ladders import picture_ctx, picture_gen
from ratematch.show.plots.pareto import picture_pareto
from ratematch.show.plots.presets import PRESETS, Preset, picture_preset
from ratematch.show.plots.speedup import picture_speedup
from ratematch.show.plots.splits import picture_split
from ratematch.store.damage import Damage, readable
from ratematch.store.folder import Results

MEASURED_KINDS: tuple[Kind, ...] = ("end_to_end", "ifb")


def draw_pictures(results: Results, inputs: Inputs, analysis: Analysis) -> list[Picture]:
    """Every picture of every workload, the most telling first; those without data are left out."""
    pictures: list[Picture] = []
    for workload in analysis.workloads:
        lengths = find_workload(inputs.measured, workload.workload)
        pictures += draw_workload(results, inputs, analysis, workload, lengths)
    return pictures


def draw_workload(
    results: Results, inputs: Inputs, analysis: Analysis, workload: WorkloadAnalysis, lengths: Workload
) -> list[Picture]:
    """The pictures of one workload: fronts, speed-up, gap, split, ctx, gen, latencies, slip.

    ``lengths``: the workload that ``workload`` analyses.
    """
    part = name_part(workload.workload)
    rows = select_workload(inputs.measured, lengths)
    figures, _ = collect_figures(rows, inputs.constraints)
    label = workload.workload
    drawn = [
        picture_pareto(workload, analysis, f"pareto-{part}"),
        picture_speedup(workload, analysis, f"speedup-{part}"),
        picture_gap(workload, analysis, f"gap-{part}"),
        picture_split(workload, analysis, f"split-{part}"),
        picture_ctx(select_stage(figures, "ctx"), inputs.constraints, analysis, label, f"ctx-{part}"),
        picture_gen(select_stage(figures, "gen"), analysis, label, f"gen-{part}"),
        picture_cdf(read_front_records(results, inputs, workload), analysis, label, f"latency-{part}"),
        picture_slip(rows, analysis, label, f"slip-{part}"),
    ]
    return [picture for picture in drawn if picture is not None]


def draw_figure(inputs: Inputs, number: int, workload: str | None = None) -> Picture:
    """Figure ``number`` of the study (9 to 15) from the rows of ``inputs`` that count for it.

    ``workload``: a label; when left out the study's own where it was measured, else the first.

    Raises:
        UserError: nothing measured counts for it, or there is no such workload.
    """
    preset = PRESETS[number]
    groups = [(None, preset.mtp)] if not preset.split_mtp else [(mtp, (mtp,)) for mtp in preset.mtp or ()]
    analyses = {
        key: analyze_inputs(replace(inputs, measured=tuple(rows)))
        for key, mtps in groups
        if (rows := select_rows(preset, inputs.measured, mtps))
    }
    if not analyses:
        raise UserError(f"figure {number} ({preset.title}): no load of these results counts for it")
    labels = list(dict.fromkeys(w.workload for analysis in analyses.values() for w in analysis.workloads))
    study = preset.study.rsplit(", ", 1)[1]
    chosen = workload or next((label for label in labels if label.split("~")[0] == study), labels[0])
    if chosen not in labels:
        raise UserError(f"no workload {chosen!r} counts for figure {number}; there are: {', '.join(labels)}")
    return picture_preset(preset, analyses, chosen)


def select_rows(preset: Preset, measured: Sequence[Measured], mtps: Sequence[int] | None) -> list[Measured]:
    """The rows that belong into a figure: by MTP, and by the GPUs of their generation servers.

    Aggregated servers are held to the same size where any has it; else all of them are the baseline.
    """
    rows = [row for row in measured if mtps is None or row.experiment.deployment.mtp in mtps]
    if preset.gen_gpus is None:
        return rows
    sizes = {row.experiment.deployment.agg.mapping.gpus for row in rows if row.experiment.deployment.agg}

    def fits(row: Measured) -> bool:
        deployment = row.experiment.deployment
        group = deployment.gen or (deployment.agg if preset.gen_gpus in sizes else None)
        return group is None or group.mapping.gpus == preset.gen_gpus

    return [row for row in rows if fits(row)]


def find_workload(measured: Sequence[Measured], label: str) -> Workload:
    """The workload that an analysis names by its label."""
    return next(workload for workload in list_workloads(measured) if workload.label == label)


def read_front_records(results: Results, inputs: Inputs, workload: WorkloadAnalysis) -> list[LoadRecords]:
    """The requests of up to three loads on each measured front, spread along it."""
    stored = find_records(results)
    damaged: list[Damage] = []  # of loads on a front, all records were read before
    loads = []
    for kind in MEASURED_KINDS:
        front = workload.front(kind)
        for point in spread_along(front, MOST_LOADS) if front else ():
            row = find_row(inputs.measured, point)
            load = stored.get((row.experiment.id, row.load)) if row else None
            records = readable(load.records, damaged) if load else None
            if row is not None and records is not None:
                loads.append(keep_counted(row, records, kind))
    return loads


def find_row(measured: Sequence[Measured], point: Point) -> Measured | None:
    """The load that a measured point was read from; of repeats, the one nearest to their mean."""
    rows = [
        row
        for row in measured
        if row.experiment.id in point.sources and row.measurement.valid and row.measurement.in_flight is not None
    ]
    return min(rows, key=lambda row: abs((row.measurement.in_flight or 0) - point.concurrency), default=None)
