"""The layouts of figures 9 to 15 of TensorRT-LLM's disaggregated-serving study, drawn from one's own results.

Each says which rows count, which fronts are drawn and how points are labelled; nothing of the study's data is in
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ratematch.match.points import Analysis, Kind, Point
from ratematch.show import style
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.labels import Labelled, label_points
from ratematch.show.picture import Picture, make_picture

Naming = Literal["bars", "counts", "plain"]
COLUMNS: tuple[str, ...] = (
    "figure",
    "series",
    "kind",
    "workload",
    "label",
    "mtp",
    "gpus",
    "concurrency",
    "tok_s_user",
    "tok_s_gpu",
)
COLUMNS += ("ttft_ms", "ratio", "drawn_label")


@dataclass(frozen=True)
class Preset:
    """``kinds``: fronts drawn. ``mtp``: rows that count; each value is a front of its own when ``split_mtp``.
    ``gen_gpus``: GPUs of a generation instance (and of the aggregated server) that count. ``study``: the ISL/OSL and
    model it had there. ``naming``: how points are called: ``CTX=1xTEP-4|GEN=2xDEP-8``, ``c4dep4_g1dep4`` or
    ``ctx1dep4-gen2dep4-mtp3``."""

    number: int
    title: str
    kinds: tuple[Kind, ...]
    study: str
    naming: Naming
    mtp: tuple[int, ...] | None = None
    split_mtp: bool = False
    gen_gpus: int | None = None


WITH_MTP = (1, 2, 3, 4, 5, 6, 7, 8)
R1, QWEN = "DeepSeek-R1 on GB200", "Qwen3-235B-A22B"

PRESETS: dict[int, Preset] = {
    preset.number: preset
    for preset in (
        Preset(9, "rate-matched, without MTP", ("rate_matched", "ifb"), f"{R1}, 4400/1200", "bars", (0,)),
        Preset(10, "rate-matched, with MTP", ("rate_matched", "ifb"), f"{R1}, 4400/1200", "bars", WITH_MTP),
        Preset(
            11,
            "generation instances of 4 GPUs",
            ("bound", "end_to_end", "ifb"),
            f"{R1}, 8192/256",
            "counts",
            gen_gpus=4,
        ),
        Preset(
            12,
            "generation instances of 8 GPUs",
            ("bound", "end_to_end", "ifb"),
            f"{R1}, 8192/256",
            "counts",
            gen_gpus=8,
        ),
        Preset(13, "end to end, MTP 1 to 3", ("end_to_end", "ifb"), f"{R1}, 4096/1024", "plain", (1, 2, 3), True),
        Preset(14, "end to end, without MTP", ("end_to_end", "ifb"), f"{R1}, 4096/1024", "plain", (0,)),
        Preset(15, "fronts", ("rate_matched", "end_to_end", "ifb"), f"{QWEN}, 8192/1024", "counts"),
    )
}


@dataclass(frozen=True)
class _Series:
    name: str
    kind: Kind
    points: tuple[Point, ...]
    look: style.KindStyle
    line: Any


def picture_preset(preset: Preset, analyses: Mapping[int | None, Analysis], workload: str) -> Picture:
    """The figure of one workload. ``analyses``: of the rows that count, by MTP when the preset splits it, else under
    ``None``."""
    any_analysis = next(iter(analyses.values()))
    series = [
        drawn
        for mtp, analysis in sorted(analyses.items(), key=lambda pair: pair[0] or 0)
        for drawn in _find_series(preset, analysis, workload, mtp)
    ]
    with style.house_style():
        figure = new_figure(style.FIGURE_INCHES)
        axes = figure.add_subplot()
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel(style.Y_LABEL)
        entries = [_draw(axes, drawn) for drawn in series]
        shown = [point for drawn in series for point in drawn.points]
        axes.set_xlim(0, max([point.tok_s_user for point in shown], default=1) * (1 + style.HEADROOM_X))
        axes.set_ylim(0, max([point.tok_s_gpu for point in shown], default=1) * (1 + style.HEADROOM_Y))
        if not shown:
            axes.text(
                0.5, 0.5, "No valid point of this kind in these results.", ha="center", transform=axes.transAxes
            )
        title = f"{any_analysis.model} on {any_analysis.gpu}: {preset.title}, ISL/OSL {workload}"
        footer = [
            f"Sweep {any_analysis.sweep}, engine {any_analysis.engine}. Layout of figure {preset.number} of the "
            f"TensorRT-LLM study, which showed {preset.study}.",
            "x = 1000 / TPOT [ms].  y = output tok/s over all GPUs in use."
            + ("  SOL: ideal fractional ctx:gen ratio, no deployment." if "bound" in preset.kinds else ""),
        ]
        bottom = draw_footer(figure, footer)
        top = draw_header(figure, title, entries, style.find_stamp(*analyses.values()), columns=3)
        fit_axes(figure, [axes], bottom, top)
        label_points(
            axes, [Labelled(drawn.name, drawn.look, _rename(preset.naming, drawn.points)) for drawn in series]
        )
    rows = [
        _row(preset, drawn, point, name_point(preset.naming, point)) for drawn in series for point in drawn.points
    ]
    return make_picture(f"figure-{preset.number}", figure, COLUMNS, rows)


def _find_series(preset: Preset, analysis: Analysis, workload: str, mtp: int | None) -> list[_Series]:
    """The fronts of one analysis in the preset's order."""
    analysed = next((candidate for candidate in analysis.workloads if candidate.workload == workload), None)
    if analysed is None:
        return []
    names: dict[Kind, str] = {
        "bound": "rate-matched (SOL)",
        "rate_matched": "rate-matched",
        "end_to_end": "end to end",
        "ifb": "IFB",
    }
    series = []
    for kind in preset.kinds:
        front = analysed.front(kind)
        if not front:
            continue
        look = style.KINDS["rate_matched" if kind == "bound" else kind]
        name = names[kind] + (f", MTP {mtp}" if mtp is not None else "")
        line = look.linestyle if mtp is None else style.mtp_line(mtp)
        series.append(_Series(name, kind, front, look, line))
    return series


def _draw(axes: Axes, series: _Series) -> Line2D:
    (line,) = axes.plot(
        [point.tok_s_user for point in series.points],
        [point.tok_s_gpu for point in series.points],
        color=series.look.colour,
        linestyle=series.line,
        linewidth=series.look.width_pt,
        marker=series.look.marker,
        markersize=series.look.marker_pt,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=series.look.zorder,
        label=series.name,
        gid=f"series:{series.name}",
    )
    return line


def _rename(naming: Naming, points: tuple[Point, ...]) -> tuple[Point, ...]:
    return tuple(replace(point, label=name_point(naming, point)) for point in points)


def name_point(naming: Naming, point: Point) -> str:
    """What a point is called: in the three notations of the study, by instances and mappings."""
    ctx, gen = point.ctx_mapping or "", point.gen_mapping or ""
    if point.kind == "ifb":
        return f"{gen.lower()}" + (f"-mtp{point.mtp}" if naming == "plain" and point.mtp else "")
    if point.kind == "bound":
        return f"ctx/gen={_number(point.ratio)}"
    match naming:
        case "bars":
            return f"CTX={point.ctx}x{_dashed(ctx)}|GEN={point.gen}x{_dashed(gen)}"
        case "counts":
            return f"c{point.ctx}{ctx.lower()}_g{point.gen}{gen.lower()}"
        case "plain":
            mtp = f"-mtp{point.mtp}" if point.mtp else ""
            return f"ctx{point.ctx}{ctx.lower()}-gen{point.gen}{gen.lower()}{mtp}"


def _dashed(mapping: str) -> str:
    """``TEP-4`` as the study writes ``TEP4``."""
    head = mapping.rstrip("0123456789")
    return f"{head}-{mapping[len(head) :]}" if head.isalpha() and head != mapping else mapping


def _number(ratio: str | None) -> str:
    if not ratio:
        return "?"
    above, _, below = ratio.partition("/")
    return f"{float(above) / float(below or 1):.2g}"


def _row(preset: Preset, series: _Series, point: Point, label: str) -> dict[str, Any]:
    own = {name: getattr(point, name) for name in COLUMNS if hasattr(point, name)}
    return own | {"figure": preset.number, "series": series.name, "drawn_label": label}
