"""Why each key of a deployment's files has its value: a derived one by its rule, a given one and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.settings import explain_group, leaves
from ratematch.engines.trtllm_serve.derive import derive_worker
from ratematch.engines.trtllm_serve.render import router_config
from ratematch.engines.trtllm_serve.times import times_of_orchestrator
from ratematch.plan.deployment import Role
from ratematch.plan.experiment import Experiment
from ratematch.plan.setting import Setting

SECTIONS: tuple[tuple[Role, str], ...] = (("ctx", "context_servers"), ("gen", "generation_servers"))


def explain_deployment(experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
    """By role, and for the orchestrator where there is one: every configured key with its value and the reason."""
    explained: dict[str, tuple[Setting, ...]] = {}
    for group in experiment.deployment.groups:
        derived = () if group.config is not None else derive_worker(experiment, group)
        explained[group.role] = explain_group(group, group.options, derived)
    if experiment.deployment.needs_orchestrator:
        explained["orchestrator"] = tuple(_orchestrator(experiment))
    return explained


def _orchestrator(experiment: Experiment) -> Iterator[Setting]:
    deployment = experiment.deployment
    yield from times_of_orchestrator(experiment)
    for role, section in SECTIONS:
        if not any(group.role == role for group in deployment.groups):
            yield Setting(f"{section}.num_instances", 0, "no context server: the orchestrator invents the context")
            continue
        for key, value in (router_config(experiment, role) or {}).items():
            given = key == "type" or key in deployment.router_args
            why = "given in the sweep file" if given else f"the {role} servers' own, by which the router weighs load"
            yield Setting(f"{section}.router.{key}", value, why, given)
    for key, value in leaves(deployment.orchestrator):
        yield Setting(key, value, "given in the sweep file", given=True)
