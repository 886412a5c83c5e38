"""One experiment on disk: its loads, launches and state. :mod:`ratematch.store.layout` has the names of the files.

Each file is written aside and renamed; ``loadrun.json`` comes last in its folder, and a load that has it is never
measured again. Nothing is ever deleted: a forced re-run takes the next free name.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ratematch.errors import DiskFull, ResultsError
from ratematch.measure import loadrun as loadruns
from ratematch.measure import measurement as measurements
from ratematch.measure.loadrun import LoadRun
from ratematch.measure.measurement import Measurement
from ratematch.plan import cluster as clusters
from ratematch.plan import experiment as experiments
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment, load_to_json
from ratematch.plan.load import Load
from ratematch.store import checksums, filelock, layout, sentjob
from ratematch.store import outcome as outcomes
from ratematch.store.contract import ContractRef, read_schema
from ratematch.store.damage import Damage, readable
from ratematch.store.files import RESERVED, read_json, read_value, remove_half_written, write_json
from ratematch.store.outcome import Outcome
from ratematch.store.progress import RunProgress
from ratematch.store.progress import from_json as progress_from_json
from ratematch.store.progress import to_json as progress_to_json
from ratematch.store.provenance import Provenance
from ratematch.store.provenance import from_json as provenance_from_json
from ratematch.store.provenance import to_json as provenance_to_json
from ratematch.store.sentjob import SentJob
from ratematch.store.storedload import StoredLoad, read_stored_load

ID_AT_END = re.compile(r"-([0-9a-f]{10})$")
"""Of a folder's name: the experiment's id. A folder that somebody gave another name has none."""


@dataclass(frozen=True)
class GpuHours:
    """GPU-hours by what they were spent on. ``total`` counts every GPU held, used by the deployment or not;
    ``preparing`` is the part of ``starting`` in which nodes unpacked the image and copied the weights."""

    starting: float = 0.0
    measuring: float = 0.0
    total: float = 0.0
    preparing: float = 0.0

    @property
    def idle(self) -> float:
        """Neither starting servers nor measuring: the driver's own start and end, and GPUs nobody used."""
        return max(0.0, self.total - self.starting - self.measuring)

    @property
    def overhead(self) -> float | None:
        """Share that was idle; ``None`` before anything was spent."""
        return self.idle / self.total if self.total else None

    def __add__(self, other: GpuHours) -> GpuHours:
        return GpuHours(
            self.starting + other.starting,
            self.measuring + other.measuring,
            self.total + other.total,
            self.preparing + other.preparing,
        )


@dataclass(frozen=True)
class Launch:
    """One start of the servers. ``outcome``: ``None`` while it runs or when it was killed; ``life_s`` is then the
    time from its first to its last sign of life, else 0."""

    number: int
    outcome: Outcome | None
    life_s: float = 0.0


def hours_of(launches: Iterable[Launch], gpus: int) -> GpuHours:
    """Where the GPU-hours of ``launches`` of a deployment on ``gpus`` GPUs went. All that a killed launch did is
    counted as start-up."""
    starting = measuring = total = preparing = 0.0
    for launch in launches:
        outcome = launch.outcome
        if outcome is None:
            starting += launch.life_s * gpus
            total += launch.life_s * gpus
        else:
            starting += outcome.starting_s * gpus
            preparing += outcome.preparing_s * gpus
            measuring += outcome.measuring_s * gpus
            total += outcome.held_s * (gpus if outcome.gpus is None else outcome.gpus)
    return GpuHours(starting / 3600, measuring / 3600, total / 3600, preparing / 3600)


def read_outcome(file: Path) -> Outcome:
    """Raises DamagedFile when ``file`` is no ``outcome.json``."""
    return read_value(file, outcomes.from_json)


def read_launch(folder: Path) -> Launch:
    """The launch in ``folder``.

    Raises:
        DamagedFile: its outcome cannot be read.
    """
    file = folder / layout.OUTCOME
    return Launch(int(folder.name), read_outcome(file)) if file.exists() else killed_launch(folder)


def killed_launch(folder: Path) -> Launch:
    """The launch in ``folder`` as one of which nobody knows how it ended."""
    return Launch(int(folder.name), None, _life_s(folder))


def _life_s(folder: Path) -> float:
    """From the first to the last sign of life of a launch that wrote no outcome."""
    times = [file.stat().st_mtime for file in folder.iterdir()]
    return max(times) - min(times) if times else 0.0


class ExperimentFolder:
    """One experiment on disk."""

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"ExperimentFolder({str(self.path)!r})"

    def read(self) -> Experiment:
        """The experiment.

        Raises:
            ResultsError: ``experiment.json`` is missing. DamagedFile: it is not one, or not that of this folder.
        """
        file = self.path / layout.EXPERIMENT
        if not file.exists():
            raise ResultsError(f"{self.path}: no experiment.json here; give a folder that `ratematch sweep` made")
        return read_value(file, self._experiment_from_json)

    def _experiment_from_json(self, content: Any) -> Experiment:
        """Raises ValueError when the id in the folder's name is another one: what is measured was changed."""
        experiment = experiments.from_json(content)
        named = ID_AT_END.search(self.path.name)
        if named and named[1] != experiment.id:
            raise ValueError(f"it describes experiment {experiment.id}, the folder is that of {named[1]}")
        return experiment

    def cluster(self) -> Cluster:
        """The profile of the cluster that it runs on.

        Raises:
            DamagedFile: it cannot be read.
        """
        return read_value(self.path / layout.CLUSTER, clusters.from_json)

    # -- loads ------------------------------------------------------------------------------------------------

    def load_folder(self, load: Load) -> Path:
        return self.path / layout.LOADS / load.label

    def finished(self, load: Load) -> bool:
        return (self.load_folder(load) / layout.LOADRUN).exists()

    def missing(self) -> tuple[Load, ...]:
        """Loads that were asked for and have no ``loadrun.json`` yet."""
        return tuple(load for load in self.read().loads if not self.finished(load))

    def loads(self) -> list[StoredLoad]:
        """Every finished load, also of earlier, shorter ladders."""
        return sorted((read_stored_load(place) for place in self.finished_folders()), key=lambda s: repr(s.load))

    def stored(self, load: Load) -> StoredLoad:
        """The finished ``load``."""
        return read_stored_load(self.load_folder(load))

    def set_aside(self, load: Load) -> None:
        """Move a finished load to the next free name, so that it is measured again and the old figures stay."""
        folder = self.load_folder(load)
        if folder.exists():
            self.set_folder_aside(folder)

    def set_folder_aside(self, folder: Path) -> None:
        """The same for a load by its folder."""
        number = 1
        while (aside := self.path / layout.REPLACED / f"{folder.name}.{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        (self.path / layout.DONE).unlink(missing_ok=True)

    def finish_load(self, load: Load, run: LoadRun, figures: Measurement) -> None:
        """Commit a load whose records are already in its folder: ``loadrun.json`` last, when the disk has the rest.

        Raises:
            DiskFull: no room; the load does not count yet.
        """
        folder = self.load_folder(load)
        write_json(folder / layout.MEASUREMENT, measurements.to_json(figures))
        content = {"load": load_to_json(load), **loadruns.to_json(run)}
        write_json(folder / layout.LOADRUN, checksums.seal(folder, content))

    def finished_folders(self) -> list[Path]:
        """Of every load that has a ``loadrun.json``, whether it can be used or not."""
        return [file.parent for file in sorted((self.path / layout.LOADS).glob(f"*/{layout.LOADRUN}"))]

    def replace_figures(self, folder: Path, figures: Measurement) -> None:
        """Keep figures that were computed anew from the records of the finished load in ``folder``.

        Raises:
            DiskFull: no room; the old figures stay.
        """
        file = folder / layout.LOADRUN
        content: dict[str, Any] = read_json(file)
        write_json(folder / layout.MEASUREMENT, measurements.to_json(figures))
        if content.pop(checksums.OWN, None) is not None:
            write_json(file, checksums.seal(folder, content))

    def schema(self) -> tuple[ContractRef, str] | None:
        """What the image of its servers says that they take, by which its files are checked; ``None`` where that is
        not known.

        Raises:
            DamagedFile: it is gone or was changed.
        """
        return read_schema(self.path)

    # -- launches ---------------------------------------------------------------------------------------------

    def new_launch(self) -> Path:
        """A fresh ``launch/<n>``; earlier ones keep their logs."""
        parent = self.path / layout.LAUNCHES
        parent.mkdir(exist_ok=True)
        last = self.last_launch()
        folder = parent / str(1 + int(last.name) if last else 1)
        folder.mkdir()
        return folder

    def provenances(self, damaged: list[Damage]) -> list[Provenance]:
        """Where the figures of each launch come from, of those that got so far as to ask; files that cannot be used
        are in ``damaged``."""
        files = sorted(self.path.glob(f"{layout.LAUNCHES}/*/{layout.PROVENANCE}"))
        read = (readable(partial(read_value, file, provenance_from_json), damaged) for file in files)
        return [provenance for provenance in read if provenance is not None]

    def write_provenance(self, launch: Path, provenance: Provenance) -> None:
        """Keep where the figures of the launch in the folder ``launch`` come from."""
        write_json(launch / layout.PROVENANCE, provenance_to_json(provenance))

    def write_outcome(self, launch: Path, outcome: Outcome) -> None:
        """Keep how the launch in the folder ``launch`` ended."""
        write_json(launch / layout.OUTCOME, outcomes.to_json(outcome))

    def last_launch(self) -> Path | None:
        folders = self.launch_folders()
        return folders[-1] if folders else None

    def launch_folders(self) -> list[Path]:
        """Of every start of the servers, the last one last."""
        folders = (path for path in (self.path / layout.LAUNCHES).glob("*") if path.name.isdigit())
        return sorted(folders, key=lambda path: int(path.name))

    def launches(self) -> list[Launch]:
        """Every start of the servers, the last one last."""
        return [read_launch(folder) for folder in self.launch_folders()]

    def outcomes(self) -> list[Outcome]:
        """How every launch that ended by itself ended."""
        return [launch.outcome for launch in self.launches() if launch.outcome is not None]

    def gpu_hours(self) -> float:
        """GPU-hours of every launch, start-up and idle time included; of one that runs or was killed, as far as it
        got."""
        return self.account().total

    def account(self) -> GpuHours:
        """Where the GPU-hours went. All that a killed launch did is counted as start-up."""
        return hours_of(self.launches(), self.read().deployment.gpus)

    def outcome(self) -> Outcome | None:
        """How the last launch ended; ``None`` while it runs or when none did."""
        launch = self.last_launch()
        file = launch / layout.OUTCOME if launch else None
        return read_outcome(file) if file and file.exists() else None

    # -- state ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the experiment. The kernel lets go when the process dies, however it dies; what it was writing then is
        removed by the next one.

        Raises:
            RunError: another process is measuring here.
        """
        with filelock.hold(self.path / layout.RUN_LOCK, f"{self.path}: another process ({{}}) is measuring this"):
            self._remove_half_written()
            yield

    def _remove_half_written(self) -> None:
        """Of what only the holder of the lock writes; readers keep figures of a load beside its records."""
        inside = [
            path
            for folder in (layout.LOADS, layout.LAUNCHES)
            for path in (self.path / folder).glob("*/.*")
            if not path.name.startswith(f".{layout.DERIVED}.")
        ]
        remove_half_written([*self.path.glob(f".{layout.PROGRESS}.*"), *inside])
        for path in inside:
            if path.name == RESERVED:
                with contextlib.suppress(OSError):
                    path.unlink()

    def held(self) -> bool:
        """Is a process measuring here now?"""
        return filelock.is_held(self.path / layout.RUN_LOCK)

    def holder(self) -> int | None:
        """Process id that last held the lock, if it was one of this machine."""
        holder = filelock.read_holder(self.path / layout.RUN_LOCK)
        return holder.pid if holder and holder.host == socket.gethostname() else None

    def job(self) -> SentJob | None:
        """The job that was sent to a scheduler for this last; ``None`` when none was."""
        file = self.path / layout.JOB
        return read_value(file, sentjob.from_json) if file.exists() else None

    def is_sent_as(self, name: str) -> bool:
        """Was the job with this name sent for this last? Else whoever was sent later measures it."""
        job = self.job()
        return job is not None and job.name == name

    def write_job(self, job: SentJob) -> None:
        write_json(self.path / layout.JOB, sentjob.to_json(job))

    def mark_done(self) -> None:
        write_json(self.path / layout.DONE, {"loads": [load.label for load in self.read().loads]})

    def done(self) -> bool:
        return (self.path / layout.DONE).exists() and not self.missing()

    def progress(self) -> RunProgress | None:
        """What the measuring process last reported; ``None`` before it did."""
        file = self.path / layout.PROGRESS
        return read_value(file, progress_from_json) if file.exists() else None

    def forget_progress(self) -> None:
        """What an earlier process did is no news of the one that starts now."""
        (self.path / layout.PROGRESS).unlink(missing_ok=True)

    def write_progress(self, progress: RunProgress) -> None:
        # Only a view: a full disk must not stop a measurement for it.
        with contextlib.suppress(DiskFull):
            write_json(self.path / layout.PROGRESS, progress_to_json(progress))

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
