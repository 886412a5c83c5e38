"""Predicted fronts dashed, measured ones beside them solid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ratematch.match.points import Analysis, Kind, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.files import name_part
from ratematch.show.frame import EDGE_IN, draw_footer, draw_header, new_figure
from ratematch.show.labels import Labelled, label_points
from ratematch.show.picture import save_figure

if TYPE_CHECKING:  # `show` draws what it is handed
    from ratematch.simulate.forecasts import Prediction

DASHES = (0, (3.0, 2.0))
PREDICTED_KINDS: tuple[Kind, ...] = ("rate_matched", "ifb")
MEASURED_KINDS: tuple[Kind, ...] = ("rate_matched", "end_to_end", "ifb")


def write_prediction_plots(
    prediction: Prediction, title: str, folder: Path, measured: Analysis | None = None
) -> list[Path]:
    """``predicted-<isl>-<osl>.png`` and ``.svg``; ``measured``: drawn beside, solid, from its own analysis.

    Raises:
        OSError: the folder cannot be written.
    """
    by_workload = {workload.workload: workload for workload in measured.workloads} if measured else {}
    written: list[Path] = []
    for predicted in prediction.analyses:
        figure = _plot_prediction(prediction, predicted, by_workload.get(predicted.workload), title)
        written += save_figure(figure, folder / f"predicted-{name_part(predicted.workload)}")
    return written


def _plot_prediction(
    prediction: Prediction, predicted: WorkloadAnalysis, beside: WorkloadAnalysis | None, title: str
) -> Figure:
    spread = max(
        (effect.total_sd for effect in prediction.effects if not effect.family.startswith("ifb")), default=0.0
    )
    with style.house_style():
        figure = new_figure(style.FIGURE_INCHES)
        axes = figure.add_subplot()
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel(style.Y_LABEL)
        entries = [*_draw_predicted(axes, predicted, spread), *(_draw_measured(axes, beside) if beside else [])]
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        bottom = draw_footer(figure, [_explain(prediction, beside)])
        stamp = style.PREDICTED_TEXT if beside is None else _stamp(beside)
        top = draw_header(figure, f"{title}: ISL/OSL {predicted.workload}", entries, stamp)
        width, height = figure.get_size_inches()
        left = style.MARGIN_LEFT + 0.15
        axes.set_position(
            (
                left / width,
                (bottom + EDGE_IN) / height,
                (width - left - style.MARGIN_RIGHT) / width,
                (height - bottom - top - 2 * EDGE_IN) / height,
            )
        )
        if beside is None:  # beside measured fronts there is no room for them
            kinds = [kind for kind in PREDICTED_KINDS if predicted.front(kind)]
            label_points(axes, [Labelled(kind, style.KINDS[kind], predicted.front(kind)) for kind in kinds])
    return figure


def _stamp(beside: WorkloadAnalysis) -> str:
    return f"dashed: PREDICTED by a model — solid: {_origin(beside).upper()}"


def _origin(beside: WorkloadAnalysis) -> str:
    return style.name_origin(beside) or "measured"


def _explain(prediction: Prediction, beside: WorkloadAnalysis | None) -> str:
    learnt = (
        f"corrected by {prediction.learnt_from} measured servers"
        if prediction.learnt_from
        else "calibrated by measured loads"
        if prediction.calibration
        else "uncorrected: nothing is measured yet"
    )
    solid = f" Solid: {_origin(beside)}, in an analysis of its own." if beside else ""
    return f"Dashed: predicted with the {prediction.model} step-time model, {learnt}; band: 95 % of servers.{solid}"


def _draw_predicted(axes: Axes, workload: WorkloadAnalysis, spread: float) -> list[Line2D | Patch]:
    entries: list[Line2D | Patch] = []
    for kind in PREDICTED_KINDS:
        front = workload.front(kind)
        if not front:
            continue
        x = np.array([point.tok_s_user for point in front])
        y = np.array([point.tok_s_gpu for point in front])
        look = style.KINDS[kind]
        (line,) = axes.plot(
            x,
            y,
            color=look.colour,
            linestyle=DASHES,
            linewidth=1.4,
            marker=look.marker,
            markersize=look.marker_pt / 2,
            markeredgewidth=0,
            zorder=7,
            label=f"{look.name}, predicted",
            gid=f"predicted:{kind}",
        )
        entries.append(line)
        if kind == "rate_matched":
            # All servers slower, or faster, by the same factor: both axes scale with it.
            low, high = np.exp(-1.96 * spread), np.exp(1.96 * spread)
            axes.fill(
                np.concatenate([x * low, (x * high)[::-1]]),
                np.concatenate([y * low, (y * high)[::-1]]),
                color=look.colour,
                alpha=0.08,
                linewidth=0,
                gid="predicted:band",
            )
            entries.append(Patch(color=look.colour, alpha=0.16, linewidth=0, label="95 % of the prediction"))
    return entries


def _draw_measured(axes: Axes, beside: WorkloadAnalysis) -> list[Line2D]:
    lines = []
    for kind in MEASURED_KINDS:
        front = beside.front(kind)
        if not front:
            continue
        look = style.KINDS[kind]
        (line,) = axes.plot(
            [point.tok_s_user for point in front],
            [point.tok_s_gpu for point in front],
            color=look.colour,
            linewidth=look.width_pt,
            marker=look.marker,
            markersize=look.marker_pt - 1.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=look.name,
            zorder=look.zorder,
            gid=f"front:{kind}",
        )
        lines.append(line)
    return lines
