"""Why each key, flag and variable of a Dynamo deployment has its value."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.dynamo.contract import has_flag, spell_flags
from ratematch.engines.dynamo.engineside import derive
from ratematch.engines.dynamo.environment import explain_measured
from ratematch.engines.dynamo.stack import FORCED_FRONTEND, Stack, stack_of
from ratematch.engines.settings import explain_group
from ratematch.engines.vllm.options import spell_options
from ratematch.plan.experiment import Experiment
from ratematch.plan.setting import Setting

BASE = (
    Setting(
        "scheduler_config.capacity_scheduler_policy",
        "GUARANTEED_NO_EVICT",
        "Dynamo's own, below the file: trtllm-serve alone sets none",
    ),
    Setting(
        "scheduler_config.dynamic_batch_config.enable_batch_size_tuning",
        True,
        "Dynamo's own, below the file: trtllm-serve alone sets none",
    ),
)
"""What a TensorRT-LLM worker of Dynamo's is started with and its file does not say."""


def explain_deployment(experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
    """By role, every configured key with its value and the reason; for the ``orchestrator`` (the frontends) every
    flag; and variables of the ``environment`` that a measurement needs."""
    stack = stack_of(experiment.engine)
    explained: dict[str, tuple[Setting, ...]] = {}
    for group in experiment.deployment.groups:
        derived = () if group.config is not None else derive(experiment, group)
        vllm = stack.backend == "vllm"
        options = spell_options(group.options, stack.backend_version) if vllm else group.options
        settings = explain_group(group, options, derived)
        named = group.options if group.config is None else group.config
        base = () if vllm or "scheduler_config" in named else BASE
        explained[group.role] = (*settings, *base)
    explained["orchestrator"] = tuple(_frontends(stack))
    explained["environment"] = tuple(explain_measured(experiment, stack))
    return explained


def _frontends(stack: Stack) -> Iterator[Setting]:
    forced = {name: rule for name, rule in FORCED_FRONTEND.items() if has_flag("frontend", stack.version, name)}
    for name, (value, why) in forced.items():
        yield Setting(name, value, why)
    if "migration-limit" not in forced:
        yield Setting(
            "migration-limit", 0, f"of the workers in this release: {FORCED_FRONTEND['migration-limit'][1]}"
        )
    yield Setting("planner", "not started", "it would change the number of workers while they are measured")
    yield Setting("router-mode", stack.router_mode, "engine.router_mode")
    for name, value in spell_flags("frontend", stack.version, stack.frontend_args).items():
        if name not in forced:
            yield Setting(name, value, "given in the sweep file: engine.frontend_args", given=True)
    if stack.frontends > 1:
        front = "behind one nginx" if stack.nginx else "without nginx: loads go to the first"
        yield Setting("frontends", stack.frontends, f"engine.frontends, {front}", given=True)
