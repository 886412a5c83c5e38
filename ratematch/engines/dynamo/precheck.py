"""What the start-up, or the first request, of a planned Dynamo deployment would fail at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ratematch.engines.dynamo.contract import spell_flags
from ratematch.engines.dynamo.engineside import (
    DEFAULT_BLOCK,
    PREFILL_TOKENS,
    as_engine,
    block_size,
    is_alone,
    routes_by_blocks,
    worker_config,
)
from ratematch.engines.dynamo.stack import FORCED_VARIABLES, Stack, stack_of
from ratematch.engines.installed import InstalledSchema
from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve import precheck as trtllm
from ratematch.engines.vllm import precheck as vllm
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model

NOT_HERE = ("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "TLLM_BENCHMARK_REQ_QUEUES_SIZE")
"""Variables of ``trtllm-serve``'s own orchestrator and of a batch that is filled before the first step."""


FORBIDDEN = ("DYN_MIGRATION_LIMIT", "DYN_ROUTER_CONDITIONAL_DISAGG", "DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG")
"""What would change which worker answers a request, or how often."""


LAST_SYSTEM_PORT = 32767
"""The highest port at which a worker can report (1.6.1 ends with "expected i16" above it)."""


def check_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """Problems of the engine's own configuration, and of what must agree between workers and frontends; empty when
    there are none. ``model``: what the workers load; ``None`` leaves out the rules that depend on it."""
    stack, inner = stack_of(experiment.engine), as_engine(experiment)
    problems = list(_check_deployment(experiment, stack))
    own = trtllm if stack.backend == "trtllm" else vllm
    problems += own.check_launch(_engine_part(plan, experiment), _judged(inner, experiment), model, installed)
    for group in experiment.deployment.groups:
        problems += [f"{group.role}: {problem}" for problem in _check_group(experiment, group, stack)]
    problems += _check_blocks(experiment, stack)
    problems += _check_ports(plan)
    problems += [*_check_environment(plan), *_check_given(plan, experiment)]
    return problems


def doubt_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """What is not refused and yet not sure to do what it seems to."""
    stack, inner = stack_of(experiment.engine), as_engine(experiment)
    doubts: list[str] = []
    if stack.backend == "trtllm":
        doubts += trtllm.doubt_launch(_engine_part(plan, experiment), inner, model, installed)
    for group in experiment.deployment.groups:
        config = worker_config(experiment, group)
        if stack.backend == "trtllm" and config.get("num_postprocess_workers"):
            doubts.append(
                f"{group.role}.yaml: num_postprocess_workers: Dynamo takes it away, with a warning since 1.5: the "
                "frontend turns tokens into text"
            )
    doubts += _doubt_ranks(experiment, stack)
    if stack.discovery == "file" and not experiment.emulated and len({spec.host for spec in plan.processes}) > 1:
        doubts.append(
            "engine.discovery: file relies on changes of a shared folder being seen on every node, which is not "
            "documented for network file systems: etcd is"
        )
    if stack.frontends > 1 and not stack.nginx:
        doubts.append(
            f"engine.frontends: {stack.frontends} without nginx: loads go to the first one's address, the others are "
            "up and idle; nginx: true puts one address in front of all"
        )
    return doubts


def _doubt_ranks(experiment: Experiment, stack: Stack) -> Iterator[str]:
    """Warm prompts lie on one attention-DP rank each, and the engine may ask another."""
    gen = experiment.deployment.gen
    if stack.backend != "trtllm" or experiment.mode != "gen_only_warmed" or gen is None or routes_by_blocks(stack):
        return
    if gen.mapping.attention_dp:
        yield (
            f"gen: {gen.mapping.label} spreads requests over its {gen.mapping.dp_ranks} attention-DP ranks, each "
            f"with blocks of its own, and TensorRT-LLM {stack.backend_version} is not known to send a prompt to the "
            "rank that keeps its blocks: such loads mostly end as not valid"
        )


def _engine_part(plan: LaunchPlan, experiment: Experiment) -> LaunchPlan:
    """The workers and their files: what the room of their engine knows."""
    files = {f"{group.role}.yaml" for group in experiment.deployment.groups}
    return replace(
        plan,
        files=tuple(file for file in plan.files if file.path in files),
        processes=tuple(spec for spec in plan.processes if spec.is_worker),
    )


def _judged(inner: Experiment, experiment: Experiment) -> Experiment:
    """``inner`` with the configurations that Dynamo's workers have, so that they are judged and not derived again."""
    if stack_of(experiment.engine).backend != "vllm":
        return inner
    groups = {group.role: _as_configured(experiment, group) for group in experiment.deployment.groups}
    deployment = Deployment(ctx=groups.get("ctx"), gen=groups.get("gen"), agg=groups.get("agg"))
    return replace(inner, deployment=replace(deployment, warmed=inner.deployment.warmed))


def _as_configured(experiment: Experiment, group: ServerGroup) -> ServerGroup:
    config = worker_config(experiment, group)
    batch, tokens = config.get("max_num_seqs"), config.get("max_num_batched_tokens")
    return replace(group, config=config, max_batch_size=batch, max_num_tokens=tokens)


def _check_deployment(experiment: Experiment, stack: Stack) -> Iterator[str]:
    deployment = experiment.deployment
    if deployment.orchestrator:
        keys = ", ".join(map(str, deployment.orchestrator))
        yield f"orchestrator: {keys}: a Dynamo deployment has no orchestrator's file; write engine.frontend_args"
    if deployment.router_args:
        yield "router.args: are of trtllm-serve's orchestrator; write engine.router_mode and engine.frontend_args"
    if experiment.mode not in ("ctx_only", "gen_only_warmed", "e2e", "aggregated"):
        yield f"mode {experiment.mode}: not with Dynamo, whose frontend invents no context: gen_only_warmed is"
    if is_alone(experiment) and any(group.instances > 1 and group.role == "gen" for group in deployment.groups):
        yield "gen: alone it is one worker: a prompt is warm in the worker that computed it, and the router chooses"


def _check_group(experiment: Experiment, group: ServerGroup, stack: Stack) -> Iterator[str]:
    if stack.backend != "trtllm":
        return
    config = worker_config(experiment, group)
    if "postprocess_tokenizer_dir" in config:
        yield "postprocess_tokenizer_dir: Dynamo's frontend turns tokens into text, and workers have no such part"
    if config.get("backend", "pytorch") != "pytorch":
        yield f"backend: {config['backend']!r}: Dynamo's workers run the pytorch backend"
    if experiment.mode == "gen_only_warmed" and group.role == "gen":
        yield from _check_warmed(experiment, config)


def _check_warmed(experiment: Experiment, config: Config) -> Iterator[str]:
    """Prompts have to be computed by a generation server, and to stay in its cache."""
    kv = config.get("kv_cache_config")
    if isinstance(kv, dict) and kv.get("enable_block_reuse", True) is False:
        yield "kv_cache_config.enable_block_reuse: false: gen alone finds its prompts in the blocks it keeps"
    chunked, tokens = config.get("enable_chunked_prefill"), config.get("max_num_tokens")
    isl = experiment.workload.isl
    if not isinstance(tokens, int):
        return
    if not chunked and tokens < isl:
        yield (
            f"max_num_tokens: {tokens} is less than ISL {isl}, and without enable_chunked_prefill no prompt can be "
            "computed here before the clock"
        )
    elif chunked and tokens < DEFAULT_BLOCK["trtllm"]:
        yield (
            f"max_num_tokens: {tokens} is less than a block: prompts are computed here before the clock, in pieces "
            f"of whole blocks; leave it out for {PREFILL_TOKENS}"
        )


def _check_blocks(experiment: Experiment, stack: Stack) -> Iterator[str]:
    """One number of tokens a block, for frontends and all workers."""
    sizes = {
        group.role: block_size(experiment, group) or DEFAULT_BLOCK[stack.backend]
        for group in experiment.deployment.groups
    }
    given = spell_flags("frontend", stack.version, stack.frontend_args).get("kv-cache-block-size")
    for role, size in sizes.items():
        if isinstance(given, int) and given != size:
            yield f"{role}: blocks of {size} tokens, and engine.frontend_args says kv-cache-block-size: {given}"
    if stack.router_mode == "kv" and len(set(sizes.values())) > 1:
        told = ", ".join(f"{role} {size}" for role, size in sizes.items())
        yield f"blocks of {told} tokens: router_mode kv counts both sides' blocks by one size"


def _check_ports(plan: LaunchPlan) -> Iterator[str]:
    """A port is one process's."""
    used = Counter((spec.host, port) for spec in plan.processes for port in (spec.port, *spec.further_ports))
    for (host, port), count in used.items():
        if count > 1:
            yield f"port {port} on {host} is given to {count} processes"
    for spec in plan.processes:
        if spec.is_worker and spec.port > LAST_SYSTEM_PORT:
            yield (
                f"{spec.name}: port {spec.port}: Dynamo reads DYN_SYSTEM_PORT as 16 bits with a sign, up to "
                f"{LAST_SYSTEM_PORT}; set a lower port_base in the cluster profile"
            )
            return


def _check_given(plan: LaunchPlan, experiment: Experiment) -> Iterator[str]:
    """Variables of a role that the plan sets itself, to other values."""
    for group in experiment.deployment.groups:
        spec = next(spec for spec in plan.processes if spec.role == group.role)
        planned = dict(spec.env)
        for name in FORCED_VARIABLES.keys() & group.environment.keys() & planned.keys():
            if planned[name] != group.environment[name]:
                yield f"{group.role}: environment: {name} is set for the measurement: {FORCED_VARIABLES[name]}"


def _check_environment(plan: LaunchPlan) -> Iterator[str]:
    """Variables of a profile or of a group that would undo what the plan sets."""
    seen: set[str] = set()
    for spec in plan.processes:
        for name, _ in spec.env:
            if name in seen:
                continue
            if name in FORBIDDEN or name in NOT_HERE:
                seen.add(name)
                right = FORCED_VARIABLES.get(name, "it has no meaning behind Dynamo's frontend")
                yield f"environment: {name} must not be set for {spec.name}: {right}"
