"""Which aggregated servers an adaptive sweep measures: those that promise to come near the IFB front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep
from ratematch.prediction import forecast_experiment

IFB_CLOSE = 0.25
"""An aggregated server is measured when it promises to come this near to the predicted IFB front at some load."""


def choose_ifb(sweep: Sweep, experiments: Sequence[Experiment]) -> tuple[list[Experiment], list[dict[str, Any]]]:
    """Aggregated servers that promise to come near the IFB front at some load, and why the others are left out."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for experiment in experiments:
        gpus = experiment.deployment.gpus
        curves[experiment.id] = [
            (1 / each.tpot_s, each.req_s * each.osl / gpus)
            for each in forecast_experiment(experiment, sweep.cluster).values()
            if each.tpot_s
        ]
    chosen, skips = [], []
    for experiment in experiments:
        rivals = [
            point for other in experiments if other.workload == experiment.workload for point in curves[other.id]
        ]
        own = curves[experiment.id]
        nearest = max((value / max(v for u, v in rivals if u >= speed) for speed, value in own), default=1.0)
        if nearest >= 1 - IFB_CLOSE:
            chosen.append(experiment)
        else:
            why = f"promises at most {nearest:.0%} of the predicted IFB front at its tok/s/user"
            skips.append(
                {
                    "workload": experiment.workload.label,
                    "experiment": experiment.id,
                    "label": experiment.label,
                    "why": why,
                }
            )
    return chosen, skips
