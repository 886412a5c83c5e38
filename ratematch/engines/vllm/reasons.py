"""Why each flag of a deployment has its value: a derived one by its rule, a given one and what it replaces."""

from __future__ import annotations

from ratematch.engines.settings import explain_group
from ratematch.engines.vllm.derive import derive_server
from ratematch.engines.vllm.options import spell_options
from ratematch.plan.experiment import Experiment
from ratematch.plan.setting import Setting


def explain_deployment(experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
    """By role: every configured flag under its option name, with its value and the reason for it."""
    version = experiment.engine.version
    return {
        group.role: explain_group(
            group,
            spell_options(group.options, version),
            () if group.config is not None else derive_server(experiment, group),
        )
        for group in experiment.deployment.groups
    }
