"""Speed-up over IFB at equal tok/s/user, stepped and linear, with the band of its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ratematch.match.points import Analysis, Kind, Speedup, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture

SPEEDUP_KINDS: tuple[Kind, ...] = ("rate_matched", "end_to_end")
FEW_SPEEDUPS = 15
"""Up to this many rows each gets a marker."""


def plot_speedup(workload: WorkloadAnalysis, analysis: Analysis) -> Figure:
    """tok/s/GPU over IFB at equal tok/s/user: stepped and linear, for each front that has it."""
    stamp = style.find_stamp(workload, analysis)
    with style.house_style():
        figure = new_figure(style.SPEEDUP_INCHES)
        axes = figure.add_subplot()
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel("Throughput over IFB [×]")
        entries = [line for kind in SPEEDUP_KINDS for line in _draw_speedup(axes, kind, workload.speedups)]
        axes.axhline(1, color=style.GREY, linewidth=1, linestyle=(0, (1, 1)), zorder=1)
        top = _find_top(workload.speedups)
        axes.set_ylim(0, top * (1 + style.HEADROOM_Y))
        axes.margins(x=0.03)
        title = f"{analysis.model} on {analysis.gpu}: speed-up over IFB, ISL/OSL {workload.workload}"
        footer = [
            f"Sweep {analysis.sweep}, engine {analysis.engine}.",
            "Ratio of output tok/s/GPU at equal tok/s/user, only where both fronts have points.  "
            "linear: fronts read between neighbouring points.  step: best single deployment at that speed or "
            "faster.  "
            "Band: 95 % interval of linear from the noise of the measured rates"
            + ("." if _has_band(workload) else ", which is not known here."),
        ]
        steps = [row.step for row in workload.speedups if row.step is not None]
        if steps and max(steps) > top * (1 + style.HEADROOM_Y):
            footer.append(
                f"step goes up to {max(steps):.2f}, above the frame: there IFB has no measured point near that speed."
            )
        bottom = draw_footer(figure, footer)
        top = draw_header(figure, title, entries, stamp)
        fit_axes(figure, [axes], bottom, top)
    return figure


def _find_top(speedups: Sequence[Speedup]) -> float:
    """The highest ratio that sets the scale: of the linear reading and its interval, and of step up to twice that.
    Step says tenfold where IFB's next point beyond a hole in its front gives so little."""
    linear = [value for row in speedups for value in (row.linear, row.linear_high) if value is not None]
    steps = [row.step for row in speedups if row.step is not None]
    if not linear:
        return max([1.0, *steps])
    return max(1.0, *linear, min(2 * max(1.0, *linear), max(steps, default=0.0)))


def picture_speedup(workload: WorkloadAnalysis, analysis: Analysis, name: str) -> Picture | None:
    """:func:`plot_speedup` with its rows; ``None`` where no speed-up is defined."""
    if not any(row.step is not None or row.linear is not None for row in workload.speedups):
        return None
    columns = [field.name for field in fields(Speedup)]
    return make_picture(name, plot_speedup(workload, analysis), columns, [asdict(row) for row in workload.speedups])


def _has_band(workload: WorkloadAnalysis) -> bool:
    return any(row.linear_low is not None for row in workload.speedups)


def _draw_speedup(axes: Axes, kind: Kind, speedups: Sequence[Speedup]) -> list[Line2D]:
    look = style.KINDS[kind]
    rows = sorted((row for row in speedups if row.kind == kind), key=lambda row: row.tok_s_user)
    linear = [(row.tok_s_user, row.linear) for row in rows if row.linear is not None]
    band = [
        (row.tok_s_user, row.linear_low, row.linear_high)
        for row in rows
        if row.linear_low is not None and row.linear_high is not None
    ]
    if band:
        axes.fill_between(
            [x for x, _, _ in band],
            [low for _, low, _ in band],
            [high for _, _, high in band],
            color=look.colour,
            alpha=style.BAND_ALPHA,
            linewidth=0,
            hatch=look.hatch,
            zorder=look.zorder - 1,
            gid=f"speedup:{kind}:interval",
        )
    step = [(row.tok_s_user, row.step) for row in rows if row.step is not None]
    lines: list[Line2D] = []
    if linear:
        lines += axes.plot(
            [x for x, _ in linear],
            [y for _, y in linear],
            color=look.colour,
            linestyle=look.linestyle,
            linewidth=look.width_pt,
            marker=look.marker if len(linear) <= FEW_SPEEDUPS else "",
            markersize=look.marker_pt,
            zorder=look.zorder,
            gid=f"speedup:{kind}:linear",
            label=f"{look.name}, linear",
        )
    if step:
        lines += axes.plot(
            [x for x, _ in step],
            [y for _, y in step],
            color=look.colour,
            linewidth=style.THIN_WIDTH_PT,
            drawstyle="steps-pre",  # a deployment serves every speed up to its own
            marker=look.marker if len(step) <= FEW_SPEEDUPS else "",
            markersize=style.CURVE_MARKER_PT * 2,
            zorder=look.zorder - 0.5,
            gid=f"speedup:{kind}:step",
            label=f"{look.name}, step",
        )
    return lines
