"""What a page says first: how much better than IFB, and what to run at which speed."""

from __future__ import annotations

from typing import Any

from ratematch.match.points import Kind, Point, WorkloadAnalysis
from ratematch.match.recommend import Recommendation
from ratematch.report.contents import Bundle
from ratematch.show import style
from ratematch.show.console import show_value
from ratematch.show.files import one_line


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
    interval = ""
    if best.step_low is not None and best.step_high is not None:
        interval = f" (95 %: {best.step_low:.2f} to {best.step_high:.2f})"
    origin = {"end_to_end": "measured end to end", "rate_matched": "predicted, not measured end to end"}.get(kind, "")
    origin += style.origin_suffix(workload)
    low, high = min(ratios), max(ratios)
    span = f"{low:.2f} to {high:.2f} times" if high - low > 0.005 else f"{high:.2f} times"
    return (
        f"Disaggregated serving gives {span} the tok/s/GPU of IFB between {show_value(rows[0].tok_s_user)} and "
        f"{show_value(rows[-1].tok_s_user)} tok/s/user ({origin}); most at {show_value(best.tok_s_user)} "
        f"tok/s/user: {best.step or 0:.2f} times{interval}."
    )


def make_card(recommendation: Recommendation, bundle: Bundle | None) -> dict[str, Any]:
    """What to run at one speed: deployment, figures, how they are known; ``bundle``: its ready-to-run files."""
    at = f"{recommendation.at:g}"
    point = recommendation.point
    if point is None:
        fastest = recommendation.fastest
        note = f"The fastest deployment gives {show_value(fastest)} tok/s/user." if fastest else ""
        return {"at": at, "state": "none", "deployment": None, "note": note, "files": False, "anchor": ""}
    state = {"end_to_end": "measured", "ifb": "ifb"}.get(point.kind, "predicted")
    aggregated = "wins here" if recommendation.beaten else "(no end-to-end run reaches it)"
    badge = {
        "measured": "measured end to end",
        "ifb": f"measured: aggregated serving {aggregated}",
        "predicted": "predicted from ctx and gen apart; run it before you rely on it",
    }[state]
    note = ""
    if recommendation.promising is not None:
        more = recommendation.promising.tok_s_gpu / point.tok_s_gpu - 1
        note = f"Predicted {more:.0%} more, not measured: {one_line(recommendation.promising.label)}."
    return {
        "at": at,
        "state": state,
        "deployment": one_line(name_deployment(point)),
        "badge": badge,
        "figures": _list_figures(point, recommendation.over_ifb),
        "note": note,
        "files": bundle is not None,
        "anchor": bundle.anchor if bundle else "",
    }


def _list_figures(point: Point, over_ifb: float | None) -> list[tuple[str, str]]:
    interval = ""
    if point.tok_s_gpu_low is not None and point.tok_s_gpu_high is not None:
        interval = f" ({show_value(point.tok_s_gpu_low)} to {show_value(point.tok_s_gpu_high)})"
    figures = [
        ("GPUs", show_value(point.gpus)),
        ("requests in flight", f"{point.concurrency:.0f}"),
        ("tok/s/GPU", show_value(point.tok_s_gpu) + interval),
        ("tok/s/user", show_value(point.tok_s_user)),
        ("TTFT, TPOT", f"{show_value(point.ttft_ms)} ms, {show_value(point.tpot_ms)} ms"),
    ]
    return figures if over_ifb is None else [*figures, ("over IFB", f"{over_ifb:.2f} ×")]


def name_deployment(point: Point) -> str:
    """``2 × DEP4 ctx + 1 × TEP8 gen, MTP 3``; the label where the mappings are not known."""
    mtp = f", MTP\N{NO-BREAK SPACE}{point.mtp}" if point.mtp else ", no\N{NO-BREAK SPACE}MTP"
    if point.ctx and point.gen and point.ctx_mapping and point.gen_mapping:
        return f"{point.ctx} × {point.ctx_mapping} ctx + {point.gen} × {point.gen_mapping} gen{mtp}"
    return point.label
