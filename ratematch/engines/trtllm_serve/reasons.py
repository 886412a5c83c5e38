"""Why each key of a deployment's files has its value: a derived one by its rule, a given one and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratematch.engines.trtllm_serve.derive import PERF_RECORDS, derive_worker
from ratematch.engines.trtllm_serve.render import router_config
from ratematch.plan.deployment import Role, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.setting import Setting

SECTIONS: tuple[tuple[Role, str], ...] = (("ctx", "context_servers"), ("gen", "generation_servers"))


def explain_deployment(experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
    """By role, and for the orchestrator where there is one, what is told and why."""
    found: dict[str, tuple[Setting, ...]] = {}
    for group in experiment.deployment.groups:
        found[group.role] = explain_worker(experiment, group)
    if experiment.deployment.needs_orchestrator:
        found["orchestrator"] = tuple(_orchestrator(experiment))
    return found


def explain_worker(experiment: Experiment, group: ServerGroup) -> tuple[Setting, ...]:
    """Every key of a worker YAML. Of a configuration given as a whole nothing is derived."""
    if group.config is not None:
        return tuple(
            Setting(key, value, "given: the configuration is taken as a whole", given=True)
            for key, value in leaves(group.config)
        )
    own = dict(leaves(group.options))
    kept, seen = [], set()
    for setting in derive_worker(experiment, group):
        replaced = next((key for key in own if _covers(key, setting.key) or _covers(setting.key, key)), None)
        if replaced is None or setting.given:
            kept.append(setting)
        elif replaced == setting.key:
            seen.add(replaced)
            instead = f"given in the sweep file; derived: {setting.value} ({setting.why})"
            kept.append(Setting(replaced, own[replaced], instead, given=True))
    told = {setting.key for setting in kept} | seen
    rest = [
        Setting(key, value, "given in the sweep file", given=True) for key, value in own.items() if key not in told
    ]
    return (*kept, *rest)


def leaves(config: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is no map (or an empty one)."""
    for key, value in config.items():
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith(f"{key}.")


def _orchestrator(experiment: Experiment) -> Iterator[Setting]:
    deployment = experiment.deployment
    yield Setting("perf_metrics_max_requests", PERF_RECORDS, "joined per-request times kept until they are fetched")
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
