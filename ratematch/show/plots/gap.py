"""What keeps end-to-end runs below the ideal: each run's parts side by side, and summed up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ratematch.match.gaps import POSTING, TRANSFER, WHOLE_INSTANCES
from ratematch.match.points import Analysis, Gap, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture

COLUMNS = ("label", "concurrency", "tok_s_user", "part", "tok_s_gpu", "measured_tok_s_gpu", "ideal_tok_s_gpu")
PARTS = (
    *WHOLE_INSTANCES, "ctx slow-down", "ctx slow-down, KV transfer, queues and router", "ctx queue", TRANSFER,
    "gen queue", POSTING, "gen slow-down", "router", "client and network", "residual",
)  # fmt: skip
"""All parts, from the start of a request to its end: each looks the same in every picture."""
BAR = 0.62
ROW_IN = 0.34
LONGEST = 36
"""Characters of a label in one line."""
MOST_BARS = 40
"""Runs that are drawn: a picture of more is longer than anybody reads."""


def sum_up_causes(gaps: Iterable[Gap]) -> list[tuple[str, float]]:
    """(name, share of all tok/s/GPU lost) over all explained runs, largest first; shares add up to 1.

    A part that gains (negative) lowers the sum; empty when nothing is explained, or when nothing is lost on the
    whole.
    """
    sums: dict[str, float] = {}
    for gap in gaps:
        for part in gap.parts:
            sums[part.name] = sums.get(part.name, 0.0) + part.tok_s_gpu
    total = sum(sums.values())
    if total <= 0:
        return []
    return sorted(((name, value / total) for name, value in sums.items()), key=lambda pair: -pair[1])


def picture_gap(workload: WorkloadAnalysis, analysis: Analysis, name: str) -> Picture | None:
    """A bar for each explained end-to-end run, of many those with most tok/s/GPU: what was measured, then what is
    missing to the ideal, part by part.

    ``None`` when no run is explained.
    """
    gaps = sorted((gap for gap in workload.gaps if gap.parts), key=lambda gap: gap.tok_s_user)
    if not gaps:
        return None
    best = sorted(gaps, key=lambda gap: -gap.end_to_end)[:MOST_BARS]
    shown = [gap for gap in gaps if gap in best] if len(gaps) > MOST_BARS else gaps
    # A part that nothing is lost to would only lengthen the legend.
    lost = {part.name for gap in shown for part in gap.parts if part.tok_s_gpu}
    names = [name for name in dict.fromkeys(part.name for gap in shown for part in gap.parts) if name in lost]
    row_in = ROW_IN * (1.5 if any("\n" in _folded(gap.label) for gap in shown) else 1)
    with style.house_style():
        figure = new_figure((style.SPEEDUP_INCHES[0], 2.3 + row_in * len(shown)))
        axes = figure.add_subplot()
        _draw_bars(axes, shown, names)
        entries: list[Patch | Line2D] = [
            Patch(
                facecolor=style.LIGHT_GREY,
                edgecolor=style.INK,
                linewidth=0.5,
                label=style.say_origin("measured end to end", workload),
            )
        ]
        entries += [_patch(part) for part in names]
        entries.append(Line2D([], [], color=style.INK, linewidth=1.4, label="ideal (upright line)"))
        title = f"{analysis.model} on {analysis.gpu}: what the gap is made of, ISL/OSL {workload.workload}"
        footer = [
            f"Sweep {analysis.sweep}, engine {analysis.engine}.",
            "From measured to the ideal fractional ratio of the same servers at the same requests in flight. "
            "Parts to the "
            "left of the bar's end are gains. What no part explains is the residual.",
        ]
        if len(shown) < len(gaps):
            footer.append(f"{len(shown)} of {len(gaps)} runs, those with most tok/s/GPU; the table has all.")
        bottom = draw_footer(figure, footer)
        stamp = style.find_stamp(workload, analysis)
        top = draw_header(figure, title, entries, stamp, columns=3)
        fit_axes(figure, [axes], bottom, top)
    rows = [
        {
            "label": gap.label,
            "concurrency": gap.concurrency,
            "tok_s_user": gap.tok_s_user,
            "part": part.name,
            "tok_s_gpu": part.tok_s_gpu,
            "measured_tok_s_gpu": gap.end_to_end,
            "ideal_tok_s_gpu": gap.ideal,
        }
        for gap in gaps
        for part in gap.parts
    ]
    return make_picture(name, figure, COLUMNS, rows)


def _look(part: str) -> tuple[str, str]:
    """Colour and hatch of a part, the same in every picture."""
    place = PARTS.index(part) if part in PARTS else len(PARTS)
    return style.series_style(place).colour, style.HATCHES[place % len(style.HATCHES)]


def _patch(part: str) -> Patch:
    colour, hatch = _look(part)
    return Patch(facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0.5, label=part)


def _folded(label: str) -> str:
    """A long label in two lines, ctx over gen, so that the names leave room for the bars."""
    ctx, dash, gen = label.partition("-gen")
    return f"{ctx}\n-gen{gen}" if dash and len(label) > LONGEST else label


def _draw_bars(axes: Axes, gaps: Sequence[Gap], names: Sequence[str]) -> None:
    for place, gap in enumerate(gaps):
        axes.barh(
            place,
            gap.end_to_end,
            BAR,
            color=style.LIGHT_GREY,
            edgecolor=style.INK,
            linewidth=0.5,
            gid=f"measured:{place}",
        )
        parts = {part.name: part.tok_s_gpu for part in gap.parts}
        right = left = gap.end_to_end
        for number, name in enumerate(names):
            value = parts.get(name, 0.0)
            if not value:
                continue
            colour, hatch = _look(name)
            start = right if value > 0 else left
            axes.barh(
                place,
                value,
                BAR if value > 0 else BAR / 2,
                left=start,
                color=colour,
                edgecolor="white",
                linewidth=0.5,
                hatch=hatch,
                gid=f"part:{place}:{number}",
            )
            right, left = (right + value, left) if value > 0 else (right, left + value)
        if gap.ideal is not None:
            axes.plot(
                [gap.ideal] * 2, [place - 0.42, place + 0.42], color=style.INK, linewidth=1.4, gid=f"ideal:{place}"
            )
    axes.set_yticks(
        range(len(gaps)), [f"{_folded(gap.label)}\nat {gap.concurrency or 0:.0f} in flight" for gap in gaps]
    )
    axes.invert_yaxis()
    axes.set_xlabel("Throughput [output tok/s/GPU]")
    axes.grid(axis="y", visible=False)
