"""Predicted figures, for a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ratematch.match.points import Point, WorkloadAnalysis
from ratematch.measure.measured import Measured
from ratematch.plan.parallelism import family_name
from ratematch.show import style
from ratematch.show.console import print_table, show_value
from ratematch.show.headline import describe_gain
from ratematch.show.shortlabel import short_label

if TYPE_CHECKING:  # `show` draws what it is handed
    from ratematch.simulate.accuracy import Kind
    from ratematch.simulate.forecasts import Prediction

SHOWN_ROWS = 12
NAMES = {"tok_s_gpu": "tok/s/GPU", "tpot_ms": "TPOT", "ttft_ms": "TTFT"}
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
        "basis": _basis(prediction),
        "calibration": asdict(prediction.calibration) if prediction.calibration else None,
        "workloads": {
            workload.workload: {
                "rate_matched": [_row(point, prediction, "disagg") for point in workload.rate_matched],
                "ifb": [_row(point, prediction, "agg") for point in workload.ifb],
            }
            for workload in prediction.analyses
        },
        "ctx": [_load_row(row, prediction) for row in prediction.rows if row.experiment.stage == "ctx"],
        "gen": [_load_row(row, prediction) for row in prediction.rows if row.experiment.stage == "gen"],
    }


def _row(point: Point, prediction: Prediction, kind: Kind) -> dict[str, Any]:
    low, high = _within(point.tok_s_gpu, prediction, kind)
    few, many = _ratio_within(point, prediction)
    intervals = {"tok_s_gpu_low": low, "tok_s_gpu_high": high, "ratio_low": few, "ratio_high": many}
    return {name: getattr(point, name) for name in ROW_FIELDS} | intervals


def _ratio_within(point: Point, prediction: Prediction) -> tuple[float | None, float | None]:
    """95 % of what the ideal ratio of ctx to gen instances may be: both sides are off, each by itself."""
    if point.ratio is None or not point.ctx_mapping or not point.gen_mapping:
        return None, None
    total = {effect.family: effect.total_sd for effect in prediction.effects}
    names = family_name("ctx", point.ctx_mapping), family_name("gen", point.gen_mapping)
    ratio, spread = float(Fraction(point.ratio)), math.exp(1.96 * math.hypot(*(total[name] for name in names)))
    return ratio / spread, ratio * spread


def _factor_within(row: Measured, prediction: Prediction) -> tuple[float, float]:
    """95 % of what the speed of a server may be over the predicted one."""
    family = family_name(row.experiment.stage, row.experiment.deployment.groups[-1].mapping.label)
    sd = next(effect.total_sd for effect in prediction.effects if effect.family == family)
    return math.exp(-1.96 * sd), math.exp(1.96 * sd)


def _within(tok_s_gpu: float | None, prediction: Prediction, kind: Kind) -> tuple[float | None, float | None]:
    """Where tok/s/GPU lies: by what public rows were off, or in 95 % of cases where measurements of one's own correct
    predictions, the widest of the families that are in it."""
    if tok_s_gpu is None:
        return None, None
    if prediction.calibration is not None or prediction.learnt_from:
        stages = ("ifb ",) if kind == "agg" else ("ctx ", "gen ")
        sds = [effect.total_sd for effect in prediction.effects if effect.family.startswith(stages)]
        spread = math.exp(1.96 * max(sds))
        return tok_s_gpu / spread, tok_s_gpu * spread
    low, high = prediction.basis.accuracy.intervals[kind]["tok_s_gpu"]
    return tok_s_gpu * low, tok_s_gpu * high


def _basis(prediction: Prediction) -> dict[str, Any]:
    basis = prediction.basis
    serving = dict(zip(("value", "low", "high"), basis.serving_s, strict=True))
    return {
        "learnt": [
            {"for": each.label, "source": each.source, "values": {k: v._asdict() for k, v in each.values.items()}}
            for each in basis.sets
        ],
        "serving_s": serving,
        "accuracy": asdict(basis.accuracy),
    }


def basis_in_words(prediction: Prediction) -> list[str]:
    """What predictions stand on, a line each."""
    basis = prediction.basis
    lines = [f"learnt values, {each.label}: {each.source}" for each in basis.sets]
    if prediction.calibration is not None:
        lines.append(prediction.calibration.in_words())
    value, low, high = (1000 * each for each in basis.serving_s)
    lines.append(f"a request takes {value:.0f} ms ({low:.0f} to {high:.0f}) around the engine's steps")
    accuracy = basis.accuracy
    if prediction.calibration is not None:
        # Public rows say how far off predictions are that nothing of one's own corrects: of these, TTFT's waiting.
        lines += [each.words for each in prediction.calibration.families]
        agg, disagg = (accuracy.intervals[kind]["ttft_ms"] for kind in ("agg", "disagg"))
        lines.append(
            f"TTFT, whose waiting no calibration corrects: {accuracy.covered:.0%} of public rows were measured at x "
            f"{disagg[0]:.2f} to {disagg[1]:.2f} (rate-matched), {agg[0]:.2f} to {agg[1]:.2f} (IFB) of a prediction"
        )
        return lines
    for kind, what in (("disagg", "rate-matched"), ("agg", "IFB")):
        parts = accuracy.intervals[kind]  # type: ignore[index]
        said = ", ".join(f"{NAMES[name]} x {ends[0]:.2f} to {ends[1]:.2f}" for name, ends in parts.items())
        lines.append(
            f"{what}: {accuracy.covered:.0%} of public {kind} rows were measured at {said} of such a prediction "
            f"({accuracy.rows} rows in all, DeepSeek-R1 on TensorRT-LLM; {accuracy.source})"
        )
    low, high = accuracy.near_limit
    lines.append(
        f"TTFT is open where context servers are busy for more than {accuracy.busy:.0%} of the time: public rows of "
        f"that kind were measured at x {low:.2f} to {high:.2f} of the simulated one"
    )
    return lines


def _load_row(row: Measured, prediction: Prediction) -> dict[str, Any]:
    """``speed_low`` and ``speed_high``: 95 % of requests/s of ctx and of tok/s/user of gen are between them."""
    figures = row.measurement
    speed = figures.req_s if row.experiment.stage == "ctx" else figures.tok_s_user
    low, high = _factor_within(row, prediction)
    return {
        "experiment": row.experiment.label,
        "load": row.load.label,
        "req_s": figures.req_s,
        "ttft_ms": figures.ttft_ms.mean if figures.ttft_ms else None,
        "tok_s_user": figures.tok_s_user,
        "speed_low": speed * low if speed else None,
        "speed_high": speed * high if speed else None,
    }


def print_prediction(prediction: Prediction, console: Console, explain: bool = False) -> None:
    """How far predictions are trusted, best ctx rates, and the predicted fronts. ``explain``: every learnt value."""
    console.print()
    console.print(Text.assemble((style.PREDICTED_TEXT, "bold yellow"), f" (step times: {prediction.model})"))
    for line in basis_in_words(prediction):
        console.print(Text(line), soft_wrap=True)
    for each in prediction.basis.sets if explain else ():
        values = [(name, value.value, value.low, value.high) for name, value in each.values.items()]
        _print_rows(f"learnt values, {each.label}", ("value of", "used", "fits: low", "high"), values, console)
    number = prediction.learnt_from
    learnt = f"learnt from {number} measured servers" if number else "nothing measured"
    if prediction.calibration is not None:
        learnt = "beside the calibration"
    rows = [
        (effect.family, effect.servers, effect.factor, effect.interval[0], effect.interval[1])
        for effect in prediction.effects
    ]
    columns = ("family", "measured", "factor", "95 %: low", "high")
    _print_rows(f"factor on predicted speed, {learnt}", columns, rows, console)
    best = ("server", "load", "req/s/GPU", "95 %: low", "high", "TTFT ms")
    _print_rows("predicted ctx servers, best load", best, _ctx(prediction), console)
    for workload in prediction.analyses:
        _print_fronts(workload, prediction, console)


def _print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], console: Console) -> None:
    console.print()
    print_table(title, columns, rows, console)


def _print_fronts(workload: WorkloadAnalysis, prediction: Prediction, console: Console) -> None:
    """What disaggregated serving is predicted to gain, and both fronts that say so."""
    console.print()
    console.print(Text(f"{workload.workload}: {describe_gain(workload)}", "bold"), soft_wrap=True)
    share = "95 %" if prediction.calibration or prediction.learnt_from else "90 %"
    kinds: tuple[tuple[str, tuple[Point, ...], Kind], ...] = (
        ("rate-matched", workload.rate_matched, "disagg"),
        ("IFB", workload.ifb, "agg"),
    )
    for name, points, kind in kinds:
        front = _thin(points)
        ratio = ("ctx:gen (95 %)",) if kind == "disagg" else ()
        columns = ("deployment", "GPUs", *ratio, "tok/s/user", f"tok/s/GPU ({share})", "TTFT ms")
        rows = [
            (
                *(short_label(point.label), point.gpus, *((_ratio_words(point, prediction),) if ratio else ())),
                *(point.tok_s_user, _between(point.tok_s_gpu, *_within(point.tok_s_gpu, prediction, kind))),
                point.ttft_ms,
            )
            for point in front
        ]
        few = f" ({len(front)} of {len(points)} rows)" if len(front) < len(points) else ""
        _print_rows(f"{workload.workload}: predicted {name} front{few}", columns, rows, console)


def _between(value: float, low: float | None, high: float | None) -> str:
    ends = f" ({show_value(low)} to {show_value(high)})" if low is not None and high is not None else ""
    return show_value(value) + ends


def _ratio_words(point: Point, prediction: Prediction) -> str:
    low, high = _ratio_within(point, prediction)
    return (
        "-" if low is None or high is None else f"{float(Fraction(point.ratio or 0)):.2g} ({low:.2g} to {high:.2g})"
    )


def _ctx(prediction: Prediction) -> list[tuple[Any, ...]]:
    best: dict[str, tuple[Any, ...]] = {}
    for row in prediction.rows:
        figures = row.measurement
        if row.experiment.stage == "ctx" and figures.req_s and figures.ttft_ms:
            rate = figures.req_s / row.experiment.deployment.gpus
            label = row.experiment.label
            if label not in best or rate > best[label][2]:
                low, high = _factor_within(row, prediction)
                best[label] = (label, row.load.label, rate, rate * low, rate * high, figures.ttft_ms.mean)
    return sorted(best.values(), key=lambda row: -row[2])[:SHOWN_ROWS]


def _thin(front: Sequence[Point]) -> list[Point]:
    """At most ``SHOWN_ROWS`` of a front, both ends among them."""
    if len(front) <= SHOWN_ROWS:
        return list(front)
    return [front[round(k * (len(front) - 1) / (SHOWN_ROWS - 1))] for k in range(SHOWN_ROWS)]
