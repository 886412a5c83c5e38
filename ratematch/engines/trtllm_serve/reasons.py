"""Why each key of a deployment's files has its value: a derived one by its rule, a given one and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ratematch.engines.settings import explain_group, leaves
from ratematch.engines.trtllm_serve.derive import derive_worker
from ratematch.engines.trtllm_serve.modes import explain_environment
from ratematch.engines.trtllm_serve.render import auth_key, router_config
from ratematch.engines.trtllm_serve.times import times_of_orchestrator
from ratematch.plan.deployment import Role
from ratematch.plan.experiment import Experiment
from ratematch.plan.setting import Setting

SECTIONS: tuple[tuple[Role, str], ...] = (("ctx", "context_servers"), ("gen", "generation_servers"))

GIVEN = {
    "attention_dp_config.enable_balance": (
        "on, prompts wait until every attention-DP rank has one, because the slowest rank decides how long a step "
        "takes; owners run aggregated servers so, at the cost of TTFT"
    ),
    "attention_dp_config.timeout_iters": (
        "steps that a prompt waits for the other ranks at most; 60 in the engine's published DeepSeek-R1 runs, its "
        "default is 50"
    ),
    "attention_dp_config.batching_wait_iters": (
        "steps that it waits beyond for further prompts; 0 in the engine's published DeepSeek-R1 runs, its default "
        "is 10"
    ),
    "enable_chunked_prefill": "on, decoding goes on while a long prompt is computed piece by piece",
}
"""What options do that nothing derives, and that decide whether a baseline is one: added to where they are from."""


def explain_deployment(experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
    """By role, and for the orchestrator where there is one: every configured key with its value and the reason; and
    variables of the ``environment`` that a measurement needs."""
    explained: dict[str, tuple[Setting, ...]] = {}
    for group in experiment.deployment.groups:
        derived = () if group.config is not None else derive_worker(experiment, group)
        settings = explain_group(group, group.options, derived)
        explained[group.role] = (
            *(
                replace(each, why=f"{each.why}: {GIVEN[each.key]}") if each.given and each.key in GIVEN else each
                for each in settings
            ),
            *_auth(experiment),
        )
    if experiment.deployment.needs_orchestrator:
        explained["orchestrator"] = tuple(_orchestrator(experiment))
    if environment := explain_environment(experiment):
        explained["environment"] = environment
    return explained


def _auth(experiment: Experiment) -> Iterator[Setting]:
    why = "random, one for all processes of a start: workers take another server's state only with it; kept nowhere"
    for key, value in auth_key(experiment).items():
        yield Setting(key, value, why)


def _orchestrator(experiment: Experiment) -> Iterator[Setting]:
    deployment = experiment.deployment
    yield from _auth(experiment)
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
