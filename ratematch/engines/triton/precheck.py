"""What the start-up, or the first request, of a planned Triton deployment would fail at, with the arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ratematch.engines.installed import InstalledSchema
from ratematch.engines.triton.build import BUILD_KEYS
from ratematch.engines.triton.derive import COUNT, OWN, has_open_load, instances_given, instances_needed
from ratematch.engines.triton.ranks import MODELS, check_groups, parse_groups
from ratematch.engines.triton.render import TRANSFERS
from ratematch.engines.triton.startscript import NAME, PREFIX, REPOSITORY
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model

LEGACY = (
    "legacy: NVIDIA deleted Triton's disaggregated serving from TensorRT-LLM in July 2026; releases up to 1.2 (and "
    "1.3 candidates before about rc21) have it. For new deployments use trtllm-serve or Dynamo"
)

MANY, INSTANCE_MB = 64, 40
"""Orchestrator instances from which on their number is worth a word, and what one takes: seen on a CPU."""

_SEEN = re.compile(r'key:\s*"(participant_ids|gpu_device_ids)"\s*value:?\s*\{\s*string_value:\s*"([^"$]*)"')
_COUNT = re.compile(r"instance_group\s*:?\s*\[\s*\{\s*count\s*:\s*(\d+)")
_RANK = re.compile(r"^# rank \d+: (\w+) on (\S+)$", re.M)
_SHARED = re.compile(r"shm-region-prefix-name=(\S+)")


def check_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """Problems of options, ranks, GPUs and the orchestrator; empty when there are none. The rendered files
    themselves are read for the ranks, so that what a template did with them counts too."""
    problems = [problem for group in experiment.deployment.groups for problem in _check_group(group)]
    problems += _check_environment(experiment)
    problems += _check_orchestrator(experiment)
    problems += _check_length(experiment)
    if not problems:
        problems += check_files(plan, experiment)
    return problems


def doubt_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """That it is legacy; and what of it nobody has run."""
    doubts = [LEGACY]
    if any(len(spec.nodes) > 1 for spec in plan.processes):
        doubts.append(
            "several nodes: rendered only, never run: no public example of Triton's KV hand-over over nodes"
        )
    if has_open_load(experiment) and len(experiment.deployment.groups) > 1:
        most = instances_given(experiment)
        doubts.append(f"{COUNT}: {most} requests are served at once; an open load that holds more waits before that")
    count = instances_given(experiment)
    if count > MANY and len(experiment.deployment.groups) > 1:
        memory = f"{count * INSTANCE_MB / 1000:.0f} GB together"
        doubts.append(f"{COUNT}: {count} Python processes on the first node, {memory}, before the server answers")
    return doubts


def _check_group(group: ServerGroup) -> Iterator[str]:
    mapping, role = group.mapping, group.role
    if mapping.cp > 1 or mapping.attention_dp or mapping.ep > 1:
        yield f"mapping: {mapping.label}: a TensorRT engine is rendered for TP and PP only"
    if group.mtp:
        yield f"mtp: {group.mtp}: no draft layers are built into an engine here; write mtp: 0"
    if group.config is not None:
        yield f"{role}: config: an engine has no file of its own to be taken as a whole; write options"
    for key in group.options.keys() & OWN.keys():
        yield f"{role}: {key}: is set from the plan: {OWN[key]}"
    for key, value in group.options.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            yield f"{role}: {key}: {value!r} is no value of a placeholder: write text, a number, true or false"
        elif key in BUILD_KEYS and key.startswith("max_") and (not isinstance(value, int) or value < 1):
            yield f"{role}: {key}: {value!r} is no number of tokens"


def _check_environment(experiment: Experiment) -> Iterator[str]:
    """All ranks are in one MPI job, which has one environment."""
    given: dict[str, tuple[str, str]] = {}
    for group in experiment.deployment.groups:
        for name, value in group.environment.items():
            role, before = given.setdefault(name, (group.role, value))
            if before != value:
                both = f"{before} of {role} and {value} of {group.role}"
                yield f"environment: {name}: {both}: one MPI job has one value"
    if all(given.get(name, ("", ""))[1] == "1" for name in TRANSFERS):
        yield f"environment: {' and '.join(TRANSFERS)}: KV caches are handed over in one of these ways"


def _check_orchestrator(experiment: Experiment) -> Iterator[str]:
    given, unchecked = experiment.deployment.orchestrator, experiment.deployment.unchecked
    if experiment.deployment.gen is None:
        return
    for key in given.keys() & OWN.keys():
        yield f"orchestrator: {key}: is set from the plan: {OWN[key]}"
    count = given.get(COUNT)
    if count is None or COUNT in unchecked:
        return
    needed = instances_needed(experiment)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        yield f"orchestrator: {COUNT}: {count!r} is no number of instances"
    elif count < needed:
        yield (
            f"orchestrator: {COUNT}: {count} instances serve {count} requests at once, and the largest load keeps "
            f"{needed} in flight: {needed - count} would wait, and throughput would be that of {count}; leave it "
            f"out, or write {needed} or more"
        )


def _check_length(experiment: Experiment) -> Iterator[str]:
    workload = experiment.workload
    for group in experiment.deployment.groups:
        for key, needed, what in (
            ("max_seq_len", workload.isl + workload.osl, f"ISL {workload.isl} + OSL {workload.osl}"),
            ("max_input_len", workload.isl, f"ISL {workload.isl}"),
        ):
            given = group.options.get(key)
            if isinstance(given, int) and given < needed:
                yield f"{group.role}: {key}: {given} is less than {what} = {needed}"


def check_files(plan: LaunchPlan, experiment: Experiment) -> list[str]:
    """Ranks, GPUs, copies and shared memory of the rendered files, whatever rendered them."""
    texts = {file.path: file.content for file in plan.files}
    roles: dict[str, ServerGroup] = {MODELS[group.role]: group for group in experiment.deployment.groups}
    seen = {model: dict(_SEEN.findall(texts.get(f"{REPOSITORY}/{model}/config.pbtxt", ""))) for model in roles}
    engines = sum(group.instances for group in roles.values())
    ranks = sum(group.instances * group.mapping.tp * group.mapping.pp for group in roles.values())
    size = ranks + (engines > 1)
    problems: list[str] = []
    if engines > 1:
        participants = {model: values.get("participant_ids", "") for model, values in seen.items()}
        problems += check_groups("participant_ids", participants, size)
        problems += _check_sizes(participants, roles, size)
    script = texts.get(NAME, "")
    problems += _check_gpus(
        script, roles, {model: values.get("gpu_device_ids", "") for model, values in seen.items()}
    )
    for model, group in roles.items():
        count = _COUNT.search(texts.get(f"{REPOSITORY}/{model}/config.pbtxt", ""))
        if count is None or int(count[1]) != group.instances:
            has = "no count" if count is None else f"count {count[1]}"
            problems.append(f"{model}: instance_group: {has}, and {group.instances} copies are planned")
    return [*problems, *_check_shared(script)]


def _check_sizes(by_model: dict[str, str], roles: dict[str, ServerGroup], size: int) -> Iterator[str]:
    for model, text in by_model.items():
        group = roles[model]
        each = group.mapping.tp * group.mapping.pp
        try:
            lengths = [len(ranks) for ranks in parse_groups(text)]
        except ValueError:
            continue  # said already
        if lengths != [each] * group.instances:
            planned = f"{group.instances} x TP{group.mapping.tp} x PP{group.mapping.pp}"
            yield (
                f"{model}: participant_ids: {text or 'none'}: {planned} needs {group.instances} groups of {each} "
                f"ranks, in a world of {size} (all engines' TP x PP, + 1 for the orchestrator)"
            )


def _check_gpus(script: str, roles: dict[str, ServerGroup], by_model: dict[str, str]) -> Iterator[str]:
    """No GPU of a node has two ranks. The start script says which node each rank of a model is on, in their order."""
    nodes: dict[str, list[str]] = {model: [] for model in roles}
    for model, node in _RANK.findall(script):
        nodes[model].append(node)
    owner: dict[tuple[str, int], str] = {}
    for model, text in by_model.items():
        each = roles[model].mapping.tp * roles[model].mapping.pp
        try:
            groups = parse_groups(text)
        except ValueError:
            yield f"{model}: gpu_device_ids: {text!r} is not of the form 0,1;2,3"
            continue
        if [len(group) for group in groups] != [each] * roles[model].instances:
            needed = f"{roles[model].instances} groups of {each} GPUs are needed"
            yield f"{model}: gpu_device_ids: {text or 'none'}: {needed}"
            continue
        gpus = [gpu for group in groups for gpu in group]
        for node, gpu in zip(nodes[model], gpus, strict=True):
            if (node, gpu) in owner:
                yield f"{model}: gpu_device_ids: GPU {gpu} belongs to {owner[node, gpu]} already"
            owner.setdefault((node, gpu), model)


def _check_shared(script: str) -> Iterator[str]:
    """Each rank's shared memory has a name of its own, which no other start has."""
    names = [name.strip('")') for name in _SHARED.findall(script)]
    if not names or f"prefix={PREFIX}" not in script or not all(name.startswith("${prefix}") for name in names):
        yield "shared memory: a server's prefix is not that of its start: two servers of a node would share it"
    elif len(set(names)) != len(names):
        yield f"shared memory: {len(names)} ranks have {len(set(names))} prefixes: each needs its own"


def kv_layout(group: ServerGroup, version: str) -> str:
    """All engines hand over to each other; number formats are the checkpoints' and known when they start."""
    return ""
