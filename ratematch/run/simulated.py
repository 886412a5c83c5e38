"""One experiment in virtual time: what :mod:`ratematch.run.experiment` does, without servers and without waiting.

The folder gets the same files. GPU-hours are those that the run would have taken: virtual seconds of its loads, and
the minutes that a start takes by the cluster's profile.
"""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path

from ratematch.errors import RatematchError
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.loadrun import LoadRun, Simulation, TelemetrySummary
from ratematch.measure.serverside import measure_run
from ratematch.plan.experiment import seed_of
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.load import Load
from ratematch.run.followup import loads_while_open
from ratematch.run.launches import Launch, launch_missing
from ratematch.run.load import describe_run
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline
from ratematch.store import layout
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome
from ratematch.store.progress import VIRTUAL_TIME, Measuring
from ratematch.store.provenance import Provenance, ServerVersion
from ratematch.store.records import write_records
from ratematch.version import __version__


def simulate_experiment(path: str | Path) -> Outcome:
    """Simulate every missing load of the experiment in ``path``; how its last launch ended, with the loads of all of
    them as ``measured``.

    Raises:
        ResultsError: no experiment there. RunError: another process is measuring it.
    """
    folder = ExperimentFolder(Path(path))
    folder.read()
    with folder.lock():
        return launch_missing(folder, _run)


def _run(launch: Launch) -> Outcome:
    """Simulate the loads of one launch; what became of it, which is kept."""
    began = time.time()
    outcome = Outcome(ok=True)
    cluster = launch.folder.cluster()
    try:
        _simulate(launch, plan_simulation(launch.experiment, cluster, launch.path))
    except RatematchError as error:
        outcome = Outcome(ok=False, error=str(error), kind=type(error).__name__)
    launch.starting_s = cluster.start_minutes * 60
    outcome = replace(
        launch.spend(outcome),
        simulated=True,
        seconds=time.time() - began,
        began=began,
        held_s=launch.starting_s + launch.measuring_s,
        gpus=launch.experiment.deployment.gpus,
    )
    launch.folder.write_outcome(launch.path, outcome)
    return outcome


def _simulate(launch: Launch, plan: LaunchPlan) -> None:
    experiment = launch.experiment
    service = Service(plan, Timeline())
    servers = {spec.name: ServerVersion(experiment.engine.version, emulated=True) for spec in plan.processes}
    software = Provenance(
        __version__, python=platform.python_version(), servers=servers, simulated=True, step_time=service.steps
    )
    launch.folder.write_provenance(launch.path, software)
    for number, load in enumerate(loads_while_open(launch.folder, launch.loads)):
        total = max(number + 1, len(launch.loads))
        progress = Measuring(time.time(), load.label, number + 1, total, VIRTUAL_TIME, load.num_requests)
        launch.folder.write_progress(progress)
        before_s = service.timeline.now_s
        before = service.acceptance
        begin = time.perf_counter()
        result = simulate_load(service, experiment.workload, load, seed_of(experiment, load))
        simulation = Simulation(time.perf_counter() - begin)
        launch.measuring_s += service.timeline.now_s - before_s
        telemetry = TelemetrySummary(acceptance_length=_acceptance_length(before, service.acceptance))
        run = replace(describe_run(result, launch.path, experiment), telemetry=telemetry, simulation=simulation)
        _keep(launch, load, result, run)
        launch.measured += 1


def _acceptance_length(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """Tokens an iteration yields for a sequence that drafts; ``None`` where none did."""
    drafted = after[1] - before[1]
    return 1 + (after[0] - before[0]) / drafted if drafted else None


def _keep(launch: Launch, load: Load, result: LoadResult, run: LoadRun) -> None:
    """Commit records and figures of a load."""
    at = launch.folder.load_folder(load)
    at.mkdir(parents=True, exist_ok=True)
    write_records(at / layout.WARMUP, result.warmup)
    write_records(at / layout.RECORDS, result.records)
    launch.folder.finish_load(load, run, measure_run(result.records, load, launch.experiment, run))
