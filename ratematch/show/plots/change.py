"""The fronts of two sweeps in one picture: before hollow and thin, after filled and bold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ratematch.match.change import Change
from ratematch.match.points import Analysis, Kind, Point
from ratematch.show import style
from ratematch.show.files import name_part, one_line
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture

When = Literal["before", "after"]
COLUMNS = ("workload", "kind", "sweep", "label", "tok_s_user", "tok_s_gpu", "tok_s_gpu_low", "tok_s_gpu_high")


KINDS: tuple[Kind, ...] = ("ifb", "rate_matched", "end_to_end")


def picture_change(change: Change, before: Analysis, after: Analysis, workload: str) -> Picture | None:
    """The fronts of both sweeps in one picture; ``None`` when neither has one for ``workload``."""
    fronts = [front for front in change.fronts if front.workload == workload]
    if not fronts:
        return None
    rows: list[dict[str, Any]] = []
    with style.house_style():
        figure = new_figure(style.FIGURE_INCHES)
        axes = figure.add_subplot()
        entries: list[Line2D] = []
        for front in sorted(fronts, key=lambda front: KINDS.index(front.kind)):
            sides: tuple[tuple[Sequence[Point], Analysis, When], ...] = (
                (front.before, before, "before"),
                (front.after, after, "after"),
            )
            for points, analysis, when in sides:
                if points:
                    entries.append(_draw_front(axes, front.kind, points, analysis.sweep, when))
                    rows += [_row(workload, front.kind, analysis.sweep, point) for point in points]
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel(style.Y_LABEL)
        axes.set_xlim(0, max(row["tok_s_user"] for row in rows) * 1.05)
        axes.set_ylim(0, max(row["tok_s_gpu"] for row in rows) * (1 + style.HEADROOM_Y))
        footer = [
            f"Before: {before.sweep}, {before.engine}. After: {after.sweep}, {after.engine}.",
            "x = 1000 / TPOT [ms].  y = output tok/s over all GPUs in use.  Hollow and thin: before.",
        ]
        worse = [text for front in fronts for text in front.regressions]
        bottom = draw_footer(
            figure, [*(f"Regression: {text}." for text in worse[:1]), *footer], bold_first=bool(worse)
        )
        title = f"{after.model} on {after.gpu}: before and after, ISL/OSL {workload}"
        stamp = style.find_stamp(before, after)
        top = draw_header(figure, title, entries, stamp, columns=2)
        fit_axes(figure, [axes], bottom, top)
    return make_picture(f"compare-{name_part(workload)}", figure, COLUMNS, rows)


def _draw_front(axes: Axes, kind: Kind, points: Sequence[Point], sweep: str, when: When) -> Line2D:
    look = style.KINDS[kind]
    (line,) = axes.plot(
        [point.tok_s_user for point in points],
        [point.tok_s_gpu for point in points],
        color=look.colour,
        linestyle=look.linestyle,
        linewidth=look.width_pt if when == "after" else look.width_pt / 2,
        marker=look.marker,
        markersize=look.marker_pt,
        markerfacecolor=look.colour if when == "after" else "white",
        markeredgewidth=1.0,
        zorder=look.zorder,
        label=f"{look.name}, {one_line(sweep)} ({when})",
        gid=f"{when}:{kind}",
    )
    return line


def _row(workload: str, kind: Kind, sweep: str, point: Point) -> dict[str, Any]:
    figures = {name: getattr(point, name) for name in COLUMNS[4:]}
    return {"workload": workload, "kind": kind, "sweep": sweep, "label": point.label} | figures
