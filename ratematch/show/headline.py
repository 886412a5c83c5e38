"""The sentence that stands on top: how much better than IFB, where, and how sure.

Both fronts are read linearly: between two points that are far apart the step reading says what the slower one of them
gives, and anything "wins" there. It stands beside the linear one in the tables only.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.match.pareto import find_hole
from ratematch.match.points import Kind, Speedup, WorkloadAnalysis, objectives
from ratematch.show import style
from ratematch.show.console import show_value

HOW: dict[Kind, str] = {"end_to_end": "measured end to end", "rate_matched": "predicted, not measured end to end"}
"""Where the figures of a front come from; the one that is worth more first."""


def describe_gain(workload: WorkloadAnalysis) -> str:
    """One sentence or two on the measured front where there is one, else on the predicted one; or why nothing can be
    said."""
    for kind, how in HOW.items():
        rows = [row for row in workload.speedups if row.kind == kind]
        if ends := find_ends(rows):
            return state_gain(rows, style.say_origin(how, workload)) + _name_hole(workload, ends[1])
    missing = [name for name, front in (("IFB", workload.ifb), ("end-to-end", workload.end_to_end)) if not front]
    why = f"no valid {' or '.join(missing)} point" if missing else "the fronts do not overlap"
    return f"No speed-up over IFB can be stated: {why}."


def state_gain(rows: Sequence[Speedup], how: str) -> str:
    """Of one front over that of IFB; empty where no row has a linear ratio. ``how``: where the figures come from."""
    ends = find_ends(rows)
    if ends is None:
        return ""
    least, most = ends
    start = "Disaggregated serving gives"
    if (most.linear or 0) - (least.linear or 0) <= 0.005:
        low, high = min(row.tok_s_user for row in rows), max(row.tok_s_user for row in rows)
        where = f"at {show_value(low)}" if low == high else f"between {show_value(low)} and {show_value(high)}"
        return f"{start} {_ratio(most)} times the tok/s/GPU of IFB {where} tok/s/user ({how}){_interval(most)}."
    return (
        f"{start} {_ratio(least)} to {_ratio(most)} times the tok/s/GPU of IFB at equal tok/s/user ({how}): most at "
        f"{show_value(most.tok_s_user)} tok/s/user, {_ratio(most)} times{_interval(most)}, least at "
        f"{show_value(least.tok_s_user)}, {_ratio(least)} times{_interval(least)}."
    )


def find_ends(rows: Sequence[Speedup]) -> tuple[Speedup, Speedup] | None:
    """The rows with the smallest and the largest linear ratio; ``None`` where no row has one."""
    known = [row for row in rows if row.linear is not None]
    if not known:
        return None
    return min(known, key=lambda row: row.linear or 0), max(known, key=lambda row: row.linear or 0)


def _ratio(row: Speedup) -> str:
    return f"{row.linear or 0:.2f}"


def _interval(row: Speedup) -> str:
    if row.linear_low is None or row.linear_high is None:
        return ""
    return f" (95 %: {row.linear_low:.2f} to {row.linear_high:.2f})"


def _name_hole(workload: WorkloadAnalysis, most: Speedup) -> str:
    """Where the largest ratio is read on a long line of the IFB front."""
    hole = find_hole([objectives(point) for point in workload.ifb], most.tok_s_user)
    if hole is None:
        return ""
    return (
        f" IFB has no point between {show_value(hole[0])} and {show_value(hole[1])} tok/s/user: there it is read on "
        "the line between the two."
    )
