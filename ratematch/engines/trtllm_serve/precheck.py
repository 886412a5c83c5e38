"""What the start-up, or the first request, of a rendered deployment would fail at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from ratematch.engines.installed import InstalledSchema
from ratematch.engines.ownyaml import read_own_yaml
from ratematch.engines.settings import Config, without
from ratematch.engines.trtllm_serve.agreement import (
    as_meant,
    check_drafts,
    check_environment,
    check_model,
    check_pair,
    check_router,
    doubt_drafts,
    doubt_model,
    doubt_pair,
)
from ratematch.engines.trtllm_serve.contract import doubt_map, load_keys, orchestrator_keys
from ratematch.engines.trtllm_serve.forced import check_forced
from ratematch.engines.trtllm_serve.modes import doubt_fill
from ratematch.engines.trtllm_serve.orchestrator_rules import check_orchestrator_config
from ratematch.engines.trtllm_serve.release import NEWEST, read_version
from ratematch.engines.trtllm_serve.schema.files import (
    Judgement,
    doubt_version,
    judge_orchestrator,
    judge_worker,
)
from ratematch.engines.trtllm_serve.transceiver import check_transfer, doubt_transfer
from ratematch.engines.trtllm_serve.worker_rules import check_worker_config
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model

ORCHESTRATOR = "orchestrator.yaml"


def check_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """Problems of the files one by one, and of what must agree between them; empty when there are none.

    ``model``: what the servers load; ``None`` leaves out the rules that depend on it. Options marked
    ``!unchecked`` are not checked, and nothing is concluded from them. ``installed``: rules on single keys, where it
    is known.
    """
    version, deployment = experiment.engine.version, experiment.deployment
    configs = {file.path: read_config(file.content) for file in plan.files}
    problems: list[str] = []
    for path, config in configs.items():
        if path == ORCHESTRATOR:
            check, unchecked = check_orchestrator_config, deployment.unchecked
        else:
            group = next(group for group in deployment.groups if path == f"{group.role}.yaml")
            check, unchecked = check_worker_config, group.unchecked
        refusals: Sequence[str] = check(without(config, unchecked), version) if installed is None else ()
        problems.extend(f"{path}: {problem}" for problem in refusals)
    for file, judged in _judge_files(plan, experiment, installed):
        problems.extend(f"{file}: {problem}" for problem in judged.refusals)
    if problems:  # what is not valid by itself cannot be compared
        return problems
    workers = {path.removesuffix(".yaml"): config for path, config in configs.items() if path != ORCHESTRATOR}
    for group in deployment.groups:
        problems.extend(
            f"{group.role}.yaml: {problem}" for problem in check_drafts(workers[group.role], group, version)
        )
        if model is not None:
            problems.extend(f"{group.role}.yaml: {problem}" for problem in check_model(workers[group.role], model))
    meant = _as_meant(plan, workers)
    for group in deployment.groups:
        if meant[group.role] is not workers[group.role]:
            checked = without(meant[group.role], group.unchecked)
            problems.extend(f"{group.role}.yaml: {why}" for why in check_transfer(checked, read_version(version)))
    if deployment.ctx is not None and deployment.gen is not None:
        problems.extend(check_pair(meant["ctx"], meant["gen"], version))
    return [
        *problems,
        *check_environment(plan.processes, workers),
        *check_forced(experiment, plan.processes),
        *check_router(deployment),
    ]


def doubt_launch(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """What is not refused and yet not sure to be taken, or not to do what it seems to; for files that
    :func:`check_launch` lets pass. Options marked ``!unchecked`` count only where two sides are compared."""
    version, deployment = experiment.engine.version, experiment.deployment
    doubts: list[str] = doubt_version(version, installed) if installed else []
    if (release := read_version(version)).first[:2] > read_version(NEWEST).first[:2]:
        doubts.append(f"engine.version: {version} is later than all that is known, and taken for {release.line}")
    workers: dict[str, Config] = {}
    for group in deployment.groups:
        name = f"{group.role}.yaml"
        config = read_config(next(file.content for file in plan.files if file.path == name))
        workers[group.role] = config = _as_meant(plan, {group.role: config})[group.role]
        judged = without(config, group.unchecked)
        of_line = doubt_map("", judged, load_keys("worker"), release) if installed is None else ()
        found = [*of_line, *doubt_transfer(judged, release), *doubt_drafts(judged, version)]
        doubts += [f"{name}: {doubt}" for doubt in found]
        if model is not None:
            doubts += [f"{name}: {doubt}" for doubt in doubt_model(judged, model)]
    orchestrator = [read_config(file.content) for file in plan.files if file.path == ORCHESTRATOR]
    if orchestrator and installed is None:
        judged = without(orchestrator[0], deployment.unchecked)
        said = doubt_map("", judged, orchestrator_keys("top"), release)
        doubts += [f"{ORCHESTRATOR}: {doubt}" for doubt in said]
    for file, judgement in _judge_files(plan, experiment, installed):
        doubts += [f"{file}: {doubt}" for doubt in judgement.doubts]
    if "ctx" in workers and "gen" in workers:
        doubts += doubt_pair(workers["ctx"], workers["gen"], version)
    return [*doubts, *doubt_fill(experiment)]


def _as_meant(plan: LaunchPlan, workers: Mapping[str, Config]) -> dict[str, Config]:
    """``workers``, by role, with the KV transfer that DEFAULT is in the environment of their processes."""
    environments: dict[str, dict[str, str]] = {process.role: dict(process.env) for process in plan.processes}
    return {role: as_meant(config, environments.get(role, {})) for role, config in workers.items()}


def _judge_files(
    plan: LaunchPlan, experiment: Experiment, installed: InstalledSchema | None
) -> Iterator[tuple[str, Judgement]]:
    """Each file by what the image says that it takes; nothing where that is not known."""
    if installed is None:
        return
    deployment = experiment.deployment
    unchecked = {ORCHESTRATOR: deployment.unchecked}
    unchecked |= {f"{group.role}.yaml": group.unchecked for group in deployment.groups}
    for file in plan.files:
        of_orchestrator = file.path == ORCHESTRATOR
        version = experiment.engine.version
        yield file.path, _judge(file.content, of_orchestrator, unchecked[file.path], version, installed)


@lru_cache(maxsize=256)
def _judge(
    content: str, of_orchestrator: bool, unchecked: tuple[str, ...], version: str, installed: InstalledSchema
) -> Judgement:
    """Kept: the experiments of a sweep share most of their files, and each is asked about twice."""
    config = without(read_config(content), unchecked)
    return (judge_orchestrator if of_orchestrator else judge_worker)(config, version, installed)


def kv_layout(group: ServerGroup, version: str) -> str:
    """Empty: sides that differ are refused (:func:`check_launch`) before anything is measured."""
    return ""


@lru_cache(maxsize=256)
def read_config(content: str) -> Config:
    """The map in a rendered file; not to be changed, it is shared."""
    config: Config = read_own_yaml(content)
    return config
