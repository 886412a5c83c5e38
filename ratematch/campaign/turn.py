"""What the controller decides by: one snapshot of the results folder, and what is under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratematch.measure.measured import Measured
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.store.snapshot import Snapshot
from ratematch.store.storedload import StoredLoad


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
        return self.snapshot.account().total

    def rows(self) -> list[Measured]:
        """Every finished load of every experiment, with its figures."""
        return self.snapshot.measured()

    def experiment(self, name: str) -> Experiment | None:
        """The experiment of this id, with all loads it was asked for; ``None``: it has no folder."""
        stored = self.snapshot.experiment(name)
        return stored.experiment if stored else None

    def loads(self, experiment: Experiment) -> Sequence[StoredLoad]:
        """The finished loads of an experiment, also of ladders asked for earlier."""
        stored = self.snapshot.experiment(experiment.id)
        return stored.loads if stored else ()

    def missing(self, experiment: Experiment) -> tuple[Load, ...]:
        """Those of the experiment's loads that are not finished."""
        finished = {load.folder.name for load in self.loads(experiment)}
        return tuple(load for load in experiment.loads if load.label not in finished)
