"""Two results folders side by side: what changed in the question, and what in the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ratematch.analysis import analyze
from ratematch.errors import UserError
from ratematch.match.change import Change, find_changes
from ratematch.match.points import Analysis
from ratematch.match.question import Question
from ratematch.plan.experiment import Experiment
from ratematch.store.damage import Damage, readable
from ratematch.store.folder import Results


@dataclass(frozen=True)
class Drift:
    """One thing that is not the same in both folders. ``None``: not there."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class SweepComparison:
    before: Analysis
    after: Analysis
    change: Change
    drift: tuple[Drift, ...]


def compare_results(
    before: Path, after: Path, question: Question | None = None, *, max_regression: float = 0.03
) -> SweepComparison:
    """``after`` against ``before``; options that ``question`` gives replace those of both sweeps.

    Raises:
        UserError: they are of different origin (real, emulated, simulated), or of different models.
        ResultsError: a folder that cannot be read.
    """
    opened = [Results.open(before), Results.open(after)]
    inputs = [analyze.read_inputs(results, question) for results in opened]
    first, second = (analyze.analyze_inputs(own) for own in inputs)
    origins = [own.measured[0].experiment.origin for own in inputs]
    if origins[0] != origins[1]:
        raise UserError(f"{before} is {origins[0]} and {after} is {origins[1]}: such figures are never compared")
    if first.model != second.model:
        raise UserError(f"{before} is {first.model} and {after} is {second.model}: compare sweeps of one model")
    change = find_changes(first, second, max_regression=max_regression)
    return SweepComparison(first, second, change, tuple(find_drift(*opened)))


def find_drift(before: Results, after: Results) -> list[Drift]:
    """What the two folders did not have in common: limits, versions, deployments and each of their settings."""
    drift = _differences("", _facts(before), _facts(after))
    first, second = _deployments(before), _deployments(after)
    for name in sorted({*first, *second}):
        if name not in first or name not in second:
            here, there = ("measured", None) if name in first else (None, "measured")
            drift.append(Drift(name, here, there))
        else:
            drift += _differences(f"{name}: ", first[name], second[name])
    return drift


def _facts(results: Results) -> dict[str, str]:
    """What holds for a whole folder; several values of one fact stand side by side."""
    stored, unknown = results.now().experiments, list[Damage]()
    experiments = [part.experiment for part in stored]
    launches = [launch for part in stored for launch in part.folder.provenances(unknown)]
    limits = readable(results.limits, unknown)
    facts = {
        "GPU": _join(e.gpu for e in experiments),
        "cluster": _join(e.cluster for e in experiments),
        "model path": _join(e.model_path for e in experiments),
        "engine asked for": _join(e.stack for e in experiments),
        "servers said": _join(version for launch in launches for version in launch.server_versions),
        "servers run": _join(text for launch in launches for text in launch.running_texts),
        "ratematch": _join(f"{launch.ratematch} ({launch.git})" for launch in launches),
        "Python": _join(launch.python for launch in launches),
        "platform": _join(launch.platform for launch in launches),
        "load generator on": _join(launch.host for launch in launches),
        "packages": _join(launch.package_list for launch in launches),
    }
    return facts | {
        f"limits: {key}": str(value)
        for key, value in sorted(asdict(limits).items() if limits else ())
        if key != "name"
    }


def _join(values: Iterable[object]) -> str:
    return "; ".join(sorted({str(value) for value in values if value is not None}))


def _deployments(results: Results) -> dict[str, dict[str, str]]:
    """By label: every setting of the servers and the loads that were measured.

    Two experiments of one label differ in a setting; their values then stand side by side.
    """
    by_label: dict[str, dict[str, set[str]]] = {}
    for stored in results.now().experiments:
        experiment = stored.experiment
        settings = by_label.setdefault(experiment.label, {})
        for key, value in {**_settings(experiment), "loads": _loads(experiment)}.items():
            settings.setdefault(key, set()).add(value)
    return {label: {k: " | ".join(sorted(v)) for k, v in settings.items()} for label, settings in by_label.items()}


def _settings(experiment: Experiment) -> dict[str, str]:
    return {key: str(value) for key, value in _flatten(asdict(experiment.deployment))}


def _loads(experiment: Experiment) -> str:
    return ", ".join(sorted(load.label for load in experiment.loads))


def _flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in _flatten(part, f"{path}.{key}" if path else str(key))]
    return [] if value is None or value == () or value == [] else [(path, value)]


def _differences(prefix: str, first: Mapping[str, str], second: Mapping[str, str]) -> list[Drift]:
    return [
        Drift(f"{prefix}{key}", first.get(key), second.get(key))
        for key in dict.fromkeys((*first, *second))
        if first.get(key) != second.get(key)
    ]
