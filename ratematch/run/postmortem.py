"""Why servers failed: the first cause that any of their logs, or what failed requests were told, is known for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ratematch.engines import Engine
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.serverlog import Diagnosis
from ratematch.run.serverlogs import read_since
from ratematch.run.watch import Stalled


def find_cause(
    engine: Engine, plan: LaunchPlan, folder: Path, errors: Sequence[str] = (), marks: Mapping[str, int] | None = None
) -> Diagnosis | None:
    """The first known cause in ``errors`` and in the logs of all servers (since ``marks``), orchestrator included.

    The workers' logs are read before the orchestrator's, which mostly tells that a worker failed and not why.
    """
    return engine.diagnose([*read_since(plan, folder, marks or {}), *errors])


def explain_failure(
    engine: Engine, experiment: Experiment, plan: LaunchPlan, folder: Path, error: Exception
) -> Diagnosis | None:
    """Cause and remedy of what ended a launch; ``None`` when it is not known."""
    known = find_cause(engine, plan, folder)
    if known is None and isinstance(error, Stalled):
        return engine.explain("stalled" if error.started else "never_started", experiment)
    return known
