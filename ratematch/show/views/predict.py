"""Predicted figures, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ratematch.match.points import Point
from ratematch.measure.measured import Measured
from ratematch.show import style
from ratematch.show.console import table

if TYPE_CHECKING:  # `show` draws what it is handed
    from ratematch.simulate.forecasts import Prediction

SHOWN_ROWS = 12
ROW_FIELDS = (
    "label", "gpus", "ratio", "concurrency", "req_s", "tok_s_user", "tok_s_gpu", "ttft_ms", "tpot_ms", "limit",
)  # fmt: skip


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """Everything of a prediction as plain JSON values; ``predicted`` is always true."""
    return {
        "predicted": True,
        "model": prediction.model,
        "learnt_from": prediction.learnt_from,
        "families": [
            {**asdict(effect), "factor": effect.factor, "low": effect.interval[0], "high": effect.interval[1]}
            for effect in prediction.effects
        ],
        "workloads": {
            workload.workload: {
                "rate_matched": [_row(point) for point in workload.rate_matched],
                "ifb": [_row(point) for point in workload.ifb],
            }
            for workload in prediction.analyses
        },
        "ctx": [_load_row(row) for row in prediction.rows if row.experiment.stage == "ctx"],
        "gen": [_load_row(row) for row in prediction.rows if row.experiment.stage == "gen"],
    }


def _row(point: Point) -> dict[str, Any]:
    return {name: getattr(point, name) for name in ROW_FIELDS}


def _load_row(row: Measured) -> dict[str, Any]:
    figures = row.measurement
    return {
        "experiment": row.experiment.label,
        "load": row.load.label,
        "req_s": figures.req_s,
        "ttft_ms": figures.ttft_ms.mean if figures.ttft_ms else None,
        "tok_s_user": figures.tok_s_user,
    }


def print_prediction(prediction: Prediction, console: Console) -> None:
    """How far predictions are trusted, best ctx rates, and the predicted fronts."""
    console.print()
    console.print(Text.assemble((style.PREDICTED_TEXT, "bold yellow"), f" (step times: {prediction.model})"))
    number = prediction.learnt_from
    learnt = f"learnt from {number} measured servers" if number else "nothing measured"
    rows = [
        (effect.family, effect.servers, effect.factor, effect.interval[0], effect.interval[1])
        for effect in prediction.effects
    ]
    columns = ("family", "measured", "factor", "95 %: low", "high")
    console.print(table(f"factor on predicted speed, {learnt}", columns, rows))
    best = ("server", "load", "req/s/GPU", "TTFT ms")
    console.print(table("predicted ctx servers, best load", best, _ctx(prediction)))
    for workload in prediction.analyses:
        front = _thin(workload.rate_matched)
        rows_shown = [
            (point.label, point.gpus, point.ratio or "-", point.tok_s_user, point.tok_s_gpu, point.ttft_ms)
            for point in front
        ]
        title = (
            f"{workload.workload}: predicted rate-matched front ({len(front)} of {len(workload.rate_matched)} rows)"
        )
        console.print(table(title, ("deployment", "GPUs", "ratio", "tok/s/user", "tok/s/GPU", "TTFT ms"), rows_shown))


def _ctx(prediction: Prediction) -> list[tuple[Any, ...]]:
    best: dict[str, tuple[Any, ...]] = {}
    for row in prediction.rows:
        figures = row.measurement
        if row.experiment.stage == "ctx" and figures.req_s and figures.ttft_ms:
            rate = figures.req_s / row.experiment.deployment.gpus
            label = row.experiment.label
            if label not in best or rate > best[label][2]:
                best[label] = (label, row.load.label, rate, figures.ttft_ms.mean)
    return sorted(best.values(), key=lambda row: -row[2])[:SHOWN_ROWS]


def _thin(front: Sequence[Point]) -> list[Point]:
    """At most ``SHOWN_ROWS`` of a front, both ends among them."""
    if len(front) <= SHOWN_ROWS:
        return list(front)
    return [front[round(k * (len(front) - 1) / (SHOWN_ROWS - 1))] for k in range(SHOWN_ROWS)]
