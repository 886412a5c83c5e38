"""The results folder of a sweep. :mod:`ratematch.store.layout` has the names of its files.

Each file is written aside and renamed. Nothing is ever deleted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ratematch.errors import DamagedFile, ResultsError
from ratematch.measure.measured import Measured
from ratematch.plan import cluster as clusters
from ratematch.plan import experiment as experiments
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.store import layout
from ratematch.store.contract import ContractRef, write_contract, write_schema
from ratematch.store.experiment import ExperimentFolder as ExperimentFolder
from ratematch.store.experiment import GpuHours as GpuHours
from ratematch.store.files import disk_full_as, disk_full_message, read_json, read_value, write_json, write_text
from ratematch.store.snapshot import Snapshot, has_file, names_in, take_snapshot
from ratematch.store.storedload import StoredLoad as StoredLoad
from ratematch.store.sweeprun import ControllerPlan, SweepLimits, limits_from_json, plan_from_json
from ratematch.store.sweeprun import to_json as sweeprun_to_json


class Results:
    """One sweep's results folder."""

    def __init__(self, path: Path):
        self.path = path
        self._last: Snapshot | None = None
        self._contract: ContractRef | None = None

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
        """Those of its experiments, by name."""
        names = (name for name in names_in(self.path) if has_file(f"{self.path}/{name}/{layout.EXPERIMENT}"))
        return [ExperimentFolder(self.path / name) for name in names]

    def snapshot(self, previous: Snapshot | None = None) -> Snapshot:
        """Everything that is stored now. With the snapshot before it, only what has changed since is read again."""
        return take_snapshot(self.path, previous)

    def now(self) -> Snapshot:
        """Everything that is stored now; what has not changed since this was asked for last is not read again.

        Whoever shows the folder begins here: what cannot be used is left out, and ``damaged`` says so.
        """
        self._last = take_snapshot(self.path, self._last)
        return self._last

    def measured(self) -> list[Measured]:
        """Every finished load that can be used, with its figures; not those run for a breakdown only."""
        return self.now().measured()

    def account(self) -> GpuHours:
        """Where the GPU-hours of all experiments went, and those of nodes in packs that had nothing to do."""
        return self.now().account()

    def limits(self) -> SweepLimits:
        """What an analysis needs of the sweep file.

        Raises:
            DamagedFile: it is not there, or not what it should be.
        """
        return read_value(self.path / layout.LIMITS, limits_from_json)

    def write_sweep(self, text: str, limits: SweepLimits) -> None:
        """Keep the sweep file as it is run, and what an analysis needs of it. Where an earlier sweep into this folder
        had another file, that one goes to ``replaced/sweep.<n>.yaml`` and its limits to ``replaced/limits.<n>.json``.

        Raises:
            DiskFull: no room; what was there stays.
        """
        sweep, old_limits = self.path / layout.SWEEP, self.path / layout.LIMITS
        if sweep.exists() and sweep.read_bytes() != text.encode():
            aside = self.path / layout.REPLACED
            aside.mkdir(exist_ok=True)
            number = 1
            while (aside / f"sweep.{number}.yaml").exists():
                number += 1
            write_text(aside / f"sweep.{number}.yaml", sweep.read_text(encoding="utf-8"))
            if old_limits.exists():
                write_text(aside / f"limits.{number}.json", old_limits.read_text(encoding="utf-8"))
        write_text(sweep, text)
        self.write_limits(limits)

    def write_limits(self, limits: SweepLimits) -> None:
        """Keep what an analysis needs of the sweep file, so that the folder can be read without it."""
        write_json(self.path / layout.LIMITS, sweeprun_to_json(limits))

    def controller_plan(self) -> ControllerPlan | None:
        """What the last controller began with; ``None`` when there was none."""
        file = self.path / layout.CONTROLLER
        return read_value(file, plan_from_json) if file.exists() else None

    def write_controller_plan(self, plan: ControllerPlan) -> None:
        write_json(self.path / layout.CONTROLLER, sweeprun_to_json(plan))

    def keep_contract(self, contract: ContractRef, schema: str | None = None) -> None:
        """Keep by what files are checked from now on: ``schema`` once, its name with every experiment.

        Raises:
            DiskFull: no space.
        """
        if contract.digest is not None and schema is not None:
            write_schema(self.path, contract.digest, schema)
        self._contract = contract

    def folder_of(self, experiment: Experiment) -> ExperimentFolder:
        """Where an experiment is kept, or would be."""
        return ExperimentFolder(self.path / experiment.folder)

    def add(self, experiment: Experiment, cluster: Cluster) -> ExperimentFolder:
        """The experiment's folder, made when it is new; a longer ladder replaces the list of loads only.

        Raises:
            DiskFull, ResultsError: the folder cannot be written.
        """
        folder = ExperimentFolder(self.path / experiment.folder)
        try:
            with disk_full_as(disk_full_message(folder.path)):
                folder.path.mkdir(parents=True, exist_ok=True)
                (folder.path / layout.LOADS).mkdir(exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{folder.path}: cannot write results here ({error.strerror})") from error
        # experiment.json makes the folder one of ours, so it comes last.
        for name, content in (
            (layout.CLUSTER, clusters.to_json(cluster)),
            (layout.EXPERIMENT, experiments.to_json(experiment)),
        ):
            file = folder.path / name
            if not _holds(file, content):
                write_json(file, content)
        if self._contract is not None:
            write_contract(folder.path, self._contract)
        return folder


def _holds(file: Path, content: Any) -> bool:
    """Is ``content`` what stands in ``file``? Not where the file is damaged: what is known is written anew."""
    try:
        return file.exists() and bool(read_json(file) == content)
    except DamagedFile:
        return False
