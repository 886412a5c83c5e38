"""The results folder: what is written where, and read back. ``results/README.md`` is the format reference.

::

    results/<sweep>/
        sweep.yaml                          the sweep file as it was last run
        packs/<name>/                       several experiments in one Slurm job: who, and GPU-time that nobody used
        jobs/<name>/                        logs of Slurm job arrays
        <experiment>/
            experiment.json                 what is measured: deployment, workload, loads
            cluster.json                    the cluster profile it runs on
            run.lock                        held while a process measures here
            progress.json                   what that process is doing, for live views
            launch/<n>/                     one folder per start of the servers: files, logs, placement.json,
                                            provenance.json, outcome.json
            loads/<load>/                   records.parquet, warmup.parquet, measurement.json, loadrun.json
            DONE                            every load that was asked for is there

Each file is written aside and renamed; ``loadrun.json`` comes last in its folder, and a load that has it is never
measured again. Nothing is ever deleted: a forced re-run takes the next free name.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.errors import DiskFull, ResultsError
from ratematch.measure import loadrun as loadruns
from ratematch.measure import measurement as measurements
from ratematch.measure.loadrun import LoadRun
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.plan import cluster as clusters
from ratematch.plan import experiment as experiments
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment, load_from_json, load_to_json
from ratematch.plan.load import Load
from ratematch.store import filelock
from ratematch.store import outcome as outcomes
from ratematch.store.files import disk_full_as, disk_full_message, read_json, write_json
from ratematch.store.outcome import Outcome


@dataclass(frozen=True)
class StoredLoad:
    """One finished load: its folder, what was asked, how it ran, and its figures."""

    folder: Path
    load: Load
    run: LoadRun
    measurement: Measurement


def read_load_run(file: Path) -> tuple[Load, LoadRun]:
    """The load of a ``loadrun.json`` and how it ran.

    Raises:
        ResultsError: it is none.
    """
    content = read_json(file)
    try:
        return load_from_json(content["load"]), loadruns.from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{file}: not the run of a load ({error}); move its folder away to measure again"
        ) from error


def read_outcome(file: Path) -> Outcome:
    """Raises ResultsError when ``file`` is no ``outcome.json``."""
    try:
        return outcomes.from_json(read_json(file))
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{file}: not the outcome of a launch ({error}); move it away to go on") from error


class ExperimentFolder:
    """One experiment on disk."""

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"ExperimentFolder({str(self.path)!r})"

    def read(self) -> Experiment:
        """Raises ResultsError when ``experiment.json`` is missing or is not one."""
        file = self.path / "experiment.json"
        if not file.exists():
            raise ResultsError(f"{self.path}: no experiment.json here; give a folder that `ratematch sweep` made")
        try:
            return experiments.from_json(read_json(file))
        except (KeyError, TypeError) as error:
            raise ResultsError(f"{file}: not an experiment of this version ({error})") from error

    # -- loads ------------------------------------------------------------------------------------------------

    def load_folder(self, load: Load) -> Path:
        return self.path / "loads" / load.label

    def finished(self, load: Load) -> bool:
        return (self.load_folder(load) / "loadrun.json").exists()

    def missing(self) -> tuple[Load, ...]:
        """Loads that were asked for and have no ``loadrun.json`` yet."""
        return tuple(load for load in self.read().loads if not self.finished(load))

    def loads(self) -> list[StoredLoad]:
        """Every finished load, also of ladders asked for earlier."""
        found = []
        for file in sorted((self.path / "loads").glob("*/loadrun.json")):
            load, run = read_load_run(file)
            figures = measurements.from_json(read_json(file.parent / "measurement.json"))
            found.append(StoredLoad(file.parent, load, run, figures))
        return sorted(found, key=lambda stored: repr(stored.load))

    def read_run(self, load: Load) -> LoadRun:
        """How the finished ``load`` ran."""
        return read_load_run(self.load_folder(load) / "loadrun.json")[1]

    def set_aside(self, load: Load) -> None:
        """Move a finished load to the next free name, so that it is measured again and the old figures stay."""
        folder = self.load_folder(load)
        if not folder.exists():
            return
        number = 1
        while (aside := self.path / "replaced" / f"{folder.name}.{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        (self.path / "DONE").unlink(missing_ok=True)

    def finish_load(self, load: Load, run: LoadRun, figures: Measurement) -> None:
        """Commit a load whose records are already in its folder; ``loadrun.json`` last."""
        folder = self.load_folder(load)
        write_json(folder / "measurement.json", measurements.to_json(figures))
        write_json(folder / "loadrun.json", {"load": load_to_json(load), **loadruns.to_json(run)})

    # -- launches ---------------------------------------------------------------------------------------------

    def new_launch(self) -> Path:
        """A fresh ``launch/<n>``; earlier ones keep their logs."""
        parent = self.path / "launch"
        parent.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
        folder = parent / str(number)
        folder.mkdir()
        return folder

    def last_launch(self) -> Path | None:
        numbers = [int(path.name) for path in self.path.glob("launch/*") if path.name.isdigit()]
        return self.path / "launch" / str(max(numbers)) if numbers else None

    def outcomes(self) -> list[Outcome]:
        """How every launch that ended by itself ended."""
        return [read_outcome(file) for file in sorted(self.path.glob("launch/*/outcome.json"))]

    def gpu_hours(self) -> float:
        """GPU-hours of every launch, start-up and idle time included; of one that runs or was killed, as far as it
        got."""
        return self.account().total

    def account(self) -> GpuHours:
        """Where the GPU-hours went. All that a killed launch did is counted as start-up."""
        gpus = self.read().deployment.gpus
        starting = measuring = total = 0.0
        for launch in self.path.glob("launch/*"):
            file = launch / "outcome.json"
            if file.exists():
                outcome = read_outcome(file)
                starting += outcome.starting_s * gpus
                measuring += outcome.measuring_s * gpus
                total += outcome.held_s * (gpus if outcome.gpus is None else outcome.gpus)
            else:
                held = _life_s(launch) * gpus
                starting += held
                total += held
        return GpuHours(starting / 3600, measuring / 3600, total / 3600)

    def outcome(self) -> Outcome | None:
        """How the last launch ended; ``None`` while it runs or when none did."""
        launch = self.last_launch()
        file = launch / "outcome.json" if launch else None
        return read_outcome(file) if file and file.exists() else None

    # -- state ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the experiment. The kernel lets go when the process dies, however it dies.

        Raises:
            RunError: another process is measuring here.
        """
        with filelock.hold(self.path / "run.lock", f"{self.path}: another process ({{}}) is measuring this"):
            yield

    def held(self) -> bool:
        """Is a process measuring here now?"""
        return filelock.is_held(self.path / "run.lock")

    def holder(self) -> int | None:
        """Process id that last held the lock, if it was one of this machine."""
        holder = filelock.read_holder(self.path / "run.lock")
        return holder.pid if holder and holder.host == socket.gethostname() else None

    def job(self) -> dict[str, Any] | None:
        """The job that was sent to a scheduler for this last; ``None`` when none was."""
        file = self.path / "job.json"
        return read_json(file) if file.exists() else None

    def write_job(self, content: dict[str, Any]) -> None:
        write_json(self.path / "job.json", content)

    def mark_done(self) -> None:
        write_json(self.path / "DONE", {"loads": [load.label for load in self.read().loads]})

    def done(self) -> bool:
        return (self.path / "DONE").exists() and not self.missing()

    def progress(self) -> dict[str, Any] | None:
        """What the measuring process last said; ``None`` before it said anything."""
        file = self.path / "progress.json"
        return read_json(file) if file.exists() else None

    def write_progress(self, content: dict[str, Any]) -> None:
        # Only a view: a full disk must not stop a measurement for it.
        with contextlib.suppress(DiskFull):
            write_json(self.path / "progress.json", content)

    def state(self) -> str:
        """``done``, ``running``, ``failed``, ``interrupted`` or ``pending``."""
        if self.done():
            return "done"
        if self.held():
            return "running"
        outcome = self.outcome()
        if outcome is None:
            return "interrupted" if self.last_launch() else "pending"
        return "interrupted" if outcome.interrupted else "failed"


@dataclass(frozen=True)
class GpuHours:
    """GPU-hours by what they were spent on. ``total`` counts every GPU held, used by the deployment or not."""

    starting: float = 0.0
    measuring: float = 0.0
    total: float = 0.0

    @property
    def idle(self) -> float:
        """Neither starting servers nor measuring: the driver's own start and end, and GPUs nobody used."""
        return max(0.0, self.total - self.starting - self.measuring)

    @property
    def overhead(self) -> float | None:
        """Share that was idle; ``None`` before anything was spent."""
        return self.idle / self.total if self.total else None

    def __add__(self, other: GpuHours) -> GpuHours:
        return GpuHours(self.starting + other.starting, self.measuring + other.measuring, self.total + other.total)


def _life_s(folder: Path) -> float:
    """From the first to the last sign of life of a launch that wrote no outcome."""
    times = [file.stat().st_mtime for file in folder.iterdir()]
    return max(times) - min(times) if times else 0.0


class Results:
    """One sweep's results folder."""

    def __init__(self, path: Path):
        self.path = path

    @staticmethod
    def open(path: Path) -> Results:
        """An existing results folder.

        Raises:
            ResultsError: there is none, or it holds no experiment.
        """
        if not path.is_dir():
            raise ResultsError(f"{path}: no such results folder; `ratematch sweep` makes one below results/")
        results = Results(path)
        if not results.folders():
            raise ResultsError(f"{path}: holds no experiment; give a folder such as results/quickstart")
        return results

    def folders(self) -> list[ExperimentFolder]:
        return [ExperimentFolder(file.parent) for file in sorted(self.path.glob("*/experiment.json"))]

    def account(self) -> GpuHours:
        """Where the GPU-hours of all experiments went, and those of nodes in packs that had nothing to do."""
        idle = sum(
            float(start["idle_gpu_s"]) for file in self.path.glob("packs/*/idle.json") for start in read_json(file)
        )
        return sum((folder.account() for folder in self.folders()), GpuHours(total=idle / 3600))

    def folder_of(self, experiment: Experiment) -> ExperimentFolder:
        """Where an experiment is kept, or would be."""
        return ExperimentFolder(self.path / experiment.folder)

    def measured(self) -> list[Measured]:
        """Every finished load of every experiment, with its figures."""
        found: list[Measured] = []
        for folder in self.folders():
            experiment = folder.read()
            found.extend(Measured(experiment, stored.load, stored.measurement) for stored in folder.loads())
        return found

    def add(self, experiment: Experiment, cluster: Cluster) -> ExperimentFolder:
        """The experiment's folder, made when it is new; a longer ladder replaces the list of loads only.

        Raises:
            DiskFull, ResultsError: the folder cannot be written.
        """
        folder = ExperimentFolder(self.path / experiment.folder)
        try:
            with disk_full_as(disk_full_message(folder.path)):
                folder.path.mkdir(parents=True, exist_ok=True)
                (folder.path / "loads").mkdir(exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{folder.path}: cannot write results here ({error.strerror})") from error
        # experiment.json makes the folder one of ours, so it comes last.
        for name, content in (
            ("cluster.json", clusters.to_json(cluster)),
            ("experiment.json", experiments.to_json(experiment)),
        ):
            file = folder.path / name
            if not file.exists() or read_json(file) != content:
                write_json(file, content)
        return folder
