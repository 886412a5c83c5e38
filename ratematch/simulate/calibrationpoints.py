"""Measured loads as points of a calibration: of a results folder, or of a table of rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ratematch.emulator.efficiency import LearntSet, corrected
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import RooflineStepTime, StepTime
from ratematch.engines.steptimes import Correction
from ratematch.errors import Problem, TableError, UserError
from ratematch.match.table import TableRow
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import family_name, parse_mapping
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.simulate.calibration import (
    Calibration,
    CalibrationPoint,
    Vector,
    calibrate,
    nothing_measured,
    speed_slopes,
)
from ratematch.simulate.deviations import deviations_for
from ratematch.simulate.inside import inside_of
from ratematch.simulate.steadystate import Forecast, Inside, forecast
from ratematch.store.folder import Results

FEWEST_PROMPTS = 2
FEWEST = 2
"""Loads below which nothing is corrected: one says how fast, not what of."""


@dataclass(frozen=True)
class MeasuredSpeed:
    """What one load of one server says: requests/s of a ctx server, seconds a token of a gen server. ``cluster``: the
    profile that it ran on."""

    experiment: Experiment
    cluster: Cluster
    load: Concurrency
    req_s: float | None
    tpot_s: float | None


@dataclass(frozen=True)
class CorrectedInside:
    """The inside of a server with corrected step times."""

    scheduler: Scheduler
    step_time: StepTime
    learnt: LearntSet


def correct_inside(inside: Inside, correction: Correction) -> CorrectedInside:
    """``inside``, whose step times are the roofline's, with those of ``correction``."""
    steps = inside.step_time
    assert isinstance(steps, RooflineStepTime)
    step_time = steps.with_efficiency(corrected(steps.efficiency, correction, steps.mapping.label))
    return CorrectedInside(inside.scheduler, step_time, inside.learnt)


def speeds_in(results: Results) -> list[MeasuredSpeed]:
    """The loads of ``results`` that say something of one kind of server: valid closed-loop ones of ctx and gen
    servers, of ctx ones with two requests in flight or more, as one alone waits for the client most of the time.
    Those of whole deployments and of aggregated servers mix too much for a few of them to tell apart."""
    speeds = []
    for stored in results.now().experiments:
        experiment = stored.experiment
        if experiment.stage not in ("ctx", "gen") or experiment.workload.mean_isl is None:
            continue
        cluster = stored.folder.cluster()
        instances = experiment.deployment.groups[-1].instances
        for each in stored.loads:
            load, figures = each.load, each.measurement
            if not isinstance(load, Concurrency) or load.breakdown or not figures.valid:
                continue
            tpot_s = figures.tpot_ms.mean / 1000 if figures.tpot_ms else None
            if experiment.stage == "ctx" and figures.req_s and load.concurrency > instances:
                speeds.append(MeasuredSpeed(experiment, cluster, load, figures.req_s, None))
            elif experiment.stage == "gen" and tpot_s:
                speeds.append(MeasuredSpeed(experiment, cluster, load, figures.req_s, tpot_s))
    return speeds


def speeds_of_table(rows: Sequence[TableRow], sweep: Sweep, name: str) -> list[MeasuredSpeed]:
    """The ctx and gen rows of a table of rates, measured on servers of ``sweep``'s engine, GPU and model.

    Labels are mappings (``DEP8``). ISL and OSL may be left to a sweep with one workload.

    Raises:
        TableError: with every row that does not say enough.
    """
    if len(sweep.precisions) > 1:
        raise UserError(f"{name}: the sweep has several precisions, and the table is of one: --set precision=...")
    problems: list[Problem] = []
    speeds = []
    for row in rows:
        if row.role != "ifb":
            try:
                speeds.append(_speed_of_row(row, sweep))
            except ValueError as error:
                problems.append(Problem(f"{name}: row {row.row}", str(error)))
    if problems:
        raise TableError(problems)
    return speeds


def _speed_of_row(row: TableRow, sweep: Sweep) -> MeasuredSpeed:
    mapping = parse_mapping(row.label)
    if row.gpus != mapping.gpus:
        raise ValueError(f"{row.label} is of {mapping.gpus} GPUs, and gpus says {row.gpus}: rows are of one instance")
    if not row.concurrency or row.concurrency != round(row.concurrency):
        raise ValueError("no whole concurrency: say how many requests were in flight at one instance")
    if row.role == "ctx" and row.concurrency < FEWEST_PROMPTS:
        raise ValueError("one request in flight waits for the client most of the time: give a ctx row with more")
    usual = sweep.workloads[0] if len(sweep.workloads) == 1 else None
    isl, osl = row.isl or (usual.isl if usual else 0), row.osl or (usual.osl if usual else 0)
    if not isl or (not osl and row.role == "gen"):
        raise ValueError("no isl and osl, and the sweep has more than one workload: add both columns")
    tpot_s = None
    if row.role == "gen":
        tpot_s = row.tpot_ms / 1000 if row.tpot_ms else row.concurrency / row.rate
    stage: Literal["ctx", "gen"] = "ctx" if row.role == "ctx" else "gen"
    workload = Workload(isl, 1 if stage == "ctx" else osl, precision=sweep.workloads[0].precision)
    load = Concurrency(round(row.concurrency), round(row.concurrency), 0)
    group = ServerGroup(stage, mapping, 1, row.mtp or 0)
    deployment = Deployment(ctx=group) if stage == "ctx" else Deployment(gen=group)
    experiment = experiment_of(sweep, stage, deployment, workload, (load,))
    return MeasuredSpeed(experiment, sweep.cluster, load, row.req_s, tpot_s)


def calibrate_speeds(speeds: Sequence[MeasuredSpeed], source: str) -> Calibration:
    """The calibration that ``speeds`` give.

    Raises:
        UserError: too few loads, or of more than one GPU type, model, weight format or engine.
        RatematchError: a server would not start in the emulator.
    """
    if len(speeds) < FEWEST:
        raise UserError(
            f"{source}: {len(speeds)} ctx and gen loads that can be used: a calibration needs {FEWEST} at least, "
            "better one of ctx and two of gen at different concurrencies"
        )
    insides: dict[str, Inside] = {}
    points, kinds = [], set()
    for speed in speeds:
        experiment = speed.experiment
        if experiment.id not in insides:
            insides[experiment.id] = inside_of(experiment, speed.cluster, DEFAULT_STEP_TIMES)
        inside = insides[experiment.id]
        steps = inside.step_time
        assert isinstance(steps, RooflineStepTime)
        kinds.add(
            (Correction(steps.gpu.name, steps.model.name, steps.precision), experiment.stack, experiment.origin)
        )
        points.append(_point(speed, inside))
    if len(kinds) > 1:
        said = sorted(
            f"{one.model} in {one.precision} on {one.gpu}, {stack}, {origin}" for one, stack, origin in kinds
        )
        raise UserError(f"{source}: loads of more than one kind, calibrate each alone: {'; '.join(said)}")
    ((wanted, _, _),) = kinds
    known = calibrate(points, wanted, deviations_for(inside.learnt for inside in insides.values()), source)
    return replace(known, engine=speeds[0].experiment.engine.computing)


def _point(speed: MeasuredSpeed, inside: Inside) -> CalibrationPoint:
    experiment, load = speed.experiment, speed.load

    def log_speed(correction: Correction) -> float:
        return log_measured_over(speed, forecast(correct_inside(inside, correction), experiment, load))

    family = family_name(experiment.stage, experiment.deployment.groups[-1].mapping.label)
    return CalibrationPoint(f"{experiment.label} {load.label}", experiment.id, family, log_speed)


def log_measured_over(speed: MeasuredSpeed, predicted: Forecast) -> float:
    """Log of measured over predicted speed."""
    if predicted.tpot_s and speed.tpot_s:
        return math.log(predicted.tpot_s / speed.tpot_s)
    assert speed.req_s
    return math.log(speed.req_s / predicted.req_s)


def believed_of(experiment: Experiment, cluster: Cluster) -> Calibration:
    """What is believed of the servers of ``experiment`` before any of them is measured."""
    inside = inside_of(experiment, cluster, DEFAULT_STEP_TIMES)
    steps = inside.step_time
    assert isinstance(steps, RooflineStepTime)
    start = Correction(steps.gpu.name, steps.model.name, steps.precision)
    return nothing_measured(start, deviations_for([inside.learnt]))


def forecast_slopes(experiment: Experiment, cluster: Cluster, load: Concurrency, correction: Correction) -> Vector:
    """Slopes of the log of a forecast's speed over the logs of the factors of ``correction``."""
    inside = inside_of(experiment, cluster, DEFAULT_STEP_TIMES)

    def log_speed(tried: Correction) -> float:
        predicted = forecast(correct_inside(inside, tried), experiment, load)
        return -math.log(predicted.tpot_s) if predicted.tpot_s else math.log(predicted.req_s)

    return speed_slopes(log_speed, correction)
