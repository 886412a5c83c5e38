"""How the GPUs are split between context and generation along the fronts: the best ratio is not constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ratematch.match.points import Analysis, Kind, Point, WorkloadAnalysis
from ratematch.plan.parallelism import parse_mapping
from ratematch.show import style
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture

COLUMNS = (
    "kind",
    "label",
    "tok_s_user",
    "tok_s_gpu",
    "ctx",
    "gen",
    "ctx_gpus",
    "gen_gpus",
    "ctx_share",
    "ideal_ratio",
)
KINDS: tuple[Kind, ...] = ("rate_matched", "end_to_end")
SPACING = 0.025
"""Ratios closer than this share of the axis to the last written one are left to the table."""


def picture_split(workload: WorkloadAnalysis, analysis: Analysis, name: str) -> Picture | None:
    """Share of the GPUs that are context servers at every point of the fronts, with ctx:gen instances beside it.

    ``None`` when neither front has a point.
    """
    rows = [
        _row(point)
        for kind in KINDS
        for point in (workload.rate_matched if kind == KINDS[0] else workload.end_to_end)
    ]
    if not rows:
        return None
    with style.house_style():
        figure = new_figure(style.SPEEDUP_INCHES)
        axes = figure.add_subplot()
        right = 1.08 * max(row["tok_s_user"] for row in rows)
        entries = [line for kind in KINDS if (line := _draw(axes, kind, [r for r in rows if r["kind"] == kind]))]
        _write_ratios(axes, [row for row in rows if row["kind"] == "rate_matched"] or rows, right)
        axes.set_xlim(0, right)
        axes.set_ylim(0, 1)
        for height, words in ((0.08, "context servers"), (0.92, "generation servers")):
            axes.text(0.02 * right, height, words, va="center", fontsize=style.TICK_PT, color=style.GREY)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel("GPUs that are context servers")
        footer = [
            f"Sweep {analysis.sweep}, engine {analysis.engine}.",
            "Numbers: context to generation instances. A deployment also serves every lower speed, down to the "
            "point before.",
        ]
        bottom = draw_footer(figure, footer)
        title = f"{analysis.model} on {analysis.gpu}: split of the GPUs, ISL/OSL {workload.workload}"
        top = draw_header(figure, title, entries, style.find_stamp(workload, analysis))
        fit_axes(figure, [axes], bottom, top)
    return make_picture(name, figure, COLUMNS, rows)


def _row(point: Point) -> dict[str, Any]:
    ctx_gpus = point.ctx * parse_mapping(point.ctx_mapping).gpus if point.ctx_mapping else 0
    return {
        "kind": point.kind,
        "label": point.label,
        "tok_s_user": point.tok_s_user,
        "tok_s_gpu": point.tok_s_gpu,
        "ctx": point.ctx,
        "gen": point.gen,
        "ctx_gpus": ctx_gpus,
        "gen_gpus": point.gpus - ctx_gpus,
        "ctx_share": ctx_gpus / point.gpus,
        "ideal_ratio": point.ratio,
    }


def _draw(axes: Axes, kind: Kind, rows: Sequence[dict[str, Any]]) -> Line2D | None:
    if not rows:
        return None
    look = style.KINDS[kind]
    x, y = [row["tok_s_user"] for row in rows], [row["ctx_share"] for row in rows]
    if kind == "rate_matched":
        # A deployment serves every speed up to its own, so the split holds from the one before it.
        axes.fill_between([0, *x], [y[0], *y], step="pre", color=look.colour, alpha=style.BAND_ALPHA, linewidth=0)
    (line,) = axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.linestyle if kind == "rate_matched" else "none",
        linewidth=1.4,
        drawstyle="steps-pre",
        marker=look.marker,
        markersize=look.marker_pt,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=look.zorder,
        label=look.name,
        gid=f"split:{kind}",
    )
    return line


def _write_ratios(axes: Axes, rows: Sequence[dict[str, Any]], right: float) -> None:
    last: float | None = None
    before = ""
    for row in rows:
        text = f"{row['ctx']}:{row['gen']}"
        if text == before or (last is not None and row["tok_s_user"] - last < SPACING * right):
            continue
        last, before = row["tok_s_user"], text
        axes.annotate(
            text,
            (row["tok_s_user"], row["ctx_share"]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=style.LABEL_PT,
            gid="ratio",
        )
