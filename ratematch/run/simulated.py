"""One experiment in virtual time: what :mod:`ratematch.run.experiment` does, without servers and without waiting.

The folder gets the same files. GPU-hours are those that the run would have taken: virtual seconds of its loads, and
the minutes that the cluster's profile says a start takes.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ratematch.errors import RatematchError
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.loadrun import Simulation, TelemetrySummary
from ratematch.measure.serverside import measure_run
from ratematch.plan import cluster as clusters
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.load import Load
from ratematch.run.followup import loads_while_open
from ratematch.run.load import describe_run, seed_of
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline
from ratematch.store import outcome as outcomes
from ratematch.store.files import read_json, write_json
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome
from ratematch.store.records import write_records
from ratematch.version import __version__


@dataclass
class _Spent:
    measured: int = 0
    measuring_s: float = 0.0


def simulate_experiment(path: str | Path) -> Outcome:
    """Simulate every missing load of the experiment in ``path``; how its last launch ended, with the loads of all of
    them as ``measured``.

    Raises:
        ResultsError: no experiment there. RunError: another process is measuring it.
    """
    folder = ExperimentFolder(Path(path))
    experiment = folder.read()
    outcome = Outcome(ok=True)
    measured = 0
    with folder.lock():
        for part in experiment.launches():
            missing = tuple(load for load in part.loads if not folder.finished(load))
            if missing:
                outcome = _launch(folder, part, missing)
                measured += outcome.measured
                if not outcome.ok:
                    break
        else:
            folder.mark_done()
    return replace(outcome, measured=measured)


def _launch(folder: ExperimentFolder, experiment: Experiment, loads: tuple[Load, ...]) -> Outcome:
    launch = folder.new_launch()
    began = time.time()
    spent = _Spent()
    outcome = Outcome(ok=True)
    cluster = clusters.from_json(read_json(folder.path / "cluster.json"))
    try:
        plan = plan_simulation(experiment, cluster, launch)
        _simulate(folder, experiment, plan, launch, loads, spent)
    except RatematchError as error:
        outcome = Outcome(ok=False, error=str(error), kind=type(error).__name__)
    starting_s = cluster.start_minutes * 60
    outcome = replace(
        outcome,
        simulated=True,
        measured=spent.measured,
        seconds=time.time() - began,
        began=began,
        starting_s=starting_s,
        measuring_s=spent.measuring_s,
        held_s=starting_s + spent.measuring_s,
        gpus=experiment.deployment.gpus,
    )
    write_json(launch / "outcome.json", outcomes.to_json(outcome))
    return outcome


def _simulate(
    folder: ExperimentFolder,
    experiment: Experiment,
    plan: LaunchPlan,
    launch: Path,
    loads: tuple[Load, ...],
    spent: _Spent,
) -> None:
    service = Service(plan, Timeline())
    write_json(
        launch / "provenance.json",
        {
            "ratematch": __version__,
            "python": platform.python_version(),
            "simulated": True,
            "step_time": service.steps,
            "servers": {
                spec.name: {"version": experiment.engine.version, "emulated": True} for spec in plan.processes
            },
        },
    )
    for number, load in enumerate(loads_while_open(folder, loads)):
        folder.write_progress(_progress(load, number, max(number + 1, len(loads))))
        before_s = service.timeline.now_s
        before = service.acceptance
        begin = time.perf_counter()
        result = simulate_load(service, experiment.workload, load, seed_of(experiment, load))
        wall_s = time.perf_counter() - begin
        spent.measuring_s += service.timeline.now_s - before_s
        _keep(folder, experiment, launch, load, result, _acceptance_length(before, service.acceptance), wall_s)
        spent.measured += 1


def _acceptance_length(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """Tokens an iteration yields for a sequence that drafts; ``None`` where none did."""
    drafted = after[1] - before[1]
    return 1 + (after[0] - before[0]) / drafted if drafted else None


def _keep(
    folder: ExperimentFolder,
    experiment: Experiment,
    launch: Path,
    load: Load,
    result: LoadResult,
    acceptance: float | None,
    wall_s: float,
) -> None:
    at = folder.load_folder(load)
    at.mkdir(parents=True, exist_ok=True)
    telemetry = TelemetrySummary(acceptance_length=acceptance)
    run = replace(describe_run(result, launch, experiment), telemetry=telemetry, simulation=Simulation(wall_s))
    write_records(at / "warmup.parquet", result.warmup)
    write_records(at / "records.parquet", result.records)
    folder.finish_load(load, run, measure_run(result.records, load, experiment, run))


def _progress(load: Load, number: int, total: int) -> dict[str, Any]:
    return {
        "phase": "measuring",
        "load": load.label,
        "load_number": number + 1,
        "loads": total,
        "time": time.time(),
        "part": "virtual time",
        "total": load.num_requests,
        "done": 0,
        "failed": 0,
        "in_flight": 0,
        "tok_s": 0.0,
        "ttft_ms": None,
    }
