"""The servers' own account of a load, read from the part of their logs that was written while it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ratematch.engines import Engine
from ratematch.measure.serverlog import LogSpan
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.load import Concurrency, Load

Marks = dict[str, int]


def mark_logs(plan: LaunchPlan, folder: Path) -> Marks:
    """How long each server's log is now, in bytes."""
    return {spec.name: _size(folder / spec.log) for spec in plan.processes}


def read_since(plan: LaunchPlan, folder: Path, marks: Mapping[str, int]) -> Iterator[str]:
    """What each server has logged since ``marks`` (all of it where there is no mark), server after server."""
    for spec in plan.processes:
        yield _read(folder / spec.log, marks.get(spec.name, 0))


def read_logs(
    plan: LaunchPlan, folder: Path, marks: Mapping[str, int], engine: Engine, experiment: Experiment, load: Load
) -> dict[str, LogSpan]:
    """What the logs of generating workers that ran a step show of ``load``, which ran since ``marks``."""
    workers: dict[str, LogSpan] = {}
    for spec in plan.processes:
        if spec.role not in ("gen", "agg"):
            continue
        group = next(group for group in experiment.deployment.groups if group.role == spec.role)
        in_flight = load.concurrency // group.instances if isinstance(load, Concurrency) else None
        span = engine.read_log(_read(folder / spec.log, marks[spec.name]), group, in_flight)
        if span is not None:
            workers[spec.name] = span
    return workers


def _read(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
