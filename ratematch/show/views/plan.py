"""What a sweep would run and cost, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.plan.budget import Estimate
from ratematch.plan.deployment import STAGES, Stage
from ratematch.plan.expansion import Dropped, Expansion, combinations
from ratematch.plan.experiment import Experiment, load_to_json
from ratematch.plan.memory import default_precision
from ratematch.plan.sweep import Sweep
from ratematch.show.console import table


def plan_to_json(sweep: Sweep, expansion: Expansion, cost: Estimate) -> dict[str, Any]:
    """The same as :func:`print_plan`, as plain JSON values."""
    return {
        "sweep": sweep.name,
        "about": sweep.about,
        "model": sweep.model.name,
        "precisions": [default_precision(sweep.model_under(name), sweep.gpu) for name in sweep.precisions],
        "cluster": sweep.cluster.name,
        "gpu": sweep.cluster.gpu,
        "emulated": sweep.cluster.emulated,
        "engine": asdict(sweep.engine),
        "max_gpus": sweep.max_gpus,
        "experiments": [_experiment_to_json(experiment) for experiment in expansion.experiments],
        "space": [
            {"stage": stage, "combinations": cells, "run": run, "left_out": cells - run}
            for stage, cells, run in space(sweep, expansion)
        ],
        "dropped": [asdict(dropped) for dropped in by_stage(expansion)],
        "stages": [asdict(stage) for stage in cost.stages],
        "minutes": cost.minutes,
        "gpu_hours": cost.gpu_hours,
        "budget_gpu_hours": sweep.budget.gpu_hours,
        "assumptions": list(cost.assumptions),
    }


def _experiment_to_json(experiment: Experiment) -> dict[str, Any]:
    return {
        "id": experiment.id,
        "stage": experiment.stage,
        "label": experiment.label,
        "workload": experiment.workload.label,
        "gpus": experiment.deployment.gpus,
        "loads": [load_to_json(load) for load in experiment.loads],
    }


def space(sweep: Sweep, expansion: Expansion) -> list[tuple[Stage, int, int]]:
    """Of each stage: cells of the product of its axes and the workloads, and how many of them run."""
    named = Counter(
        named.stage for named in sweep.deployments for _ in ([named.workload] if named.workload else sweep.workloads)
    )
    run = Counter(experiment.stage for experiment in expansion.experiments)
    return [
        (plan.stage, len(list(combinations(plan))) * len(sweep.workloads), run[plan.stage] - named[plan.stage])
        for plan in sweep.stages
    ]


def by_stage(expansion: Expansion) -> list[Dropped]:
    """What is not run, in the order of the stages, and of the file within a stage."""
    return sorted(expansion.dropped, key=lambda dropped: STAGES.index(dropped.stage))


def print_plan(sweep: Sweep, expansion: Expansion, cost: Estimate, console: Console) -> None:
    """Experiments, what was dropped and why, and the cost per stage with its assumptions."""
    formats = " and ".join(default_precision(sweep.model_under(name), sweep.gpu) for name in sweep.precisions)
    where = f": {sweep.model.name} in {formats} on {sweep.cluster.gpu} ({sweep.cluster.name})"
    emulated = ("  EMULATED", "bold yellow") if sweep.cluster.emulated else ""
    console.print(Text.assemble((sweep.name, "bold"), where, emulated))
    console.print(Text(sweep.about, "dim"))
    rows = [
        (e.stage, e.workload.label, e.deployment.label, e.deployment.gpus, _ladder(e)) for e in expansion.experiments
    ]
    console.print()
    console.print(table("experiments", ["stage", "ISL/OSL", "deployment", "GPUs", "loads"], rows))
    left = [(stage, cells, run, cells - run) for stage, cells, run in space(sweep, expansion)]
    if left:
        console.print()
        console.print(table("space", ["stage", "combinations x workloads", "run", "left out"], left))
    if expansion.dropped:
        dropped = [(d.stage, d.combination, d.reason) for d in by_stage(expansion)]
        console.print()
        console.print(table(f"not run ({len(dropped)})", ["stage", "combination", "why"], dropped))
    stages = [(s.stage, s.experiments, s.loads, s.nodes, s.gpus, s.minutes, s.gpu_hours) for s in cost.stages]
    total = ("all", sum(s[1] for s in stages), sum(s[2] for s in stages), None, None, cost.minutes, cost.gpu_hours)
    columns = ["stage", "experiments", "loads", "nodes", "GPUs", "minutes", "GPU-hours"]
    console.print()
    console.print(table("cost", columns, [*stages, total]))
    for assumption in cost.assumptions:
        console.print(Text(f"assumed: {assumption}", "dim"))
    if sweep.budget.gpu_hours is not None and cost.gpu_hours > sweep.budget.gpu_hours:
        console.print(
            f"over budget: {cost.gpu_hours:.2f} GPU-hours estimated, {sweep.budget.gpu_hours:g} allowed; "
            "the sweep stops starting deployments when they are spent",
            style="bold red",
        )


def _ladder(experiment: Experiment) -> str:
    return " ".join(
        str(getattr(load, "concurrency", None) or f"{getattr(load, 'req_s', 0):g}/s") for load in experiment.loads
    )
