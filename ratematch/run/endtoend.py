"""The end-to-end stage of a sweep: which deployments are worth their GPU-hours, as experiments to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ratematch.detail import measured_in_detail
from ratematch.match.choose import choose_end_to_end
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep, experiment_of
from ratematch.store import Results, write_json


def end_to_end_experiments(sweep: Sweep, results: Results) -> list[Experiment]:
    """The deployments that matching holds worth running, at loads around the concurrency it predicts.

    What is chosen, and why, is written to ``choice.json``. Empty when nothing could be matched.
    """
    plan, cluster = sweep.e2e, sweep.cluster
    assert plan is not None
    measured = measured_in_detail(results)
    left = _left_for_end_to_end(sweep, results)

    def cost(deployment: Deployment, concurrencies: Sequence[int]) -> float:
        minutes = cluster.start_minutes + len(concurrencies) * plan.loads.repeats * cluster.load_minutes
        return deployment.gpus * minutes / 60

    experiments: list[Experiment] = []
    told: list[dict[str, Any]] = []
    for number, workload in enumerate(sweep.workloads):
        choices = choose_end_to_end(
            measured,
            workload,
            constraints=sweep.constraints,
            max_gpus=sweep.max_gpus,
            deployments=plan.deployments,
            around=plan.around,
            concurrencies=plan.loads.concurrency,
            router=plan.router,
            cost=cost,
            gpu_hours=None if left is None else left / (len(sweep.workloads) - number),
        )
        for choice in choices:
            if left is not None:
                left -= choice.gpu_hours
            loads = tuple(load for each in choice.concurrencies for load in plan.loads.at_concurrency(each))
            deployment = replace(choice.deployment, router_args=plan.router_args)
            experiments.append(experiment_of(sweep, "e2e", deployment, workload, loads))
            told.append(
                {
                    "workload": workload.label,
                    "deployment": choice.deployment.label,
                    "why": choice.why,
                    "predicted_tok_s_user": choice.predicted.tok_s_user,
                    "predicted_tok_s_gpu": choice.predicted.tok_s_gpu,
                    "predicted_concurrency": choice.predicted.concurrency,
                    "expected_gain": choice.gain,
                    "estimated_gpu_hours": choice.gpu_hours,
                    "concurrencies": list(choice.concurrencies),
                }
            )
    write_json(results.path / "choice.json", told)
    return experiments


def say_nothing_chosen(sweep: Sweep, results: Results) -> str:
    """Why nothing is run end to end, for a person."""
    left = _left_for_end_to_end(sweep, results)
    if left is None:
        return "nothing is run end to end: no valid ctx and gen measurements match"
    return (
        "nothing is run end to end: no valid ctx and gen measurements match, or no deployment is within the "
        f"{left:.2f} of {sweep.budget.gpu_hours:g} GPU-hours that are left"
    )


def _left_for_end_to_end(sweep: Sweep, results: Results) -> float | None:
    """GPU-hours of the budget that the other stages left; what end-to-end runs have spent is not taken off, so that a
    sweep that is resumed chooses as it did before."""
    if sweep.budget.gpu_hours is None:
        return None
    spent = sum(folder.gpu_hours() for folder in results.folders() if folder.read().stage != "e2e")
    return max(0.0, sweep.budget.gpu_hours - spent)
