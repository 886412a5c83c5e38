"""Predicted figures: tables, JSON, and a plot in which predicted fronts are dashed and measured ones solid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.console import Console
from rich.markup import escape

from ratematch.match.points import Analysis, Kind, Point, WorkloadAnalysis
from ratematch.measure.measured import Measured
from ratematch.show import style
from ratematch.show.console import table
from ratematch.show.files import name_part
from ratematch.show.frame import EDGE_IN, draw_footer, draw_header, new_figure
from ratematch.show.picture import save_figure

if TYPE_CHECKING:  # `show` draws what it is handed
    from ratematch.simulate.forecasts import Prediction

PREDICTED_TEXT = "PREDICTED — by a model, nothing was run"
DASHES = (0, (3.0, 2.0))
SHOWN_ROWS = 12
ROW_FIELDS = (
    "label", "gpus", "ratio", "concurrency", "req_s", "tok_s_user", "tok_s_gpu", "ttft_ms", "tpot_ms", "limit",
)  # fmt: skip
KINDS: tuple[Kind, ...] = ("rate_matched", "ifb")


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """Everything of a prediction as plain JSON values; ``predicted`` is always true."""
    return {
        "predicted": True,
        "model": prediction.model,
        "learnt_from": prediction.learnt_from,
        "families": [
            {**asdict(effect), "factor": effect.factor, "low": effect.interval[0], "high": effect.interval[1]}
            for effect in prediction.effects
        ],
        "workloads": {
            each.workload: {
                "rate_matched": [_row(point) for point in each.rate_matched],
                "ifb": [_row(point) for point in each.ifb],
            }
            for each in prediction.analyses
        },
        "ctx": [_load_row(row) for row in prediction.rows if row.experiment.stage == "ctx"],
        "gen": [_load_row(row) for row in prediction.rows if row.experiment.stage == "gen"],
    }


def _row(point: Point) -> dict[str, Any]:
    return {name: getattr(point, name) for name in ROW_FIELDS}


def _load_row(row: Measured) -> dict[str, Any]:
    figures = row.measurement
    return {
        "experiment": row.experiment.label,
        "load": row.load.label,
        "req_s": figures.req_s,
        "ttft_ms": figures.ttft_ms.mean if figures.ttft_ms else None,
        "tok_s_user": figures.tok_s_user,
    }


def print_prediction(prediction: Prediction, console: Console) -> None:
    """How far predictions are trusted, best ctx rates, and the predicted fronts."""
    console.print(f"\n[bold yellow]{PREDICTED_TEXT}[/] (step times: {escape(prediction.model)})")
    number = prediction.learnt_from
    taught = f"learnt from {number} measured servers" if number else "nothing measured"
    rows = [
        (effect.family, effect.servers, effect.factor, effect.interval[0], effect.interval[1])
        for effect in prediction.effects
    ]
    columns = ("family", "measured", "factor", "95 %: low", "high")
    console.print(table(f"factor on predicted speed, {taught}", columns, rows))
    best = ("server", "load", "req/s/GPU", "TTFT ms")
    console.print(table("predicted ctx servers, best load", best, _ctx(prediction)))
    for each in prediction.analyses:
        front = _thin(each.rate_matched)
        told = [
            (point.label, point.gpus, point.ratio or "-", point.tok_s_user, point.tok_s_gpu, point.ttft_ms)
            for point in front
        ]
        title = f"{each.workload}: predicted rate-matched front ({len(front)} of {len(each.rate_matched)} rows)"
        console.print(table(title, ("deployment", "GPUs", "ratio", "tok/s/user", "tok/s/GPU", "TTFT ms"), told))


def _ctx(prediction: Prediction) -> list[tuple[Any, ...]]:
    best: dict[str, tuple[Any, ...]] = {}
    for row in prediction.rows:
        figures = row.measurement
        if row.experiment.stage == "ctx" and figures.req_s and figures.ttft_ms:
            rate = figures.req_s / row.experiment.deployment.gpus
            label = row.experiment.label
            if label not in best or rate > best[label][2]:
                best[label] = (label, row.load.label, rate, figures.ttft_ms.mean)
    return sorted(best.values(), key=lambda row: -row[2])[:SHOWN_ROWS]


def _thin(front: Sequence[Point]) -> list[Point]:
    """At most ``SHOWN_ROWS`` of a front, both ends among them."""
    if len(front) <= SHOWN_ROWS:
        return list(front)
    return [front[round(k * (len(front) - 1) / (SHOWN_ROWS - 1))] for k in range(SHOWN_ROWS)]


def write_prediction_plots(
    prediction: Prediction, title: str, folder: Path, measured: Analysis | None = None
) -> list[Path]:
    """``predicted-<isl>-<osl>.png`` and ``.svg``; ``measured``: drawn beside, solid, from its own analysis.

    Raises:
        OSError: the folder cannot be written.
    """
    by_workload = {each.workload: each for each in measured.workloads} if measured else {}
    spread = max(
        (effect.total_sd for effect in prediction.effects if not effect.family.startswith("ifb")), default=0.0
    )
    written: list[Path] = []
    for each in prediction.analyses:
        beside = by_workload.get(each.workload)
        with style.house_style():
            figure = new_figure(style.FIGURE_INCHES)
            axes = figure.add_subplot()
            axes.set_xlabel(style.X_LABEL)
            axes.set_ylabel(style.Y_LABEL)
            entries = [*_draw_predicted(axes, each, spread), *(_draw_measured(axes, beside) if beside else [])]
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            bottom = draw_footer(figure, [_explain(prediction, beside)])
            stamp = PREDICTED_TEXT if beside is None else _stamp(beside)
            top = draw_header(figure, f"{title}: ISL/OSL {each.workload}", entries, stamp)
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
        written += save_figure(figure, folder / f"predicted-{name_part(each.workload)}")
    return written


def _stamp(beside: WorkloadAnalysis) -> str:
    return f"dashed: PREDICTED by a model — solid: {_origin(beside).upper()}"


def _origin(beside: WorkloadAnalysis) -> str:
    return "simulated" if beside.simulated else "emulated" if beside.emulated else "measured"


def _explain(prediction: Prediction, beside: WorkloadAnalysis | None) -> str:
    learnt = (
        f"corrected by {prediction.learnt_from} measured servers"
        if prediction.learnt_from
        else "uncorrected: nothing is measured yet"
    )
    solid = f" Solid: {_origin(beside)}, in an analysis of its own." if beside else ""
    return f"Dashed: predicted with the {prediction.model} step-time model, {learnt}; band: 95 % of servers.{solid}"


def _draw_predicted(axes: Axes, each: WorkloadAnalysis, spread: float) -> list[Line2D | Patch]:
    entries: list[Line2D | Patch] = []
    for kind in KINDS:
        front = each.rate_matched if kind == "rate_matched" else each.ifb
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
    fronts: dict[Kind, Sequence[Point]] = {
        "rate_matched": beside.rate_matched,
        "end_to_end": beside.end_to_end,
        "ifb": beside.ifb,
    }
    for kind, front in fronts.items():
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
