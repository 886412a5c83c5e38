"""A sweep's figures before it runs: forecasts of every load, corrected by measured results, then matched.

Predicted figures are matched with predicted ones only, in an analysis of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ratematch.emulator.efficiency import LearntSet
from ratematch.match.analysis import analyze_workload
from ratematch.match.points import WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.measure.stats import Stats
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import family_name
from ratematch.plan.sweep import Sweep
from ratematch.search.families import FamilyEffect, estimate_effects, family_of
from ratematch.simulate.accuracy import Basis, public_accuracy
from ratematch.simulate.calibration import Calibration
from ratematch.simulate.calibrationpoints import believed_of, forecast_slopes
from ratematch.simulate.delays import learnt_serving_time
from ratematch.simulate.inside import inside_of
from ratematch.simulate.steadystate import Forecast, forecast
from ratematch.store.folder import Results


@dataclass(frozen=True)
class Prediction:
    """What a sweep is predicted to give. ``analyses``: one a workload, of predicted rows alone.

    ``effects``: of each family, what predictions were corrected by and how far off they may still be.
    ``learnt_from``: number of servers measured. ``rows``: the corrected forecasts. ``basis``: what they stand on.
    ``calibration``: what their step times are corrected by.
    """

    model: str
    analyses: tuple[WorkloadAnalysis, ...]
    effects: tuple[FamilyEffect, ...]
    learnt_from: int
    rows: tuple[Measured, ...]
    basis: Basis
    calibration: Calibration | None = None


def forecast_experiment(
    experiment: Experiment, cluster: Cluster, step_times: str | None = None
) -> dict[Load, Forecast]:
    """Forecasts of the closed-loop loads of an experiment with one kind of server; empty for end-to-end ones.
    ``step_times``: as in :func:`ratematch.simulate.inside.inside_of`.

    Raises:
        RatematchError: its servers would not start.
    """
    return _forecast_experiment(experiment, cluster, {}, step_times)


def _forecast_experiment(
    experiment: Experiment, cluster: Cluster, learnt: dict[str, LearntSet], step_times: str | None = None
) -> dict[Load, Forecast]:
    """The same; what the step times were learnt from goes into ``learnt``, by label."""
    if experiment.stage == "e2e" or experiment.workload.mean_isl is None:
        return {}
    inside = inside_of(experiment, cluster, step_times)
    if inside.learnt.values:
        learnt.setdefault(inside.learnt.label, inside.learnt)
    return {load: forecast(inside, experiment, load) for load in experiment.loads if isinstance(load, Concurrency)}


def _basis(learnt: Iterable[LearntSet]) -> Basis:
    serving = learnt_serving_time()
    return Basis(tuple(learnt), (serving.value, serving.low, serving.high), public_accuracy())


def predict_sweep(
    sweep: Sweep,
    experiments: Sequence[Experiment],
    results: Results | None = None,
    calibration: Calibration | None = None,
) -> Prediction:
    """Forecast every load of ``experiments`` and match them.

    ``results``: measurements that correct the forecasts, family by family. ``calibration``: what the sweep's step
    times are corrected by already; one or the other.

    Raises:
        RatematchError: servers of an experiment would not start.
    """
    assert results is None or calibration is None
    learnt: dict[str, LearntSet] = {}
    forecasts = {each.id: _forecast_experiment(each, sweep.cluster, learnt, sweep.step_times) for each in experiments}
    families = {family_of(experiment) for experiment in experiments}
    by_family = deviations(results.measured(), sweep.cluster, sweep.step_times) if results is not None else {}
    effects = estimate_effects({family: by_family.get(family, []) for family in families})
    if results is None and sweep.step_times != "kernels":
        effects |= calibrated_effects(experiments, sweep.cluster, calibration)
    rows = tuple(
        Measured(experiment, load, to_measurement(forecast_of_load, effects[family_of(experiment)].factor))
        for experiment in experiments
        for load, forecast_of_load in forecasts[experiment.id].items()
    )
    limits = sweep.constraints
    question = Question.of(limits, sweep.max_gpus, draws=0)
    analyses = tuple(analyze_workload(rows, workload, question) for workload in sweep.workloads if rows)
    return Prediction(
        sweep.step_times,
        analyses,
        tuple(effects[name] for name in sorted(effects)),
        sum(map(len, by_family.values())),
        rows,
        _basis(learnt.values()),
        calibration,
    )


def calibrated_effects(
    experiments: Sequence[Experiment], cluster: Cluster, calibration: Calibration | None = None
) -> dict[str, FamilyEffect]:
    """By family, how far predictions of its servers may be off, root mean square over a few of them, each at its
    middle load: what a calibration leaves unknown, or what public deployments were off by, where nothing of one's own
    is measured. What predictions are corrected by is in their step times."""
    by_family: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        if experiment.stage != "e2e" and experiment.workload.mean_isl is not None and _middle(experiment) is not None:
            by_family.setdefault(family_of(experiment), []).append(experiment)
    return {
        family: _effect(family, [those[0], those[len(those) // 2], those[-1]], cluster, calibration)
        for family, those in by_family.items()
    }


def _effect(
    family: str, experiments: Sequence[Experiment], cluster: Cluster, calibration: Calibration | None
) -> FamilyEffect:
    squares, known = [], calibration
    for experiment in {each.id: each for each in experiments}.values():
        known = calibration or believed_of(experiment, cluster)
        load = _middle(experiment)
        assert load is not None
        slopes = forecast_slopes(experiment, cluster, load, known.correction)
        # Steps of aggregated servers that generate are corrected as those of gen servers are.
        mapping = experiment.deployment.groups[-1].mapping.label
        of_steps = family_name("ctx" if experiment.stage == "ctx" else "gen", mapping)
        squares.append(known.common_sd(slopes, of_steps) ** 2)
    assert known is not None
    return FamilyEffect(family, sd=math.sqrt(fmean(squares)), own_sd=known.server_sd(family.startswith("ifb ")))


def _middle(experiment: Experiment) -> Concurrency | None:
    loads = [load for load in experiment.loads if isinstance(load, Concurrency)]
    return loads[len(loads) // 2] if loads else None


def known_families(
    experiments: Iterable[Experiment], cluster: Cluster, calibration: Calibration
) -> tuple[tuple[str, float], ...]:
    """By family of ctx and gen servers, the standard deviation of the log of what calibrated forecasts of its servers
    are off by together, by one experiment of each."""
    one_each = {family_of(each): each for each in experiments if each.stage in ("ctx", "gen")}
    effects = calibrated_effects(list(one_each.values()), cluster, calibration)
    return tuple((family, effects[family].sd) for family in sorted(effects))


def deviations(
    measured: Iterable[Measured], cluster: Cluster, step_times: str = DEFAULT_STEP_TIMES
) -> dict[str, list[float]]:
    """By family, the log of measured over predicted speed of each server: the mean over its valid loads.

    Speed is requests/s, of generation tokens/s/user. End-to-end runs are not used. ``step_times``: the model
    that predicts, whichever one stands behind figures that are emulated themselves.
    """
    by_experiment: dict[str, list[Measured]] = {}
    for row in measured:
        if row.experiment.stage != "e2e" and row.measurement.valid and row.measurement.req_s:
            by_experiment.setdefault(row.experiment.id, []).append(row)
    by_family: dict[str, list[float]] = {}
    for rows in by_experiment.values():
        forecasts = forecast_experiment(rows[0].experiment, cluster, step_times)
        logs = [speed_ratio(row.measurement, forecasts[row.load]) for row in rows if row.load in forecasts]
        if logs:
            by_family.setdefault(family_of(rows[0].experiment), []).append(fmean(logs))
    return by_family


def speed_ratio(measured: Measurement, predicted: Forecast) -> float:
    """Log of measured over predicted speed at one load."""
    assert measured.req_s
    if predicted.tpot_s and measured.tpot_ms:
        return math.log(predicted.tpot_s * 1000 / measured.tpot_ms.mean)
    return math.log(measured.req_s / predicted.req_s)


def to_measurement(predicted: Forecast, factor: float = 1.0) -> Measurement:
    """The forecast, ``factor`` times as fast, in the form that matching takes. Nothing was measured: ``n`` is 0."""
    ttft_ms, tpot_ms = predicted.ttft_s * 1000 / factor, predicted.tpot_s * 1000 / factor
    req_s = predicted.req_s * factor
    return Measurement(
        num_requests=0,
        num_ok=0,
        num_failed=0,
        window=None,
        ttft_ms=_point(max(ttft_ms, 1e-6)),
        tpot_ms=_point(tpot_ms) if tpot_ms else None,
        itl_ms=None,
        e2el_ms=None,
        send_lag_ms=None,
        tok_s_user=1000 / tpot_ms if tpot_ms else None,
        tok_s=req_s * predicted.osl,
        req_s=req_s,
        tok_s_run=None,
        req_s_run=None,
        isl_mean=None,
        osl_mean=predicted.osl,
        in_flight=float(predicted.concurrency),
        little=None,
        valid=True,
        warnings=("predicted, not measured",),
    )


def _point(value: float) -> Stats:
    return Stats(n=0, mean=value, std=0.0, min=value, p50=value, p90=value, p95=value, p99=value, max=value)
