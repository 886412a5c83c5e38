"""How latencies are spread over requests, and how late the client itself sent them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ratematch.match.points import Analysis, Kind
from ratematch.measure import metrics
from ratematch.measure.measured import Measured
from ratematch.measure.records import RequestRecord
from ratematch.plan.deployment import Stage
from ratematch.plan.load import Concurrency
from ratematch.show import style
from ratematch.show.frame import draw_footer, draw_header, fit_axes, new_figure
from ratematch.show.picture import Picture, make_picture
from ratematch.show.shortlabel import short_label

CDF_COLUMNS = ("kind", "label", "load", "metric", "ms", "share")
SLIP_COLUMNS = ("stage", "label", "load", "req_s", "slip_p50_ms", "slip_p99_ms", "slip_max_ms")
METRICS = (("ttft_ms", "TTFT [ms]"), ("tpot_ms", "TPOT [ms]"), ("e2el_ms", "End-to-end latency [ms]"))
MOST_LOADS = 3
"""Loads of a kind in one picture of latencies."""
CSV_STEPS = 101
"""Rows a curve has in the CSV: every per cent."""
SLIP_FLOOR_MS = 1e-3
"""Smaller slips are drawn there: the axis is logarithmic."""
STAGE_LOOKS: dict[Stage, tuple[str, str]] = {
    "ctx": (style.GREEN, "D"),
    "gen": (style.BLUE, "o"),
    "ifb": (style.GREY, "^"),
    "e2e": (style.VERMILION, "s"),
}


@dataclass(frozen=True)
class LoadRecords:
    """The requests of one load that count: those that ended in its steady window."""

    kind: Kind
    label: str
    load: str
    records: tuple[RequestRecord, ...]
    since: metrics.Since = "sent"


def keep_counted(row: Measured, records: Sequence[RequestRecord], kind: Kind) -> LoadRecords:
    """The full answers of ``records`` that ended in the load's window; all full ones when it has no window."""
    window = row.measurement.window
    counted = tuple(
        record
        for record in records
        if metrics.is_complete(record)
        and (window is None or (record.end_ns is not None and window.start_ns < record.end_ns <= window.end_ns))
    )
    since: metrics.Since = "sent" if isinstance(row.load, Concurrency) else "intended"
    return LoadRecords(kind, row.experiment.deployment.label, row.load.label.split("-n")[0], counted, since)


def picture_cdf(loads: Sequence[LoadRecords], analysis: Analysis, workload: str, name: str) -> Picture | None:
    """Share of requests up to each TTFT, TPOT and end-to-end latency, a curve a load; ``None`` without requests."""
    loads = [load for load in loads if load.records]
    if not loads:
        return None
    rows: list[dict[str, Any]] = []
    with style.house_style():
        figure = new_figure((style.PANELS_INCHES[0], style.PANELS_INCHES[1] + 0.25))
        panels = list(figure.subplots(1, len(METRICS)))
        entries: list[Line2D] = []
        seen: dict[Kind, int] = {}
        for load in loads:
            place = seen[load.kind] = seen.get(load.kind, -1) + 1
            look = style.KINDS[load.kind]
            line = {"color": look.colour, "linestyle": style.mtp_line(place), "linewidth": 1.5}
            for axes, (metric, _) in zip(panels, METRICS, strict=True):
                values = _values(load, metric)
                if not values.size:
                    continue
                share = np.arange(1, values.size + 1) / values.size
                axes.plot(values, share, drawstyle="steps-post", gid=f"cdf:{load.kind}:{place}:{metric}", **line)
                rows += _csv_rows(load, metric, values)
            front = {"end_to_end": "end to end", "ifb": "IFB"}.get(load.kind, load.kind)
            entries.append(Line2D([], [], label=f"{front}: {short_label(load.label)}, {load.load}", **line))
        for axes, (_, label) in zip(panels, METRICS, strict=True):
            axes.set_xlabel(label)
            axes.set_ylim(0, 1.02)
            axes.set_xlim(left=0)
            for level in (0.5, 0.99):
                axes.axhline(level, color=style.LIGHT_GREY, linewidth=0.8, zorder=1)
        panels[0].set_ylabel("Share of requests")
        footer = [
            f"Sweep {analysis.sweep}, engine {analysis.engine}. Requests that ended in the steady window of each "
            f"load.",
            "Grey lines: half of the requests, and 99 of 100.  Closed loop: from the send; open loop: from the "
            "instant due.",
        ]
        bottom = draw_footer(figure, footer)
        title = f"{analysis.model} on {analysis.gpu}: latencies, ISL/OSL {workload}"
        top = draw_header(figure, title, entries, style.find_stamp(analysis), columns=2)
        fit_axes(figure, panels, bottom, top)
    return make_picture(name, figure, CDF_COLUMNS, rows)


def _values(load: LoadRecords, metric: str) -> NDArray[np.float64]:
    match metric:
        case "ttft_ms":
            values = metrics.ttft_ms(load.records, load.since)
        case "tpot_ms":
            values = metrics.tpot_ms(load.records)
        case _:
            values = metrics.e2el_ms(load.records, load.since)
    return np.sort(values[~np.isnan(values)])


def _csv_rows(load: LoadRecords, metric: str, values: NDArray[np.float64]) -> list[dict[str, Any]]:
    shares = np.linspace(0, 1, CSV_STEPS)
    return [
        {
            "kind": load.kind,
            "label": load.label,
            "load": load.load,
            "metric": metric,
            "ms": float(ms),
            "share": float(p),
        }
        for p, ms in zip(shares, np.quantile(values, shares), strict=True)
    ]


def picture_slip(measured: Sequence[Measured], analysis: Analysis, workload: str, name: str) -> Picture | None:
    """How late requests left the client, p50 and p99 of every load over its rate; ``None`` where nobody knows."""
    rows: list[dict[str, Any]] = [
        {
            "stage": row.experiment.stage,
            "label": row.experiment.deployment.label,
            "load": row.load.label,
            "req_s": row.measurement.req_s_run or row.measurement.req_s,
            "slip_p50_ms": lag.p50,
            "slip_p99_ms": lag.p99,
            "slip_max_ms": lag.max,
        }
        for row in measured
        if (lag := row.measurement.send_lag_ms) is not None and (row.measurement.req_s_run or row.measurement.req_s)
    ]
    if not rows:
        return None
    with style.house_style():
        figure = new_figure(style.SPEEDUP_INCHES)
        axes = figure.add_subplot()
        entries: list[Line2D] = []
        for stage, (colour, marker) in STAGE_LOOKS.items():
            own = [row for row in rows if row["stage"] == stage]
            for column, face in (("slip_p50_ms", "white"), ("slip_p99_ms", colour)) if own else ():
                (dots,) = axes.plot(
                    [row["req_s"] for row in own],
                    [max(SLIP_FLOOR_MS, row[column]) for row in own],
                    linestyle="none",
                    marker=marker,
                    markersize=4.8,
                    markerfacecolor=face,
                    markeredgecolor=colour,
                    markeredgewidth=1.0,
                    gid=f"slip:{stage}:{column}",
                    label=f"{stage}, {'median' if column == 'slip_p50_ms' else 'p99'}",
                )
                entries.append(dots)
        axes.set_yscale("log")
        axes.set_xscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axes.set_xlabel("Rate of the whole load [requests/s]")
        axes.set_ylabel("Sent after it was due [ms]")
        footer = [
            f"Sweep {analysis.sweep}. Each load has two marks: its median request, and that of which 1 in 100 is "
            f"later.",
            "Due: in closed loop when the slot became free, in open loop by the schedule. A slip far below TTFT "
            "and TPOT "
            "means that the client was not the bottleneck.",
        ]
        bottom = draw_footer(figure, footer)
        title = f"Send-time slip of the client, ISL/OSL {workload}"
        top = draw_header(figure, title, entries, style.find_stamp(analysis))
        fit_axes(figure, [axes], bottom, top)
    return make_picture(name, figure, SLIP_COLUMNS, rows)
