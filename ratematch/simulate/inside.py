"""The inside of one emulated server, of whichever engine, for forecasts: its scheduler's limits and its step time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from ratematch.emulator.environment import read_environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.vllm.assembly import build
from ratematch.emulator.vllm.flags import LATEST, read_words
from ratematch.emulator.vllm.settings import serve_settings
from ratematch.engines.vllm.contract import release_line
from ratematch.errors import RunError, UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.steadystate import Inside
from ratematch.simulate.timeline import Timeline


def inside_of(experiment: Experiment, cluster: Cluster, step_times: str | None = None) -> Inside:
    """Of the servers that a forecast is about: those of the last role of the deployment.

    ``step_times``: the step-time model, in place of the experiment's own or, for real servers, the environment's.

    Raises:
        RatematchError: they would not start, or the engine is not emulated.
    """
    read = _READERS.get(experiment.engine.name)
    if read is None:
        raise UserError(f"{experiment.engine.name} servers cannot be forecast: no emulator knows their steps")
    if step_times is not None:
        experiment = replace(experiment, emulated=True, step_times=step_times)
    return read(plan_simulation(experiment, cluster, forecast=True), experiment.deployment.groups[-1].role)


def _trtllm(plan: LaunchPlan, role: str) -> Inside:
    return Service(plan, Timeline()).emulations[role]


def _vllm(plan: LaunchPlan, role: str) -> Inside:
    spec = next(spec for spec in plan.processes if spec.role == role)
    words = spec.argv[spec.argv.index("serve") :]
    try:
        environment = read_environment({**os.environ, **dict(spec.env)}, LATEST, release_line)
        model, given = read_words(words, environment)
        return build(
            serve_settings(model or "", given, environment.version, environment.gpu, environment.model), environment
        )
    except (SettingsError, ValueError) as error:
        raise RunError(f"{spec.name} would not start: {error}") from error


_READERS: Mapping[str, Callable[[LaunchPlan, str], Inside]] = {"trtllm-serve": _trtllm, "vllm": _vllm}
"""By engine: from what a launch would start to the inside of a server."""
