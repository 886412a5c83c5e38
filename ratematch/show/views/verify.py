"""What `ratematch verify` says, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.analysis.verify import Repair, Verification
from ratematch.show.terminal import command_line

HOW: dict[Repair, str] = {
    "measure": "must be measured again",
    "compute": "can be computed again from its records",
    "none": "no figure is lost",
}


def verification_to_json(results: Path, verification: Verification) -> dict[str, Any]:
    """Counts, and each complaint with what brings the figures back."""
    return {
        "results": str(results),
        **asdict(verification),
        "complaints": [asdict(complaint) for complaint in verification.complaints],
        "measure_again": list(verification.lost),
    }


def print_verification(results: Path, verification: Verification, console: Console) -> None:
    """One line a complaint, then what was checked and what to do."""
    for complaint in verification.complaints:
        text = f"{complaint.file}: {complaint.why}; {HOW[complaint.repair]}"
        console.print(Text(text, "red"), soft_wrap=True)
    bare = verification.loads - verification.sealed
    missing = f", {verification.missing} more are not measured yet" if verification.missing else ""
    # A load that cannot be read counts as one without checksums.
    older = f", {bare} of them without checksums" if bare else ""
    checked = f"{verification.experiments} experiments and {verification.loads} loads checked{older}{missing}"
    console.print(Text(f"{checked}: {len(verification.complaints) or 'nothing'} wrong"), soft_wrap=True)
    folder = command_line(results)
    if any(complaint.repair == "compute" for complaint in verification.complaints):
        console.print(Text(f"compute again: ratematch pareto {folder} --remeasure"), soft_wrap=True)
    if verification.lost:
        text = f"measure again: ratematch verify {folder} --set-aside, then the same `ratematch sweep` as before"
        console.print(Text(text), soft_wrap=True)
