"""What an adaptive search chose, and what it passed over, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from ratematch.show.console import table

SHOWN_SKIPS = 12


def print_search(content: dict[str, Any], choices: Sequence[dict[str, Any]], console: Console) -> None:
    """The decisions of ``search.json`` in order, then what was passed over at the last of them; the end-to-end runs
    of ``choice.json``, and those that wait."""
    rows = [
        (
            decision["number"],
            decision["label"],
            ", ".join(map(str, decision["loads"])) + (" for longer" if "longer" in decision else ""),
            100 * decision["expected_gain"],
            decision["estimated_gpu_hours"],
        )
        for decision in content["decisions"]
    ]
    columns = ("no.", "server", "at C =", "expected gain %", "GPU-hours")
    console.print(table("adaptive search: choices", columns, rows))
    skips = content["skips"]
    if skips:
        told = [(skip["label"], skip["why"]) for skip in skips[:SHOWN_SKIPS]]
        console.print(table("passed over, as of the last choice", ("server", "why"), told))
        if len(skips) > SHOWN_SKIPS:
            console.print(f"and {len(skips) - SHOWN_SKIPS} more in search.json")
    print_choices(choices, console)
    for workload, kept in content.get("kept", {}).items():
        price = f"a hundredth of the grid's hours must bring {kept['price'] / 100:.2%} of the front"
        runs = ", ".join(kept["runs"])
        what = f"kept for further end-to-end runs ({price}): {runs or 'none is worth it'}"
        console.print(f"{workload}: {kept['gpu_hours']:.3g} GPU-hours {what}", markup=False)
    for run in content.get("runs_waiting", ()):
        console.print(f"{run['workload']}: {run['deployment']} waits: {run['why']}", markup=False)
    if content["ended"]:
        console.print(f"search ended: {escape(content['ended'])}")


def print_choices(choices: Sequence[dict[str, Any]], console: Console) -> None:
    """The entries of ``choice.json``: end-to-end runs, when each was chosen and why."""
    if not choices:
        return
    rows = [
        (
            each["deployment"],
            ", ".join(map(str, each["concurrencies"])),
            100 * each["expected_gain"] if "expected_gain" in each else None,
            each.get("estimated_gpu_hours"),
            f"after choice {each['after']}" if "after" in each else each.get("when", ""),
        )
        for each in choices
    ]
    columns = ("deployment", "at C =", "expected gain %", "GPU-hours", "chosen")
    console.print(table("end-to-end runs chosen", columns, rows))
