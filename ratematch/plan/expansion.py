"""The experiments that a sweep stands for.

The axes of a stage are multiplied; combinations that the model or the cluster cannot run are dropped with the
arithmetic why. All loads of one deployment belong to one experiment, because loading weights takes minutes and a
load takes seconds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ratematch.plan.capacity import KvSettings, find_capacity
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Options, ServerGroup, Stage
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, Experiment, merge_loads
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency, Load, breakdown_loads, most_in_flight
from ratematch.plan.model import Model
from ratematch.plan.modelfile import facts_of
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.plan.precision import PRECISION_AXIS, axis_precisions
from ratematch.plan.rules import Impossible, check_mapping, check_mtp
from ratematch.plan.sweep import MAPPING_AXES, ROLE_OF_STAGE, AxisValues, NamedDeployment, StagePlan, Sweep
from ratematch.plan.workload import Workload

OPTION_PREFIX = "options."
"""What an axis begins with that is an engine's option, by its dotted path."""

KvOf = Callable[[ServerGroup], KvSettings]
"""What the engine does with the memory of a server."""


@dataclass(frozen=True)
class Dropped:
    """A combination that is not run, and why."""

    stage: Stage
    combination: str
    reason: str


@dataclass(frozen=True)
class Expansion:
    """What the stages before matching run, and what was dropped. End-to-end experiments come after matching."""

    experiments: tuple[Experiment, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Combination:
    """One cell of the product of a stage's axes."""

    axes: AxisValues
    mapping: Parallelism

    @property
    def label(self) -> str:
        extra = [f"{key}={value}" for key, value in self.axes.items() if key not in (*MAPPING_AXES, "mapping")]
        return " ".join([self.mapping.label, *extra])


def combinations(plan: StagePlan) -> Iterator[Combination]:
    """Every cell of the product of the axes, in the file's order."""
    for values in itertools.product(*plan.axes.values()):
        axes = dict(zip(plan.axes, values, strict=True))
        yield Combination(axes, _mapping_of(axes))


def _mapping_of(axes: AxisValues) -> Parallelism:
    if "mapping" in axes:
        return parse_mapping(axes["mapping"])
    tp = axes.get("tp", 1)
    ep = axes.get("ep", 1)
    return Parallelism(
        tp=tp,
        ep=tp if ep == "tp" else ep,
        pp=axes.get("pp", 1),
        cp=axes.get("cp", 1),
        attention_dp=axes.get("attention_dp", False),
    )


def why_impossible(combination: Combination, plan: StagePlan, model: Model, cluster: Cluster) -> list[Impossible]:
    """Why the model or the cluster cannot run the combination; empty when they can."""
    options = merge_options(plan.options, combination.axes)
    draft_model = "speculative_config" in plan.options
    return [
        *check_mapping(combination.mapping, model, cluster, partial(plan.expert_slots, options)),
        *check_mtp(combination.axes.get("mtp", 0), model, draft_model=draft_model),
        *_idle_axes(combination, plan, options),
    ]


def _idle_axes(combination: Combination, plan: StagePlan, options: Options) -> Iterator[Impossible]:
    """Axis values that change nothing with the rest of the combination, where the axis has one that does not pretend
    to: the same server would be measured twice."""
    for path, why in plan.idle_options(options, combination.mapping).items():
        for axis, values in plan.axes.items():
            if not f"{OPTION_PREFIX}{path}.".startswith(f"{axis}."):
                continue
            others = (merge_options(plan.options, {**combination.axes, axis: value}) for value in values)
            if any(path not in plan.idle_options(other, combination.mapping) for other in others):
                yield Impossible(axis, f"{path}: {why}")


def expand(sweep: Sweep, kv_of: KvOf) -> Expansion:
    """The experiments of ctx, gen and ifb for every workload, and the combinations dropped on the way.

    Combinations that cannot hold one request are
    dropped, and so are single loads that ask for more requests in flight than an instance holds: they would only
    measure its queue. Deployments written out in the file are run as they stand; what comes to the same servers under
    the same workload is one experiment, with the loads of all.
    """
    experiments: list[Experiment] = []
    alike: dict[tuple[Stage, str, Workload], list[Experiment]] = {}
    dropped: list[Dropped] = []
    for plan in sweep.stages:
        for combination in combinations(plan):
            impossible = why_impossible(combination, plan, sweep.model, sweep.cluster)
            if impossible:
                dropped.append(Dropped(plan.stage, combination.label, impossible[0].reason))
            elif any(_matches(rule, combination) for rule in plan.exclude):
                dropped.append(Dropped(plan.stage, combination.label, "excluded by the sweep file"))
            elif plan.only and not any(_matches(rule, combination) for rule in plan.only):
                dropped.append(Dropped(plan.stage, combination.label, "matches no `only` rule of the sweep file"))
            else:
                for workload in _under(sweep, combination):
                    experiment, too_much = _fitting(sweep, plan, combination, workload, kv_of)
                    dropped.extend(too_much)
                    if experiment is None:
                        continue
                    # Workloads that differ in OSL only are one to a ctx server.
                    same = alike.setdefault((plan.stage, experiment.deployment.label, experiment.workload), [])
                    if experiment not in same:
                        same.append(experiment)
                        experiments.append(experiment)
    return Expansion(merge_loads([*experiments, *expand_written_out(sweep)]), tuple(dropped))


def expand_written_out(sweep: Sweep) -> list[Experiment]:
    """An experiment for each deployment written out in the file, and for each workload it runs under."""
    return [
        experiment_of(
            replace(sweep, engine=named.engine or sweep.engine),
            named.stage,
            named.deployment,
            workload,
            _loads_of_named(sweep, named),
        )
        for named in sweep.deployments
        for workload in (_in_each(named.workload, sweep) if named.workload else sweep.workloads)
    ]


def _in_each(workload: Workload, sweep: Sweep) -> list[Workload]:
    return [replace(workload, precision=precision) for precision in sweep.precisions]


def _under(sweep: Sweep, combination: Combination) -> list[Workload]:
    """The workloads of the sweep under the combination's precision, where it has one."""
    if PRECISION_AXIS not in combination.axes:
        return list(sweep.workloads)
    wanted = axis_precisions([combination.axes[PRECISION_AXIS]], sweep.model, sweep.gpu)
    return [workload for workload in sweep.workloads if workload.precision in wanted]


def _loads_of_named(sweep: Sweep, named: NamedDeployment) -> tuple[Load, ...]:
    loads = named.loads.loads()
    return with_breakdown(sweep, named.deployment, loads) if named.breakdown else loads


def with_breakdown(sweep: Sweep, deployment: Deployment, loads: tuple[Load, ...]) -> tuple[Load, ...]:
    """``loads`` and, where measured loads would be slower for it, short ones that show where time goes."""
    return (*loads, *breakdown_loads(loads)) if sweep.needs_breakdown(deployment) else loads


def _fitting(
    sweep: Sweep, plan: StagePlan, combination: Combination, workload: Workload, kv_of: KvOf
) -> tuple[Experiment | None, list[Dropped]]:
    """The experiment with the loads that its servers can hold, and what had to go."""
    whole = _experiment(sweep, plan, combination, workload, _loads_of(plan))
    where = f"{combination.label} {whole.workload.label}"
    if plan.supply and whole.deployment.gpus > sweep.max_gpus:
        needed = f"needs {whole.deployment.gpus} GPUs with the context servers that supply it"
        return None, [Dropped(plan.stage, where, f"{needed}, and {sweep.max_gpus} are allowed")]
    for group in whole.deployment.groups:  # the measured one is the last: the supply's capacity only has to be there
        model = sweep.model_under(workload.precision)
        capacity = find_capacity(group, whole.workload, model, sweep.gpu, kv_of(group))
        if capacity.requests < 1:
            supplied = f"context supply {group.mapping.label}: " if plan.supply and group.role == "ctx" else ""
            return None, [Dropped(plan.stage, where, supplied + capacity.explanation)]
    if plan.stage == "ctx":  # waiting prompts hold no memory: a context server's queue is part of its TTFT
        return whole, []
    kept = tuple(
        load for load in whole.loads if not isinstance(load, Concurrency) or load.concurrency <= capacity.requests
    )
    over = [load for load in whole.loads if load not in kept]
    reason = f"more in flight than one instance holds: {capacity.explanation}"
    too_many = sorted({load.concurrency for load in over if isinstance(load, Concurrency)})
    dropped = [Dropped(plan.stage, f"{where} at {', '.join(map(str, too_many))} in flight", reason)] if over else []
    if not kept:
        return None, dropped
    return (_experiment(sweep, plan, combination, workload, kept) if over else whole), dropped


def _loads_of(plan: StagePlan) -> tuple[Load, ...]:
    """The loads of a stage. In gen_only a warm-up smaller than the batch would wait for ever, so the first wave,
    which fills the batch, is the warm-up: the window leaves it out, and three waves are what it needs."""
    loads = plan.loads.loads()
    if plan.supply is None:
        return loads
    return tuple(
        replace(load, warmup=0, num_requests=max(load.num_requests, 3 * load.concurrency))
        for load in loads
        if isinstance(load, Concurrency)
    )


def _experiment(
    sweep: Sweep, plan: StagePlan, combination: Combination, workload: Workload, loads: tuple[Load, ...]
) -> Experiment:
    group = ServerGroup(
        role=ROLE_OF_STAGE[plan.stage],
        mapping=combination.mapping,
        mtp=combination.axes.get("mtp", 0),
        max_batch_size=combination.axes.get("max_batch_size"),
        max_num_tokens=combination.axes.get("max_num_tokens"),
        options=merge_options(plan.options, combination.axes),
        environment=plan.environment,
        unchecked=plan.unchecked,
        tag=name_options(plan.axes, combination.axes),
    )
    # A context server answers with one token; whatever the workload's OSL, it is measured at 1.
    one_token = replace(workload, osl=1, osl_ratio=1.0, osl_spread=None, forced_acceptance="")
    measured_with = one_token if plan.stage == "ctx" else workload
    deployment = replace(_deployment(group), warmed=plan.warmed)
    if plan.supply is not None:
        deployment = replace(deployment, ctx=replace(plan.supply, mtp=group.mtp))
    margin = plan.fill_margin if plan.supply is not None else 0
    return experiment_of(sweep, plan.stage, deployment, measured_with, loads, margin=margin)


def experiment_of(
    sweep: Sweep,
    stage: Stage,
    deployment: Deployment,
    workload: Workload,
    loads: tuple[Load, ...],
    *,
    margin: int = 0,
) -> Experiment:
    """The experiment that runs ``deployment`` within ``sweep``; limits left open are filled in.

    ``margin``: as in :func:`ratematch.plan.limits.with_limits`, for its gen servers.
    """
    groups = {
        group.role: with_limits(
            group, workload, most_in_flight(loads, group.instances), margin if group.role == "gen" else 0
        )
        for group in deployment.groups
    }
    emulated = sweep.cluster.emulated or sweep.simulated
    return Experiment(
        stage=stage,
        model=sweep.model.name,
        model_path=sweep.paths.get(workload.precision) or sweep.model_path,
        engine=sweep.engine,
        gpu=sweep.cluster.gpu,
        cluster=sweep.cluster.name,
        emulated=emulated,
        simulated=sweep.simulated,
        step_times=sweep.step_times if emulated else DEFAULT_STEP_TIMES,
        deployment=replace(
            deployment,
            ctx=groups.get("ctx"),
            gen=groups.get("gen"),
            agg=groups.get("agg"),
            service_nodes=sweep.engine.service_nodes,
        ),
        workload=workload,
        loads=loads,
        facts=facts_of(sweep.model) if sweep.model.file else None,
    )


def _deployment(group: ServerGroup) -> Deployment:
    match group.role:
        case "ctx":
            return Deployment(ctx=group)
        case "gen":
            return Deployment(gen=group)
        case "agg":
            return Deployment(agg=group)


def _matches(rule: AxisValues, combination: Combination) -> bool:
    facts = {
        **{name: getattr(combination.mapping, name) for name in MAPPING_AXES},
        "mapping": combination.mapping.label,
        "gpus": combination.mapping.gpus,
        "mtp": 0,
        **{key: value for key, value in combination.axes.items() if key not in (*MAPPING_AXES, "mapping")},
    }
    return all(facts.get(key) in (wanted if isinstance(wanted, list) else [wanted]) for key, wanted in rule.items())


def merge_options(options: Options, axes: Mapping[str, Any]) -> Options:
    """``options`` with the dotted engine options among the axes laid over them."""
    merged: Options = _copy(options)
    for key, value in axes.items():
        if not key.startswith(OPTION_PREFIX):
            continue
        *parents, last = key.removeprefix(OPTION_PREFIX).split(".")
        place = merged
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return merged


def name_options(axes: Mapping[str, Sequence[Any]], chosen: Mapping[str, Any]) -> str:
    """The options that differ between the servers of a stage, for labels: ``block_size=128``."""
    options = [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in chosen.items()
        if key.startswith(OPTION_PREFIX) and len(axes[key]) > 1
    ]
    return "+".join(re.sub(r"[^\w.=-]+", "_", option) for option in options)


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value
