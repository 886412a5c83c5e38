"""What changed between two sweeps, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.match.change import Change, FrontChange
from ratematch.show import style
from ratematch.show.console import table
from ratematch.show.files import one_line

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
    ratios = [f"{ratio.what} {ratio.value:.3f}{_span(ratio.low, ratio.high)}" for ratio in front.ends]
    if front.whole is not None and front.whole.hypervolume_ratio is not None:
        ends = front.whole.hypervolume_interval or (None, None)
        ratios.append(f"hypervolume {front.whole.hypervolume_ratio:.3f}{_span(*ends)}")
    console.print(Text("; ".join(ratios)))


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"


def _short(value: str | None) -> str | None:
    if value is None or len(value) <= LONGEST:
        return value
    return value[: LONGEST - 2] + " …"
