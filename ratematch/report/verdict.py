"""Cards of a page: what to run at which speed."""

from __future__ import annotations

from typing import Any

from ratematch.match.points import Point
from ratematch.match.recommend import Between, Recommendation
from ratematch.report.contents import Bundle
from ratematch.show import style
from ratematch.show.console import show_value
from ratematch.show.files import one_line


def make_card(recommendation: Recommendation, bundle: Bundle | None) -> dict[str, Any]:
    """What to run at one speed: deployment, figures, how they are known; ``bundle``: its ready-to-run files."""
    at = f"{recommendation.at:g}"
    point = recommendation.point
    if point is None:
        fastest = recommendation.fastest
        note = f"The fastest deployment gives {show_value(fastest)} tok/s/user." if fastest else ""
        return {"at": at, "state": "none", "deployment": None, "note": note, "files": False, "anchor": ""}
    state = {"end_to_end": "measured", "ifb": "ifb"}.get(point.kind, "predicted")
    badge = {
        "measured": "measured end to end",
        "ifb": f"measured: aggregated serving{_why_aggregated(recommendation)}",
        "predicted": "predicted from ctx and gen apart; run it before you rely on it",
    }[state]
    badge = style.say_origin(badge, point)
    notes = []
    if point.tok_s_user < recommendation.at:
        notes.append(f"Its users get {1 - point.tok_s_user / recommendation.at:.1%} less than {at}, within noise.")
    if recommendation.hole is not None:
        low, high = (show_value(u) for u in recommendation.hole)
        notes.append(f"IFB has no point between {low} and {high} tok/s/user; it is read on the line between them.")
    if recommendation.between is not None:
        notes.append(_describe_between(recommendation.between, point))
    if recommendation.promising is not None:
        more = recommendation.promising.tok_s_gpu / point.tok_s_gpu - 1
        notes.append(f"Predicted {more:.0%} more, not measured: {one_line(recommendation.promising.label)}.")
    return {
        "at": at,
        "state": state,
        "deployment": one_line(name_deployment(point)),
        "badge": badge,
        "figures": _list_figures(point, recommendation.over_ifb),
        "note": " ".join(notes),
        "files": bundle is not None,
        "anchor": bundle.anchor if bundle else "",
    }


def _why_aggregated(recommendation: Recommendation) -> str:
    if recommendation.beaten:
        return " wins here"
    if recommendation.between is not None and recommendation.between.slow.kind == "end_to_end":
        return ", because no end-to-end run is near"
    return " (no end-to-end run reaches it)"


def _describe_between(between: Between, point: Point) -> str:
    more = between.tok_s_gpu / point.tok_s_gpu - 1
    loads = f"{between.slow.concurrency:.0f} and {between.fast.concurrency:.0f} requests in flight"
    return (
        f"On the line between its runs with {loads}, {one_line(name_deployment(between.slow))} would give "
        f"{show_value(between.tok_s_gpu)} tok/s/GPU, {more:.0%} more; nobody measured there: run a load between them "
        "before you choose."
    )


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
    """``2 × DEP4 ctx + 1 × TEP8 gen, MTP 3``, and the options that tell it from others, ``block_size=128``; the label
    where the mappings are not known."""
    mtp = f", MTP\N{NO-BREAK SPACE}{point.mtp}" if point.mtp else ", no\N{NO-BREAK SPACE}MTP"
    if point.ctx and point.gen and point.ctx_mapping and point.gen_mapping:
        ctx, gen = (f" ({text})" if text else "" for text in (point.ctx_options, point.gen_options))
        if ctx == gen and ctx:
            ctx, mtp = "", f"{mtp}, {point.gen_options}"
            gen = ""
        return f"{point.ctx} × {point.ctx_mapping} ctx{ctx} + {point.gen} × {point.gen_mapping} gen{gen}{mtp}"
    return point.label
