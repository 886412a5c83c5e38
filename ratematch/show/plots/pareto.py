"""Pareto plots.

Axes are fixed for every plot: x tok/s/user, y tok/s/GPU, better is up and right. Figures are plain objects on an Agg
canvas: no pyplot, no window, no state left behind.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from ratematch.match.gaps import WHOLE_INSTANCES
from ratematch.match.objective import COUNTED
from ratematch.match.points import Analysis, Kind, Point, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.files import one_line
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.labels import draw_labels
from ratematch.show.picture import Picture, make_picture
from ratematch.show.plots.gap import sum_up_causes
from ratematch.show.tables import POINT_COLUMNS, each_point_row

FRONT_KINDS: tuple[Kind, ...] = ("bound", "ifb", "rate_matched", "end_to_end")
SPREAD = "ISL/OSL~r: output lengths spread evenly from r × OSL to OSL."
NUM_CAUSES, NAMED_SHARE = 2, 0.1
"""Causes of the gap named in the legend, at most, and the share of the gap below which one is not named."""
MANY_CURVES = 40
"""More thin curves of a kind than this are drawn fainter, the more the fainter: they must not hide the fronts."""


def plot_pareto(workload: WorkloadAnalysis, analysis: Analysis, log_y: bool = False) -> Figure:
    """Rate-matched, bound, end-to-end and IFB fronts of one workload.

    A front of one point is a marker, one of none is named as missing; neither is an error. Line artists carry a
    ``gid``: ``front:<kind>``, ``curve:<kind>:<n>``; labels ``label:<kind>:<n>``; the stamp ``emulated``.
    """
    stamp = style.find_stamp(workload, analysis)
    with style.house_style():
        figure = new_figure(style.FIGURE_INCHES)
        axes = figure.add_subplot()
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel(style.Y_LABEL)
        entries = _draw_data(axes, workload)
        _set_limits(axes, _all_points(workload), log_y)
        title = f"{analysis.model} on {analysis.gpu}: ISL/OSL {workload.workload}"
        footer = [f"Sweep {analysis.sweep}, engine {analysis.engine}.", _define(analysis)]
        if "~" in workload.workload:
            footer.append(SPREAD)
        missing = _missing(workload)
        if missing:
            footer.insert(0, "Incomplete: " + "; ".join(missing) + ".")
        bottom = draw_footer(figure, footer, bold_first=bool(missing))
        top = draw_header(figure, title, entries, stamp)
        fit_axes(figure, [axes], bottom, top)
        if not _all_points(workload):
            _write_empty(axes, workload)
        else:
            draw_labels(axes, {kind: workload.front(kind) for kind in FRONT_KINDS})
    return figure


def _define(analysis: Analysis) -> str:
    counted = COUNTED[analysis.objective]
    counted = counted if counted.startswith("all") else f"all {counted}"
    return (
        f"x = 1000 / TPOT [ms].  y = output tok/s over {counted}.  Only the markers are deployments; lines join them."
    )


def picture_pareto(workload: WorkloadAnalysis, analysis: Analysis, name: str, log_y: bool = False) -> Picture:
    """:func:`plot_pareto` with every point behind it, on a front or not."""
    rows = each_point_row(replace(analysis, workloads=(workload,)))
    return make_picture(name, plot_pareto(workload, analysis, log_y), (*POINT_COLUMNS, "on_front"), rows)


def gap_band(
    upper: Sequence[Point], lower: Sequence[Point]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(tok/s/user, upper tok/s/GPU, lower tok/s/GPU), arrays of one length, where both fronts exist.

    Each front is read between its neighbouring points (as drawn) at the corners of both; empty arrays when undefined:
    a front with fewer than two points, or no overlap.
    """
    none: NDArray[np.float64] = np.empty(0)
    if len(upper) < 2 or len(lower) < 2:
        return none, none, none
    (ux, uy), (lx, ly) = _arrays(upper), _arrays(lower)
    low, high = max(ux[0], lx[0]), min(ux[-1], lx[-1])
    if low >= high:
        return none, none, none
    corners = np.unique(np.concatenate([ux, lx, [low, high]]))
    x = corners[(corners >= low) & (corners <= high)]
    return x, np.interp(x, ux, uy), np.interp(x, lx, ly)


def _arrays(front: Sequence[Point]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([p.tok_s_user for p in front]), np.array([p.tok_s_gpu for p in front])


def _all_points(workload: WorkloadAnalysis) -> list[Point]:
    fronts = [point for kind in FRONT_KINDS for point in workload.front(kind)]
    return [*fronts, *workload.plans, *workload.measured]


def _draw_data(axes: Axes, workload: WorkloadAnalysis) -> list[Line2D | Patch]:
    """Draws everything but labels; returns the legend's entries in reading order."""
    curves = _draw_curves(axes, [*workload.plans, *workload.measured])
    x, upper, lower = gap_band(workload.rate_matched, workload.end_to_end)
    if x.size:
        axes.fill_between(
            x,
            lower,
            upper,
            where=list(upper >= lower),  # where the runs are better than predicted there is no gap
            interpolate=True,
            color=style.VERMILION,
            alpha=style.GAP_ALPHA,
            linewidth=0,
            gid="gap",
            zorder=1,
        )
    mixed = _mixes_mtp(workload)
    fronts = {kind: _draw_front(axes, kind, workload.front(kind), mixed) for kind in FRONT_KINDS}
    order: tuple[Kind, ...] = ("rate_matched", "end_to_end", "ifb", "bound")
    entries: list[Line2D | Patch] = [line for kind in order if (line := fronts[kind]) is not None]
    if (upper > lower).any():
        entries.append(
            Patch(color=style.VERMILION, alpha=2 * style.GAP_ALPHA, linewidth=0, label=_name_gap(workload))
        )
    if curves:
        entries.append(
            Line2D([], [], color=style.GREY, linewidth=style.THIN_WIDTH_PT, label="one deployment, all loads")
        )
    if mixed:
        blank = {"linestyle": "none", "marker": "D", "markersize": 4.5, "color": style.INK}
        entries.append(Line2D([], [], label="MTP on (filled)", **blank))  # type: ignore[arg-type]
        entries.append(Line2D([], [], markerfacecolor="white", label="MTP off (hollow)", **blank))  # type: ignore[arg-type]
    return entries


def _name_gap(workload: WorkloadAnalysis) -> str:
    """The shaded band with what it is mostly made of, over all end-to-end runs that are explained.

    Both its fronts are of whole instances, so what these lose is not in it. Shares are of all that is lost: of what
    is left of it after gains (negative parts) they would add up to more than the whole.
    """
    explained = [
        replace(gap, parts=tuple(part for part in gap.parts if part.name not in WHOLE_INSTANCES))
        for gap in workload.gaps
        # Runs that are no worse than predicted are not in the band.
        if gap.rate_matched is None or gap.end_to_end < gap.rate_matched
    ]
    losses = [(name, share) for name, share in sum_up_causes(explained) if share > 0]
    whole = sum(share for _, share in losses)
    causes = [(name, share / whole) for name, share in losses if share >= NAMED_SHARE * whole][:NUM_CAUSES]
    if not causes:
        return "gap between the two"
    return "gap between the two: " + ", ".join(f"{share:.0%} {name}" for name, share in causes)


def _mixes_mtp(workload: WorkloadAnalysis) -> bool:
    shown = [point for kind in FRONT_KINDS if kind != "bound" for point in workload.front(kind)]
    return len({point.mtp > 0 for point in shown}) == 2


def _draw_curves(axes: Axes, points: Sequence[Point]) -> list[Line2D]:
    """A thin line for each deployment through all its loads, whether on a front or not."""
    groups: dict[tuple[Kind, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.kind, point.label), []).append(point)
    curves = []
    many = Counter(kind for kind, _ in groups)
    alphas = {kind: _find_alpha(number) for kind, number in many.items()}
    for number, ((kind, _), members) in enumerate(sorted(groups.items())):
        members.sort(key=lambda point: (point.concurrency, -point.tok_s_user))
        (curve,) = axes.plot(
            *_arrays(members),
            color=style.KINDS[kind].colour,
            alpha=alphas[kind],
            linewidth=style.THIN_WIDTH_PT,
            marker=style.KINDS[kind].marker or ".",
            markersize=style.CURVE_MARKER_PT,
            markeredgewidth=0,
            zorder=2,
            gid=f"curve:{kind}:{number}",
        )
        curves.append(curve)
    return curves


def _find_alpha(number: int) -> float:
    """Of each of so many thin curves."""
    faint = 1.0 if number <= MANY_CURVES else 0.5 * (MANY_CURVES / number) ** 0.35
    return style.CURVE_ALPHA * faint


def _draw_front(axes: Axes, kind: Kind, front: Sequence[Point], mixed_mtp: bool) -> Line2D | None:
    if not front:
        return None
    look = style.KINDS[kind]
    (line,) = axes.plot(
        *_arrays(front),
        color=look.colour,
        linestyle=look.linestyle,
        linewidth=look.width_pt,
        marker=look.marker or ("." if len(front) == 1 else ""),
        markersize=look.marker_pt or style.CURVE_MARKER_PT * 2,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=look.zorder,
        label=look.name,
        gid=f"front:{kind}",
    )
    sure = [
        (point.tok_s_user, point.tok_s_gpu_low, point.tok_s_gpu_high)
        for point in front
        if look.marker and point.tok_s_gpu_low is not None and point.tok_s_gpu_high is not None
    ]
    if sure:
        axes.vlines(
            [x for x, _, _ in sure],
            [low for _, low, _ in sure],
            [high for _, _, high in sure],
            colors=look.colour,
            linewidth=style.LEADER_WIDTH_PT * 1.6,
            zorder=look.zorder - 0.1,
            gid=f"interval:{kind}",
        )
    plain = [point for point in front if point.mtp == 0]
    if look.marker and plain and mixed_mtp:
        axes.plot(
            *_arrays(plain),
            linestyle="none",
            marker=look.marker,
            markersize=look.marker_pt - 0.6,
            markerfacecolor="white",
            markeredgecolor=look.colour,
            markeredgewidth=1.1,
            zorder=look.zorder + 0.1,
            gid=f"mtp-off:{kind}",
        )
    return line


def _set_limits(axes: Axes, points: Sequence[Point], log_y: bool) -> None:
    """From zero, unless the data sit in the far half of the axis; room above and right for labels."""
    if not points:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        return
    xs, ys = [p.tok_s_user for p in points], [p.tok_s_gpu for p in points]
    left, right = min(xs), max(xs)
    span = (right - left) or right or 1.0
    axes.set_xlim(0 if left < right / 2 else max(0.0, left - 0.25 * span), right + style.HEADROOM_X * span)
    top = max(ys) or 1.0
    positive = [y for y in ys if y > 0]
    if log_y and positive:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) / 1.5, top * 1.5)
        for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_format(FuncFormatter(_plain_number))
    else:
        axes.set_ylim(0, top * (1 + style.HEADROOM_Y))


def _plain_number(value: float, _: object = None) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _missing(workload: WorkloadAnalysis) -> list[str]:
    """What a reader would look for and not find."""
    missing = []
    for kind in ("rate_matched", "end_to_end", "ifb"):
        front = workload.front(kind)
        if len(front) < 2:
            missing.append(f"{style.KINDS[kind].name} has {'one point only' if front else 'no point'}")
    if missing and workload.left_out:
        missing.append(f"loads left out as invalid: {len(workload.left_out)}")
    return missing


def _write_empty(axes: Axes, workload: WorkloadAnalysis) -> None:
    lines = [f"No valid point for {workload.workload}."]
    lines += [f"{label}, {load}: {', '.join(reasons)}" for label, load, reasons in workload.left_out[:5]]
    if len(workload.left_out) > 5:
        lines.append(f"and {len(workload.left_out) - 5} more, see left_out.csv")
    text = "\n".join(textwrap.shorten(one_line(line), 90, placeholder=" …") for line in lines)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, gid="empty", linespacing=1.7)
