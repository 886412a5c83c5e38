"""What changed between two sweeps: for a terminal, as JSON, and as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from matplotlib.lines import Line2D
from rich.console import Console
from rich.text import Text

from ratematch.match.change import Change, FrontChange
from ratematch.match.points import Analysis, Kind
from ratematch.show import style
from ratematch.show.console import table
from ratematch.show.files import name_part, one_line
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture

COLUMNS = ("workload", "kind", "sweep", "label", "tok_s_user", "tok_s_gpu", "tok_s_gpu_low", "tok_s_gpu_high")
LONGEST = 90


def change_to_json(change: Change) -> dict[str, Any]:
    """Fronts with their ratios, regressions in words, and ``regressed``."""
    return {
        "regressed": bool(change.regressions),
        "fronts": [
            {
                "workload": front.workload,
                "kind": front.kind,
                "speedups": [asdict(row) for row in front.speedups],
                "ends": [asdict(ratio) for ratio in front.ends],
                "whole": asdict(front.whole) if front.whole else None,
                "regressions": list(front.regressions),
                "within_noise": list(front.within_noise),
            }
            for front in change.fronts
        ],
        "only_before": list(change.only_before),
        "only_after": list(change.only_after),
    }


def print_change(
    change: Change, drift: Iterable[tuple[str, str | None, str | None]], before: str, after: str, console: Console
) -> None:
    """Drift first, for it may explain the rest; then each front; regressions last, where the eye ends."""
    rows = [(what, _short(a), _short(b)) for what, a, b in drift]
    if rows:
        console.print(table("not the same in both", ("what", before, after), rows))
    else:
        console.print(Text("the same question, versions and settings in both"))
    for front in change.fronts:
        console.print()
        _print_front(front, console)
    for name in change.only_before:
        console.print(Text(f"{one_line(name)}: only in {before}"))
    for name in change.only_after:
        console.print(Text(f"{one_line(name)}: only in {after}"))
    console.print()
    for front in change.fronts:
        for text in front.within_noise:
            console.print(Text(f"within noise: {one_line(text)}"))
        for text in front.regressions:
            console.print(Text(f"REGRESSION: {one_line(text)}", style="bold red"))
    if not change.regressions:
        console.print(Text("no regression"))


def _print_front(front: FrontChange, console: Console) -> None:
    name = style.KINDS[front.kind].name
    if not front.speedups:
        why = "is new" if not front.before else "is gone" if not front.after else "does not overlap the one before"
        console.print(Text(f"{one_line(front.workload)}: {name} {why}"))
        return
    columns = ("tok/s/user", "step", "linear", "95 %: low", "high")
    rows = [(row.tok_s_user, row.step, row.linear, row.linear_low, row.linear_high) for row in front.speedups]
    console.print(table(f"{front.workload}: {name}, tok/s/GPU of after over before", columns, rows))
    told = [f"{ratio.what} {ratio.value:.3f}{_span(ratio.low, ratio.high)}" for ratio in front.ends]
    if front.whole is not None and front.whole.hypervolume_ratio is not None:
        ends = front.whole.hypervolume_interval or (None, None)
        told.append(f"hypervolume {front.whole.hypervolume_ratio:.3f}{_span(*ends)}")
    console.print(Text("; ".join(told)))


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"


def _short(value: str | None) -> str | None:
    if value is None or len(value) <= LONGEST:
        return value
    return value[: LONGEST - 2] + " …"


def picture_change(change: Change, before: Analysis, after: Analysis, workload: str) -> Picture | None:
    """The fronts of both sweeps in one picture: before hollow and thin, after filled and bold; ``None`` without."""
    fronts = [front for front in change.fronts if front.workload == workload]
    if not fronts:
        return None
    kinds: tuple[Kind, ...] = ("ifb", "rate_matched", "end_to_end")
    rows: list[dict[str, Any]] = []
    with style.house_style():
        figure = new_figure(style.FIGURE_INCHES)
        axes = figure.add_subplot()
        entries: list[Line2D] = []
        for kind in kinds:
            for front in (front for front in fronts if front.kind == kind):
                for number, (points, analysis) in enumerate(((front.before, before), (front.after, after))):
                    if not points:
                        continue
                    look = style.KINDS[kind]
                    (line,) = axes.plot(
                        [point.tok_s_user for point in points],
                        [point.tok_s_gpu for point in points],
                        color=look.colour,
                        linestyle=look.linestyle,
                        linewidth=look.width_pt if number else look.width_pt / 2,
                        marker=look.marker,
                        markersize=look.marker_pt,
                        markerfacecolor=look.colour if number else "white",
                        markeredgewidth=1.0,
                        zorder=look.zorder,
                        label=f"{look.name}, {one_line(analysis.sweep)} ({'after' if number else 'before'})",
                        gid=f"{'after' if number else 'before'}:{kind}",
                    )
                    entries.append(line)
                    rows += [
                        {"workload": workload, "kind": kind, "sweep": analysis.sweep, "label": point.label}
                        | {name: getattr(point, name) for name in COLUMNS[4:]}
                        for point in points
                    ]
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
