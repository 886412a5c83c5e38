"""What the emulator of any engine is told of a model in its environment: no command line has a place for it."""

from __future__ import annotations

import json

from ratematch.plan.experiment import Experiment

MODEL_VARIABLE = "RATEMATCH_EMULATED_MODEL"
"""Keys of a model file as JSON, for a model that does not ship with the package."""

PRECISION_VARIABLE = "RATEMATCH_EMULATED_PRECISION"
"""Number format of the weights, where it is not the usual one."""


def emulated_model(experiment: Experiment) -> tuple[tuple[str, str], ...]:
    """Environment variables that tell an emulator which model it stands for, where its path does not."""
    variables = []
    if experiment.facts is not None:
        text = json.dumps(experiment.facts, separators=(",", ":"), sort_keys=True)
        variables.append((MODEL_VARIABLE, text))
    if experiment.workload.precision:
        variables.append((PRECISION_VARIABLE, experiment.workload.precision))
    return tuple(variables)
