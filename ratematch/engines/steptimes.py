"""The emulator's step-time model by name: read from the environment, recorded, and handed to emulated servers."""

from __future__ import annotations

from collections.abc import Mapping

from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, Experiment

STEPS_VARIABLE = "RATEMATCH_EMULATED_STEPS"

STEP_MODELS = (DEFAULT_STEP_TIMES, "kernels")
"""How long an iteration takes: computed from data sheets, or looked up in measured kernels (an optional extra)."""


def read_step_model(env: Mapping[str, str]) -> str:
    """The step-time model that ``env`` names.

    Raises:
        ValueError: there is no such model.
    """
    steps = env.get(STEPS_VARIABLE, "").strip() or DEFAULT_STEP_TIMES
    if steps not in STEP_MODELS:
        raise ValueError(f"{STEPS_VARIABLE}: unknown step-time model {steps!r}: write {' or '.join(STEP_MODELS)}")
    return steps


def step_times_env(experiment: Experiment, cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """The variable that gives emulated servers the experiment's model, in whatever environment its job runs."""
    return ((STEPS_VARIABLE, experiment.step_times),) if experiment.emulated and cluster.emulated else ()
