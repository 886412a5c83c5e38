"""Servers measured apart: ctx rate and TTFT over load, gen throughput over tok/s/user, a curve a mapping and MTP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ratematch.match.figures import Figures
from ratematch.match.points import Analysis
from ratematch.plan.load import Concurrency, Constraints
from ratematch.show import style
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture

MANY_CURVES = 10
"""With more, the legend names mappings and MTP instead of curves, and no numbers are written."""
CTX_COLUMNS = ("label", "mapping", "mtp", "gpus", "load", "req_s_gpu", "ttft_ms", "ttft_limit_ms", "within")
GEN_COLUMNS = ("label", "mapping", "mtp", "gpus", "load", "tok_s_user", "tok_s_gpu", "tpot_ms")


@dataclass(frozen=True)
class _Curve:
    """One configuration: its rows by rising load. ``look``: that of its mapping."""

    mapping: str
    mtp: int
    look: style.SeriesStyle
    rows: tuple[dict[str, Any], ...]
    options: str = ""

    @property
    def servers(self) -> str:
        """Parallelism, and the options that tell configurations of it apart."""
        return f"{self.mapping}, {self.options}" if self.options else self.mapping

    @property
    def label(self) -> str:
        return f"{self.servers}, MTP {self.mtp}" if self.mtp else f"{self.servers}, no MTP"

    def values(self, column: str) -> list[float]:
        return [row[column] for row in self.rows]


def picture_ctx(
    figures: Sequence[Figures], constraints: Constraints, analysis: Analysis, workload: str, name: str
) -> Picture | None:
    """requests/s/GPU and TTFT of every ctx configuration over requests in flight; ``None`` without ctx rows.

    Rows over the TTFT limit are hollow: they are allowed no say in the matching.
    """
    rows = [_ctx_row(row, constraints) for row in figures]
    if not rows:
        return None
    curves = _group(rows)
    with style.house_style():
        figure = new_figure(style.PANELS_INCHES)
        rate, ttft = figure.subplots(1, 2)
        for number, curve in enumerate(curves):
            for axes, column in ((rate, "req_s_gpu"), (ttft, "ttft_ms")):
                _draw_curve(axes, curve, number, column)
        for axes in (rate, ttft):
            _set_loads(axes, sorted({row["load"] for row in rows}))
            axes.set_xlabel("Load [requests in flight]")
            axes.set_ylim(bottom=0)
        rate.set_ylabel("Context rate [requests/s/GPU]")
        ttft.set_ylabel(f"TTFT ({_percentile(constraints)}) [ms]")
        entries = _entries(curves)
        if constraints.ttft_ms is not None:
            ttft.axhline(constraints.ttft_ms, color=style.INK, linewidth=1.1, linestyle=(0, (6, 2)), gid="limit")
            ttft.set_ylim(0, max(ttft.get_ylim()[1], constraints.ttft_ms * 1.12))
            entries.append(Line2D([], [], color=style.INK, linewidth=1.1, linestyle=(0, (6, 2)), label="TTFT limit"))
        if not all(row["within"] for row in rows):
            entries.append(_hollow("over the limit (hollow)"))
        footer = [
            f"Sweep {analysis.sweep}, engine {analysis.engine}. One context server alone, one output token a "
            f"request.",
            "TTFT counts the queue in front of the server; its limit decides which rates may be matched.",
        ]
        _finish(figure, [rate, ttft], "context servers", workload, analysis, entries, footer)
    return make_picture(name, figure, CTX_COLUMNS, [row for curve in curves for row in curve.rows])


def picture_gen(figures: Sequence[Figures], analysis: Analysis, workload: str, name: str) -> Picture | None:
    """tok/s/GPU over tok/s/user of every generation configuration, marked with requests in flight; ``None``
    without."""
    rows = [_gen_row(row) for row in figures if row.tpot_ms > 0]
    if not rows:
        return None
    curves = _group(rows)
    with style.house_style():
        figure = new_figure(style.FIGURE_INCHES)
        axes = figure.add_subplot()
        for number, curve in enumerate(curves):
            _draw_curve(axes, curve, number, "tok_s_gpu", over="tok_s_user")
        if len(curves) <= MANY_CURVES:
            _label_ends(axes, curves)
        axes.set_xlabel(style.X_LABEL)
        axes.set_ylabel("Throughput of the generation servers alone [output tok/s/GPU]")
        axes.set_xlim(0, 1.1 * max(row["tok_s_user"] for row in rows))
        axes.set_ylim(0, 1.1 * max(row["tok_s_gpu"] for row in rows))
        entries = _entries(curves)
        footer = [
            f"Sweep {analysis.sweep}, engine {analysis.engine}. Generation servers alone: no context GPU is counted.",
            "x = 1000 / TPOT [ms].  "
            + ("Numbers: requests in flight in all instances measured.  " if len(curves) <= MANY_CURVES else "")
            + "Colour and marker: mapping.  Line: MTP draft tokens, solid without.",
        ]
        _finish(figure, [axes], "generation servers", workload, analysis, entries, footer)
    return make_picture(name, figure, GEN_COLUMNS, [row for curve in curves for row in curve.rows])


def _finish(
    figure: Any,
    panels: Sequence[Axes],
    what: str,
    workload: str,
    analysis: Analysis,
    entries: Sequence[Line2D],
    footer: Sequence[str],
) -> None:
    bottom = draw_footer(figure, footer)
    title = f"{analysis.model} on {analysis.gpu}: {what}, ISL/OSL {workload}"
    top = draw_header(figure, title, entries, style.find_stamp(analysis))
    fit_axes(figure, panels, bottom, top)


def _ctx_row(row: Figures, constraints: Constraints) -> dict[str, Any]:
    group = row.experiment.deployment.ctx
    assert group is not None  # a ctx experiment
    return {
        "label": row.experiment.deployment.label,
        "mapping": group.mapping.label,
        "options": group.tag,
        "mtp": group.mtp,
        "gpus": group.gpus,
        "load": _pressure(row),
        "req_s_gpu": row.req_s / group.gpus,
        "ttft_ms": row.ttft_limit_ms,
        "ttft_limit_ms": constraints.ttft_ms,
        "within": constraints.ttft_ms is None or row.ttft_limit_ms <= constraints.ttft_ms,
    }


def _gen_row(row: Figures) -> dict[str, Any]:
    group = row.experiment.deployment.gen
    assert group is not None  # a gen experiment
    return {
        "label": row.experiment.deployment.label,
        "mapping": group.mapping.label,
        "options": group.tag,
        "mtp": group.mtp,
        "gpus": group.gpus,
        "load": _pressure(row),
        "tok_s_user": 1000 / row.tpot_ms,
        "tok_s_gpu": row.tok_s / group.gpus,
        "tpot_ms": row.tpot_ms,
        "within": True,
    }


def _pressure(row: Figures) -> float:
    """Requests in flight: those of the closed loop, or those measured in open loop."""
    return float(row.load.concurrency) if isinstance(row.load, Concurrency) else row.in_flight


def _group(rows: Iterable[dict[str, Any]]) -> list[_Curve]:
    groups: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["mapping"], row["options"], row["mtp"], row["label"]), []).append(row)
    servers = sorted({key[:2] for key in groups}, key=lambda pair: (natural(pair[0]), natural(pair[1])))
    places = {pair: place for place, pair in enumerate(servers)}
    return [
        _Curve(
            mapping,
            mtp,
            style.series_style(places[mapping, options]),
            tuple(sorted(members, key=lambda row: row["load"])),
            options,
        )
        for (mapping, options, mtp, _), members in sorted(
            groups.items(), key=lambda item: (natural(item[0][0]), natural(item[0][1]), item[0][2:])
        )
    ]


def _draw_curve(axes: Axes, curve: _Curve, number: int, column: str, over: str = "load") -> None:
    look = curve.look
    x, y = curve.values(over), curve.values(column)
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=style.mtp_line(curve.mtp),
        linewidth=1.5,
        marker=look.marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        gid=f"curve:{number}:{column}",
    )
    over_limit = [(a, b) for a, b, row in zip(x, y, curve.rows, strict=True) if not row["within"]]
    if over_limit:
        axes.plot(
            *zip(*over_limit, strict=True),
            linestyle="none",
            marker=look.marker,
            markersize=4.6,
            markerfacecolor="white",
            markeredgecolor=look.colour,
            markeredgewidth=1.1,
            gid=f"over:{number}:{column}",
        )


def _entries(curves: Sequence[_Curve]) -> list[Line2D]:
    """A curve an entry; of many, one a mapping and one a number of draft tokens."""
    if len(curves) <= MANY_CURVES:
        return [_entry(curve) for curve in curves]
    looks = {curve.servers: curve.look for curve in curves}
    entries = [
        Line2D([], [], linestyle="none", color=look.colour, marker=look.marker, markersize=5, label=mapping)
        for mapping, look in sorted(looks.items(), key=lambda pair: natural(pair[0]))
    ]
    for mtp in sorted({curve.mtp for curve in curves}):
        label = f"MTP {mtp}" if mtp else "no MTP"
        entries.append(Line2D([], [], color=style.INK, linewidth=1.5, linestyle=style.mtp_line(mtp), label=label))
    return entries


def natural(text: str) -> list[str | int]:
    """A key that sorts ``DEP4`` before ``DEP16``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _entry(curve: _Curve) -> Line2D:
    look = curve.look
    return Line2D(
        [],
        [],
        color=look.colour,
        marker=look.marker,
        markersize=5,
        linewidth=1.5,
        linestyle=style.mtp_line(curve.mtp),
        label=curve.label,
    )


def _hollow(label: str) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker="o", markersize=4.6, markerfacecolor="white", color=style.INK, label=label
    )


def _label_ends(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Writes the requests in flight at both ends of each curve."""
    for curve in curves:
        for row, place, side in ((curve.rows[0], (5, 4), "left"), (curve.rows[-1], (-5, 3), "right"))[
            : len(curve.rows)
        ]:
            axes.annotate(
                f"{row['load']:.0f}",
                (row["tok_s_user"], row["tok_s_gpu"]),
                xytext=place,
                textcoords="offset points",
                ha=side,
                fontsize=style.LABEL_PT,
                color=curve.look.colour,
                gid="in-flight",
            )


def _set_loads(axes: Axes, loads: Sequence[float]) -> None:
    """Logarithmic, ticks where something was measured."""
    axes.set_xscale("log", base=2)
    shown = [load for k, load in enumerate(loads) if k == 0 or load >= 1.35 * loads[k - 1]]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _percentile(constraints: Constraints) -> str:
    return "mean" if constraints.percentile == "mean" else f"p{constraints.percentile:g}"
