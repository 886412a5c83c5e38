"""What the controller of a sweep asks its search: the next experiment, and what a server that is up goes on with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ratematch.plan.budget import minutes_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep
from ratematch.run import turns
from ratematch.run.adaptive import Search
from ratematch.store import ExperimentFolder, Results


@dataclass(frozen=True)
class Supplier:
    """Answers out of ``search`` within the sweep's budget. ``kept``: GPU-hours of it that are for later stages;
    ``failed``: ids of experiments that came to no end."""

    sweep: Sweep
    results: Results
    search: Search
    kept: float
    failed: Callable[[], Collection[str]]

    def next(self, busy: Sequence[Experiment]) -> Experiment | None:
        return self.search.next({each.id for each in busy}, self.failed(), self._hours_left(busy))

    def sent(self, folder: ExperimentFolder) -> None:
        """``folder`` is about to be measured: more may follow what is asked for now."""
        experiment = folder.read()
        if experiment.stage in ("ctx", "gen") and experiment.mode != "gen_only" and len(experiment.launches()) == 1:
            # Each load may be measured for longer besides; a job's time should do for it.
            turns.open_for_more(folder, 2 * self.search.num_planned(experiment.id) + 1)

    def answer(self, folder: ExperimentFolder, busy: Sequence[Experiment]) -> None:
        """Its driver waits for a further load: give it one, or let it end."""
        name = folder.read().id
        experiment = self.search.go_on(name, {each.id for each in busy}, self.failed(), self._hours_left(busy))
        if experiment is None:
            turns.close(folder)
        else:
            self.results.add(experiment, self.sweep.cluster)

    def _hours_left(self, busy: Sequence[Experiment]) -> float | None:
        if self.sweep.budget.gpu_hours is None:
            return None
        asked = [self.results.folder_of(each).read() for each in busy]
        under_way = sum(minutes_of(self.sweep, each) * each.deployment.gpus / 60 for each in asked)
        return self.sweep.budget.gpu_hours - self.kept - self.results.account().total - under_way
