"""What the controller decides by: one snapshot of the results folder, and what is under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratematch.measure.measured import Measured
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.store.folder import GpuHours, Results, StoredLoad


@dataclass(frozen=True)
class Snapshot:
    """The results folder at one instant. ``experiments`` and ``loads``: by folder name."""

    experiments: dict[str, Experiment]
    loads: dict[str, tuple[StoredLoad, ...]]
    account: GpuHours


def take_snapshot(results: Results, previous: Snapshot | None = None) -> Snapshot:
    """Read the results folder; ``previous``: the snapshot before, of which is kept what has not changed."""
    folders = results.folders()
    return Snapshot(
        {folder.path.name: folder.read() for folder in folders},
        {folder.path.name: tuple(folder.loads()) for folder in folders},
        results.account(),
    )


@dataclass(frozen=True)
class Turn:
    """One turn of the controller: every question is answered from its snapshot.

    ``busy``: experiments that wait for a job or have one, with all loads they were sent for. ``failed``: ids of
    experiments that came to no end.
    """

    snapshot: Snapshot
    busy: tuple[Experiment, ...] = ()
    failed: frozenset[str] = frozenset()

    @property
    def busy_ids(self) -> frozenset[str]:
        return frozenset(experiment.id for experiment in self.busy)

    @property
    def gpu_hours(self) -> float:
        """Spent so far, by launches that run too."""
        return self.snapshot.account.total

    def rows(self) -> list[Measured]:
        """Every finished load of every experiment, with its figures."""
        return [
            Measured(experiment, stored.load, stored.measurement)
            for name, experiment in self.snapshot.experiments.items()
            for stored in self.snapshot.loads[name]
        ]

    def experiment_in(self, folder: str) -> Experiment | None:
        """The experiment in the folder of this name, with all loads it was asked for; ``None``: it is not there."""
        return self.snapshot.experiments.get(folder)

    def stored_loads(self, experiment: Experiment) -> Sequence[StoredLoad]:
        """The finished loads of an experiment, also of ladders asked for earlier."""
        return self.snapshot.loads.get(experiment.folder, ())

    def missing(self, experiment: Experiment) -> tuple[Load, ...]:
        """Those of the experiment's loads that are not finished."""
        finished = {stored.folder.name for stored in self.stored_loads(experiment)}
        return tuple(load for load in experiment.loads if load.label not in finished)
