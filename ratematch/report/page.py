"""``report.html``: one file that opens anywhere, without a network. All text from data is escaped.

What is put in is a :class:`Report`; who gathers it is :mod:`ratematch.report.collect`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ratematch.match.points import Analysis, Gap, Kind, Point, Speedup, WorkloadAnalysis
from ratematch.match.recommend import Recommendation
from ratematch.measure.measured import Measured
from ratematch.show import style
from ratematch.show.console import show_value
from ratematch.show.definitions import DEFINITIONS
from ratematch.show.files import one_line
from ratematch.show.picture import Picture

PICTURE_DPI = 150
MOST_ROWS = 400
"""Rows of a table in the page; the CSV files hold all."""
INVALID = "invalid"
KIND_NAMES: dict[Kind, str] = {
    "rate_matched": "rate-matched: predicted",
    "end_to_end": "end to end: measured",
    "ifb": "IFB: measured",
    "bound": "bound: no deployment",
}
CAPTIONS = {
    "speedup": "Speed-up over IFB at equal tok/s/user.",
    "gap": "What keeps each end-to-end run below its ideal.",
    "split": "The best split of GPUs is not constant along the front.",
    "ctx": "Context servers alone: the rate they sustain, and what their users wait.",
    "gen": "Generation servers alone.",
    "latency": "How latencies are spread over the requests of some loads.",
    "slip": "How late the client sent its requests.",
    "pareto": "The fronts.",
}


@dataclass(frozen=True)
class RunFile:
    """A ready-to-run file. ``path``: below the bundle's folder."""

    path: str
    content: str


@dataclass(frozen=True)
class Bundle:
    """The files of one recommended deployment. ``hint``: how to use them, in a sentence."""

    anchor: str
    title: str
    hint: str
    files: tuple[RunFile, ...]


@dataclass(frozen=True)
class Section:
    """One workload. ``invalid``: measured end-to-end and IFB loads that stand on no front."""

    workload: WorkloadAnalysis
    recommendations: tuple[Recommendation, ...]
    pictures: tuple[Picture, ...]
    invalid: tuple[Measured, ...] = ()
    bundles: Mapping[float, Bundle] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything the page says. ``limits``, ``origin``: in words. ``provenance``: (name, value) rows."""

    analysis: Analysis
    command: str
    limits: str
    origin: str
    provenance: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()


def render_report(report: Report) -> str:
    """The page as text.

    Every value from data passes jinja's autoescape, or JSON with ``<``, ``>``, ``&`` and quotes escaped.
    """
    environment = Environment(
        loader=PackageLoader("ratematch.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html").render(report=_page(report))


def _page(report: Report) -> dict[str, Any]:
    analysis = report.analysis
    stamp = style.find_stamp(analysis, *analysis.workloads)
    bundles = {bundle.anchor: bundle for section in report.sections for bundle in section.bundles.values()}
    return {
        "title": one_line(f"{analysis.sweep}: disaggregated against aggregated serving"),
        "stamp": stamp,
        "model": one_line(analysis.model),
        "gpu": one_line(analysis.gpu),
        "engine": one_line(analysis.engine),
        "limits": report.limits,
        "command": one_line(report.command),
        "origin": report.origin,
        "warnings": [one_line(text) for text in report.warnings],
        "provenance": [(name, one_line(value)) for name, value in report.provenance],
        "sections": [_section(section) for section in report.sections],
        "files": list(bundles.values()),
        "definitions": DEFINITIONS,
        "data": {
            "x_label": style.X_LABEL,
            "y_label": style.Y_LABEL,
            "workloads": [_chart(section) for section in report.sections],
        },
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "workload": one_line(section.workload.workload),
        "verdict": give_verdict(section.workload),
        "cards": [_card(found, section.bundles.get(found.at)) for found in section.recommendations],
        "tables": _tables(section),
        "pictures": [
            {
                "alt": picture.name,
                "uri": "data:image/png;base64," + base64.b64encode(picture.png(PICTURE_DPI)).decode(),
                "caption": CAPTIONS.get(picture.name.split("-")[0], ""),
            }
            for picture in section.pictures
        ],
    }


def give_verdict(workload: WorkloadAnalysis) -> str:
    """One sentence: how much better than IFB, where, and how sure; or why nothing can be said."""
    kind: Kind = "end_to_end" if any(row.kind == "end_to_end" for row in workload.speedups) else "rate_matched"
    rows = [row for row in workload.speedups if row.kind == kind and row.step is not None]
    if not rows:
        missing = [name for name, front in (("IFB", workload.ifb), ("end-to-end", workload.end_to_end)) if not front]
        why = f"no valid {' or '.join(missing)} point" if missing else "the fronts do not overlap"
        return f"No speed-up over IFB can be stated: {why}."
    ratios = [row.step for row in rows if row.step is not None]
    best = max(rows, key=lambda row: row.step or 0)
    sure = ""
    if best.step_low is not None and best.step_high is not None:
        sure = f" (95 %: {best.step_low:.2f} to {best.step_high:.2f})"
    origin = {"end_to_end": "measured end to end", "rate_matched": "predicted, not measured end to end"}.get(kind, "")
    origin += _mark(workload)
    low, high = min(ratios), max(ratios)
    span = f"{low:.2f} to {high:.2f} times" if high - low > 0.005 else f"{high:.2f} times"
    return (
        f"Disaggregated serving gives {span} the tok/s/GPU of IFB between {show_value(rows[0].tok_s_user)} and "
        f"{show_value(rows[-1].tok_s_user)} tok/s/user ({origin}); most at {show_value(best.tok_s_user)} "
        f"tok/s/user: {best.step or 0:.2f} times{sure}."
    )


def _card(found: Recommendation, bundle: Bundle | None) -> dict[str, Any]:
    at = f"{found.at:g}"
    point = found.point
    if point is None:
        fastest = f"The fastest deployment gives {show_value(found.fastest)} tok/s/user." if found.fastest else ""
        return {"at": at, "state": "none", "deployment": None, "note": fastest, "files": False, "anchor": ""}
    state = {"end_to_end": "measured", "ifb": "ifb"}.get(point.kind, "predicted")
    badge = {
        "measured": "measured end to end",
        "ifb": "measured: aggregated serving " + ("wins here" if found.beaten else "(no end-to-end run reaches it)"),
        "predicted": "predicted from ctx and gen apart; run it before you rely on it",
    }[state]
    sure = ""
    if point.tok_s_gpu_low is not None and point.tok_s_gpu_high is not None:
        sure = f" ({show_value(point.tok_s_gpu_low)} to {show_value(point.tok_s_gpu_high)})"
    figures = [
        ("GPUs", show_value(point.gpus)),
        ("requests in flight", f"{point.concurrency:.0f}"),
        ("tok/s/GPU", show_value(point.tok_s_gpu) + sure),
        ("tok/s/user", show_value(point.tok_s_user)),
        ("TTFT, TPOT", f"{show_value(point.ttft_ms)} ms, {show_value(point.tpot_ms)} ms"),
    ]
    if found.over_ifb is not None:
        figures.append(("over IFB", f"{found.over_ifb:.2f} ×"))
    note = ""
    if found.promising is not None:
        more = found.promising.tok_s_gpu / point.tok_s_gpu - 1
        note = f"Predicted {more:.0%} more, not measured: {one_line(found.promising.label)}."
    return {
        "at": at,
        "state": state,
        "deployment": one_line(say_deployment(point)),
        "badge": badge,
        "figures": figures,
        "note": note,
        "files": bundle is not None,
        "anchor": bundle.anchor if bundle else "",
    }


def say_deployment(point: Point) -> str:
    """``2 × DEP4 ctx + 1 × TEP8 gen, MTP 3``; the label where the mappings are not known."""
    mtp = f", MTP\N{NO-BREAK SPACE}{point.mtp}" if point.mtp else ", no\N{NO-BREAK SPACE}MTP"
    if point.ctx and point.gen and point.ctx_mapping and point.gen_mapping:
        return f"{point.ctx} × {point.ctx_mapping} ctx + {point.gen} × {point.gen_mapping} gen{mtp}"
    return point.label


def _chart(section: Section) -> dict[str, Any]:
    """The interactive front: kinds with their look, and every point, those of fronts in their order."""
    workload = section.workload
    fronts: dict[Kind, tuple[Point, ...]] = {  # drawn in this order
        "bound": workload.bound,
        "ifb": workload.ifb,
        "rate_matched": workload.rate_matched,
        "end_to_end": workload.end_to_end,
    }
    shown = [point for front in fronts.values() for point in front]
    rest = [point for point in (*workload.plans, *workload.measured) if point not in set(shown)]
    points = [_dot(point, front=False) for point in rest] + [_dot(point, front=True) for point in shown]
    invalid = [dot for row in section.invalid if (dot := _invalid_dot(row)) is not None]
    kinds = [_kind_look(kind) for kind, front in fronts.items() if front or any(p.kind == kind for p in rest)]
    if invalid:
        kinds.append(
            {"key": INVALID, "name": "not valid", "colour": style.VERMILION, "marker": "x", "line": False}
            | {"width": 0, "dash": "none"}
        )
    return {
        "name": one_line(workload.workload),
        "kinds": kinds,
        "points": points + invalid,
        "targets": [found.at for found in section.recommendations],
    }


def _kind_look(kind: Kind) -> dict[str, Any]:
    look = style.KINDS[kind]
    dash = "none" if isinstance(look.linestyle, str) else " ".join(f"{2 * part:g}" for part in look.linestyle[1])
    return {
        "key": kind,
        "name": look.name,
        "colour": look.colour,
        "marker": look.marker,
        "line": True,
        "width": look.width_pt,
        "dash": dash,
    }


def _mark(shown: style.Marked) -> str:
    return f", {origin}" if (origin := style.say_origin(shown)) else ""


def _dot(point: Point, *, front: bool) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "front": front,
        "label": one_line(point.label),
        "what": KIND_NAMES[point.kind] + _mark(point),
        "x": point.tok_s_user,
        "y": point.tok_s_gpu,
        "low": _known(point.tok_s_gpu_low),
        "high": _known(point.tok_s_gpu_high),
        "gpus": point.gpus or None,
        "concurrency": point.concurrency,
        "ttft_ms": point.ttft_ms,
        "tpot_ms": point.tpot_ms,
        "valid": True,
        "remarks": one_line("; ".join(point.flags)),
    }


def _invalid_dot(row: Measured) -> dict[str, Any] | None:
    """A measured load that may not stand on a front; ``None`` when it has no figures to draw."""
    figures, deployment = row.measurement, row.experiment.deployment
    if not figures.tok_s or not figures.tok_s_user:
        return None
    return {
        "kind": INVALID,
        "front": False,
        "label": one_line(f"{deployment.label}, {row.load.label}"),
        "what": f"{row.experiment.stage}: measured" + _mark(row.experiment),
        "x": figures.tok_s_user,
        "y": figures.tok_s / deployment.gpus,
        "low": None,
        "high": None,
        "gpus": deployment.gpus,
        "concurrency": figures.in_flight,
        "ttft_ms": figures.ttft_ms.mean if figures.ttft_ms else None,
        "tpot_ms": figures.tpot_ms.mean if figures.tpot_ms else None,
        "valid": False,
        "remarks": one_line("; ".join(figures.reasons)),
    }


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _tables(section: Section) -> list[dict[str, Any]]:
    workload = section.workload
    columns = ["deployment", "GPUs", "requests in flight", "tok/s/user", "tok/s/GPU", "95 %: low", "high", "TTFT ms"]
    columns += ["TPOT ms", "limit", "ideal ratio"]
    fronts = (
        ("End-to-end front (measured)", workload.end_to_end, True),
        ("Rate-matched front (predicted)", workload.rate_matched, False),
        ("IFB front (measured)", workload.ifb, False),
        ("Every measured row", workload.measured, False),
    )
    tables = [
        _table(title, columns, [_point_cells(point) for point in points], open_=open_)
        for title, points, open_ in fronts
    ]
    tables.append(
        _table(
            "Speed-up over IFB",
            ["front", "tok/s/user", "step", "95 %: low", "high", "linear", "95 %: low", "high"],
            [
                (style.KINDS[r.kind].name, r.tok_s_user, r.step, r.step_low, r.step_high, *_linear(r))
                for r in workload.speedups
            ],
        )
    )
    names = list(dict.fromkeys(part.name for gap in workload.gaps for part in gap.parts))
    tables.append(
        _table(
            "Gap of end-to-end runs, tok/s/GPU lost",
            ["deployment", "requests in flight", "measured", "predicted", "ratio", "ideal", *names],
            [
                (
                    gap.label,
                    gap.concurrency,
                    gap.end_to_end,
                    gap.rate_matched,
                    gap.ratio,
                    gap.ideal,
                    *_parts(gap, names),
                )
                for gap in workload.gaps
            ],
        )
    )
    left_out = [(label, load, "; ".join(reasons)) for label, load, reasons in workload.left_out]
    tables.append(_table("Left out", ["experiment", "load", "reasons"], left_out))
    return [table for table in tables if table["rows"]]


def _linear(row: Speedup) -> tuple[float | None, ...]:
    return row.linear, row.linear_low, row.linear_high


def _parts(gap: Gap, names: Sequence[str]) -> tuple[float | None, ...]:
    found = {part.name: part.tok_s_gpu for part in gap.parts}
    return tuple(found.get(name) for name in names)


def _point_cells(point: Point) -> tuple[Any, ...]:
    return (
        point.label,
        point.gpus,
        point.concurrency,
        point.tok_s_user,
        point.tok_s_gpu,
        point.tok_s_gpu_low,
        point.tok_s_gpu_high,
        point.ttft_ms,
        point.tpot_ms,
        point.limit,
        point.ratio,
    )


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, open_: bool = False
) -> dict[str, Any]:
    """Columns in which no row has anything are left out."""
    kept = [k for k in range(len(columns)) if any(row[k] is not None for row in rows)]
    return {
        "title": title,
        "columns": [columns[k] for k in kept],
        "open": open_,
        "rows": [[_cell(row[k]) for k in kept] for row in rows[:MOST_ROWS]],
    }


def _cell(value: Any) -> dict[str, Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return {"text": one_line(show_value(value)), "number": float(value) if number else None}
