"""The servers' own account of a load, read from the part of their logs that was written while it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ratematch.engines import Engine
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan

Marks = dict[str, int]


def mark_logs(plan: LaunchPlan, folder: Path) -> Marks:
    """How long each generating worker's log is now, in bytes."""
    return {spec.name: _size(folder / spec.log) for spec in plan.processes if spec.role in ("gen", "agg")}


def read_logs(
    plan: LaunchPlan, folder: Path, marks: Mapping[str, int], engine: Engine, experiment: Experiment
) -> dict[str, Any]:
    """What each worker's log says of the time since ``marks``; workers without a generation step are left out."""
    workers: dict[str, Any] = {}
    for spec in plan.processes:
        if spec.name not in marks:
            continue
        group = next(group for group in experiment.deployment.groups if group.role == spec.role)
        with (folder / spec.log).open("rb") as file:
            file.seek(marks[spec.name])
            span = engine.read_log(file.read().decode(errors="replace"), group)
        if span is not None:
            workers[spec.name] = asdict(span)
    return workers


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
