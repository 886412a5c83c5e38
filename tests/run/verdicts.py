"""Fronts of short loads on a machine that may be busy with something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAGES = {"rate_matched": ("ctx", "gen"), "end_to_end": ("ctx", "gen", "e2e"), "ifb": ("ifb",)}
"""What each front is made of."""

BUSY = ("the client is saturated", "Little's law is off")
"""What a verdict rightly says of a load of a dozen requests when client and servers share cores with others."""


def check_fronts(fronts: Mapping[str, Any], results: Path) -> None:
    """Every front has a point, unless loads it is made of were refused because this machine was busy."""
    for kind, stages in STAGES.items():
        refused = _refused(results, stages)
        assert fronts[kind] or any(reason.startswith(BUSY) for reason in refused), (kind, refused)


def _refused(results: Path, stages: tuple[str, ...]) -> list[str]:
    """Reasons against the measured loads of some stages."""
    files = [file for stage in stages for file in results.glob(f"{stage}-*/loads/*/measurement.json")]
    return [reason for file in files for reason in json.loads(file.read_text())["reasons"]]
