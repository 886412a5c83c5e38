"""What an adaptive search chose, and what it passed over, with the reasons."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from ratematch.show.console import table

SHOWN_SKIPS = 12


def print_search(content: dict[str, Any], console: Console) -> None:
    """The decisions of ``search.json`` in order, then what was passed over at the last of them."""
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
    if content["ended"]:
        console.print(f"search ended: {escape(content['ended'])}")
