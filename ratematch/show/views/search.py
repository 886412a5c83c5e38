"""What an adaptive search chose, and what it passed over, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ratematch.show.console import table

if TYPE_CHECKING:  # `show` draws what `campaign` hands it and decides nothing
    from ratematch.campaign.decisions import ChosenRun, SearchRecord

SHOWN_SKIPS = 12


def print_search(search: SearchRecord, choices: Sequence[ChosenRun], console: Console) -> None:
    """The decisions of ``search.json`` in order, then what was passed over at the last of them; the end-to-end runs
    of ``choice.json``, and those that wait."""
    rows = [
        (
            decision.number,
            decision.label,
            ", ".join(map(str, decision.loads)) + (" for longer" if decision.longer else ""),
            100 * decision.expected_gain,
            decision.estimated_gpu_hours,
        )
        for decision in search.decisions
    ]
    columns = ("no.", "server", "at C =", "expected gain %", "GPU-hours")
    console.print(table("adaptive search: choices", columns, rows))
    if search.skips:
        skips = [(skip.label, skip.why) for skip in search.skips[:SHOWN_SKIPS]]
        console.print(table("passed over, as of the last choice", ("server", "why"), skips))
        if len(search.skips) > SHOWN_SKIPS:
            console.print(f"and {len(search.skips) - SHOWN_SKIPS} more in search.json")
    print_choices(choices, console)
    for workload, kept in search.kept.items():
        price = f"a hundredth of the grid's hours must bring {kept.price / 100:.2%} of the front"
        what = f"kept for further end-to-end runs ({price}): {', '.join(kept.runs) or 'none is worth it'}"
        console.print(Text(f"{workload}: {kept.gpu_hours:.3g} GPU-hours {what}"))
    for run in search.runs_waiting:
        console.print(Text(f"{run.workload}: {run.deployment} waits: {run.why}"))
    if search.ended:
        console.print(Text(f"search ended: {search.ended}"))


def print_choices(choices: Sequence[ChosenRun], console: Console) -> None:
    """The entries of ``choice.json``: end-to-end runs, when each was chosen and why."""
    if not choices:
        return
    rows = [
        (
            run.deployment,
            ", ".join(map(str, run.concurrencies)),
            None if run.expected_gain is None else 100 * run.expected_gain,
            run.estimated_gpu_hours,
            f"after choice {run.after}" if run.after is not None else run.when or "",
        )
        for run in choices
    ]
    columns = ("deployment", "at C =", "expected gain %", "GPU-hours", "chosen")
    console.print(table("end-to-end runs chosen", columns, rows))
