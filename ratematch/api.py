"""Results as tidy pandas frames, and what notebooks do with them: the public Python API of ``import ratematch as
rm``.

A frame has one row a thing and one column a figure, units in the names; an undefined figure is NaN or ``None``. Every
frame of figures has an ``emulated`` column, frames of loads and requests an ``origin``: real, emulated or simulated.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ratematch.analysis import analyze
from ratematch.analysis.compare import SweepComparison, compare_results
from ratematch.analysis.flatrows import load_row, request_rows
from ratematch.errors import UserError
from ratematch.match.analysis import select_workload
from ratematch.match.figures import collect_figures, select_stage
from ratematch.match.points import Analysis, WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.match.recommend import TARGETS, recommend_all
from ratematch.measure.measured import Measured
from ratematch.plan.load import Constraints, Percentile, TtftOf
from ratematch.report import pictures
from ratematch.show.picture import Picture
from ratematch.show.plots.cdfs import picture_cdf, picture_slip
from ratematch.show.plots.change import picture_change
from ratematch.show.plots.gap import picture_gap
from ratematch.show.plots.ladders import picture_ctx, picture_gen
from ratematch.show.plots.pareto import picture_pareto
from ratematch.show.plots.presets import PRESETS
from ratematch.show.plots.speedup import picture_speedup
from ratematch.show.plots.splits import picture_split
from ratematch.show.tables import front_rows, point_rows
from ratematch.store.damage import Damage
from ratematch.store.folder import Results


@dataclass(frozen=True)
class LoadedResults:
    """One results folder in memory: figures and limits as they were when it was loaded. What only the records say
    (requests, noise, stages) is read from the folder when it is first asked for."""

    path: Path
    figures: analyze.Figures = field(repr=False)

    @cached_property
    def inputs(self) -> analyze.Inputs:
        """Measured loads with the noise of their rates and their stages, and the limits they are judged by."""
        return self.figures.in_detail()

    @property
    def measured(self) -> tuple[Measured, ...]:
        return self.inputs.measured

    @property
    def constraints(self) -> Constraints:
        return self.figures.inputs.constraints

    @cached_property
    def loads(self) -> pd.DataFrame:
        """One row a measured load, valid or not: what was requested, rates, latencies (mean, p50, p99), verdict."""
        return pd.DataFrame([load_row(row) for row in self.figures.inputs.measured])

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request of every load that has records, failed ones too: latencies in ms, ``counted`` when it
        ended in the steady window.

        Loads whose records cannot be used are left out, with a warning.
        """
        damaged: list[Damage] = []
        rows = list(request_rows(Results(self.path), self.figures.inputs.measured, damaged))
        for damage in damaged:
            warnings.warn(damage.describe(self.path), stacklevel=2)
        return pd.DataFrame(rows)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Files that were left out because they cannot be used, a line each; ``ratematch verify`` says more."""
        read = self.inputs if "inputs" in vars(self) else self.figures.inputs
        return read.damaged

    def match(self, **limits: Any) -> Analysis:
        """:func:`match_results` of these results."""
        return match_results(self, **limits)

    def __repr__(self) -> str:
        rows = self.figures.inputs.measured
        origin = rows[0].experiment.origin
        valid = sum(row.measurement.valid for row in rows)
        left_out = f", {len(self.damaged)} files left out" if self.damaged else ""
        return (
            f"<{self.figures.inputs.sweep}: {len(rows)} loads ({valid} valid){left_out}, {origin}, from {self.path}>"
        )


def load_results(path: Path | str) -> LoadedResults:
    """Everything measured in a results folder, such as ``results/sample``.

    Raises:
        ResultsError: no such folder, or nothing is measured in it.
    """
    results = Results.open(Path(path))
    return LoadedResults(results.path, analyze.read_figures(results))


def match_results(
    results: LoadedResults,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    percentile: Percentile | None = None,
    max_gpus: int | None = None,
    calibrate: bool = False,
    ttft_of: TtftOf | None = None,
) -> Analysis:
    """Fronts, plans, gaps and speed-ups of ``results``; limits that are given replace the sweep's.

    Raises:
        ResultsError: emulated and real results in one folder.
    """
    question = Question(ttft_ms, tpot_ms, percentile, max_gpus or None, calibrate, ttft_of=ttft_of)
    return analyze.analyze_inputs(results.inputs.asking(question))


def fronts(analysis: Analysis) -> pd.DataFrame:
    """The points of every front, one row each: ``kind`` is bound, rate_matched, end_to_end or ifb."""
    return pd.DataFrame(front_rows(analysis))


def points(analysis: Analysis) -> pd.DataFrame:
    """Every plan and measured row, on a front or not (``on_front``)."""
    return pd.DataFrame(point_rows(analysis))


def speedups(analysis: Analysis) -> pd.DataFrame:
    """tok/s/GPU over IFB at equal tok/s/user, with 95 % intervals."""
    return pd.DataFrame([{"workload": w.workload, **asdict(row)} for w in analysis.workloads for row in w.speedups])


def gaps(analysis: Analysis) -> pd.DataFrame:
    """One row a part of the gap of each end-to-end run: tok/s/GPU lost (negative: gained)."""
    return pd.DataFrame(
        [
            {
                "workload": w.workload,
                "label": gap.label,
                "concurrency": gap.concurrency,
                "tok_s_user": gap.tok_s_user,
                "measured_tok_s_gpu": gap.end_to_end,
                "predicted_tok_s_gpu": gap.rate_matched,
                "ideal_tok_s_gpu": gap.ideal,
                "part": part.name,
                "tok_s_gpu": part.tok_s_gpu,
            }
            for w in analysis.workloads
            for gap in w.gaps
            for part in gap.parts
        ]
    )


def recommendations(analysis: Analysis, targets: Sequence[float] = TARGETS) -> pd.DataFrame:
    """The deployment to run at each tok/s/user of ``targets``, one row a workload and target."""
    return pd.DataFrame(
        [
            {
                "workload": w.workload,
                "at_tok_s_user": row.at,
                "deployment": row.point.label if row.point else None,
                "origin": _origin(row.measured, row.point is not None),
                "gpus": row.point.gpus if row.point else None,
                "concurrency": row.point.concurrency if row.point else None,
                "tok_s_user": row.point.tok_s_user if row.point else None,
                "tok_s_gpu": row.point.tok_s_gpu if row.point else None,
                "over_ifb": row.over_ifb,
            }
            for w in analysis.workloads
            for row in recommend_all(w, targets)
        ]
    )


def _origin(measured: bool, any_point: bool) -> str | None:
    return None if not any_point else "measured" if measured else "predicted"


def plot_pareto(analysis: Analysis, workload: str | None = None, *, log_y: bool = False) -> Picture:
    """Rate-matched and end-to-end fronts against IFB. ``workload``: a label such as ``1024/64``, the first when left
    out. The picture shows itself in a notebook; ``.data`` is what is drawn, ``.save(folder)`` writes it.

    Raises:
        UserError: there is no such workload.
    """
    return picture_pareto(pick_workload(analysis, workload), analysis, "pareto", log_y)


def plot_speedup(analysis: Analysis, workload: str | None = None) -> Picture:
    """Speed-up over IFB against tok/s/user, with its interval.

    Raises:
        UserError: no such workload, or no speed-up is defined.
    """
    chosen = pick_workload(analysis, workload)
    return _there(picture_speedup(chosen, analysis, "speedup"), "no speed-up over IFB is defined")


def plot_split(analysis: Analysis, workload: str | None = None) -> Picture:
    """How the GPUs are split between context and generation along the fronts.

    Raises:
        UserError: no such workload, or no front has a point.
    """
    return _there(picture_split(pick_workload(analysis, workload), analysis, "split"), "no front has a point")


def plot_figure(results: LoadedResults, number: int, workload: str | None = None) -> Picture:
    """The layout of figure ``number`` (9 to 15) of TensorRT-LLM's disaggregated-serving study, from ``results``.

    Raises:
        UserError: there is no such figure or workload, or nothing measured counts for it.
    """
    if number not in PRESETS:
        raise UserError(f"no figure {number}; there are: {', '.join(map(str, PRESETS))}")
    return pictures.draw_figure(results.inputs, number, workload)


def compare(before: Path | str, after: Path | str, *, max_regression: float = 0.03) -> SweepComparison:
    """Two results folders: what is not the same in both, and the fronts of ``after`` over those of ``before``.

    Raises:
        UserError: they are of different origin (real, emulated, simulated), or of different models.
    """
    return compare_results(Path(before), Path(after), max_regression=max_regression)


def drift(comparison: SweepComparison) -> pd.DataFrame:
    """What is not the same in both folders: versions, limits, settings, deployments of one side only."""
    return pd.DataFrame([asdict(row) for row in comparison.drift], columns=["what", "before", "after"])


def changes(comparison: SweepComparison) -> pd.DataFrame:
    """tok/s/GPU of after over before at equal tok/s/user, one row a front and speed, with 95 % intervals."""
    return pd.DataFrame(
        [{"workload": front.workload, **asdict(row)} for front in comparison.change.fronts for row in front.speedups]
    )


def plot_compare(comparison: SweepComparison, workload: str | None = None) -> Picture:
    """The fronts of both sweeps in one picture.

    Raises:
        UserError: there is no such workload, or it has no front in either.
    """
    label = pick_workload(comparison.after, workload).workload
    picture = picture_change(comparison.change, comparison.before, comparison.after, label)
    return _there(picture, f"{label}: no front in both sweeps")


def plot_gap(analysis: Analysis, workload: str | None = None) -> Picture:
    """What keeps each end-to-end run below its ideal, part by part.

    Raises:
        UserError: no such workload, or no end-to-end run that could be explained.
    """
    picture = picture_gap(pick_workload(analysis, workload), analysis, "gap")
    return _there(picture, "no end-to-end run is explained")


def plot_ctx(results: LoadedResults, analysis: Analysis, workload: str | None = None) -> Picture:
    """Requests/s/GPU and TTFT of the context servers over load.

    Raises:
        UserError: no such workload, or no context server was measured.
    """
    label = pick_workload(analysis, workload).workload
    figures = select_stage(_figures(results, label), "ctx")
    picture = picture_ctx(figures, results.constraints, analysis, label, "ctx")
    return _there(picture, "no context server was measured")


def plot_gen(results: LoadedResults, analysis: Analysis, workload: str | None = None) -> Picture:
    """tok/s/GPU of the generation servers alone over tok/s/user.

    Raises:
        UserError: no such workload, or no generation server was measured.
    """
    label = pick_workload(analysis, workload).workload
    figures = select_stage(_figures(results, label), "gen")
    return _there(picture_gen(figures, analysis, label, "gen"), "no generation server was measured")


def plot_latency(results: LoadedResults, analysis: Analysis, workload: str | None = None) -> Picture:
    """How TTFT, TPOT and end-to-end latency are spread over requests, of loads along both measured fronts.

    Raises:
        UserError: no such workload, or no load on a measured front has records.
    """
    chosen = pick_workload(analysis, workload)
    records = pictures.read_front_records(Results(results.path), results.inputs, chosen)
    picture = picture_cdf(records, analysis, chosen.workload, "latency")
    return _there(picture, "no load on a measured front has request records")


def plot_slip(results: LoadedResults, analysis: Analysis, workload: str | None = None) -> Picture:
    """How late the client sent its requests, every load at its rate.

    Raises:
        UserError: no such workload, or no load tells it.
    """
    label = pick_workload(analysis, workload).workload
    rows = select_workload(results.measured, pictures.find_workload(results.measured, label))
    return _there(picture_slip(rows, analysis, label, "slip"), "no load tells when its requests were due")


def pick_workload(analysis: Analysis, label: str | None) -> WorkloadAnalysis:
    """The workload called ``label``; the first when it is ``None``.

    Raises:
        UserError: there is no such workload.
    """
    for workload in analysis.workloads:
        if label in (None, workload.workload):
            return workload
    known = ", ".join(workload.workload for workload in analysis.workloads)
    raise UserError(f"no workload {label!r} in {analysis.sweep}; there are: {known or 'none'}")


def _figures(results: LoadedResults, label: str) -> Any:
    requested = pictures.find_workload(results.measured, label)
    return collect_figures(select_workload(results.measured, requested), results.constraints)[0]


def _there(picture: Picture | None, otherwise: str) -> Picture:
    if picture is None:
        raise UserError(otherwise)
    return picture
