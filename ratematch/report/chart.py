"""The interactive front of one workload: every point with its look, as JSON for the page's script."""

from __future__ import annotations

import math
from typing import Any

from ratematch.match.points import Kind, Point
from ratematch.measure.measured import Measured
from ratematch.report.contents import Section
from ratematch.show import style
from ratematch.show.files import one_line

INVALID = "invalid"
DRAWING_ORDER: tuple[Kind, ...] = ("bound", "ifb", "rate_matched", "end_to_end")
KIND_NAMES: dict[Kind, str] = {
    "rate_matched": "rate-matched: predicted",
    "end_to_end": "end to end: measured",
    "ifb": "IFB: measured",
    "bound": "bound: no deployment",
}


def make_chart(section: Section) -> dict[str, Any]:
    """The interactive front: kinds with their look, and every point, those of fronts in their order."""
    workload = section.workload
    fronts = {kind: workload.front(kind) for kind in DRAWING_ORDER}
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
        "targets": [recommendation.at for recommendation in section.recommendations],
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


def _dot(point: Point, *, front: bool) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "front": front,
        "label": one_line(point.label),
        "what": style.say_origin(KIND_NAMES[point.kind], point),
        "x": _short(point.tok_s_user),
        "y": _short(point.tok_s_gpu),
        "low": _short(point.tok_s_gpu_low),
        "high": _short(point.tok_s_gpu_high),
        "gpus": point.gpus or None,
        "concurrency": _short(point.concurrency),
        "ttft_ms": _short(point.ttft_ms),
        "tpot_ms": _short(point.tpot_ms),
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
        "what": style.say_origin(f"{row.experiment.stage}: measured", row.experiment),
        "x": _short(figures.tok_s_user),
        "y": _short(figures.tok_s / deployment.gpus),
        "low": None,
        "high": None,
        "gpus": deployment.gpus,
        "concurrency": _short(figures.in_flight),
        "ttft_ms": _short(figures.ttft_ms.mean) if figures.ttft_ms else None,
        "tpot_ms": _short(figures.tpot_ms.mean) if figures.tpot_ms else None,
        "valid": False,
        "remarks": one_line("; ".join(figures.reasons)),
    }


def _short(value: float | None) -> float | None:
    """To six digits: a page with thousands of points is half as large, and nobody sees the rest. ``None`` where it is
    not known."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
