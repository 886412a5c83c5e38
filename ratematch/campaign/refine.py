"""Loads that a sweep adds to aggregated servers and end-to-end runs, where their front has a step at a speed that is
to be chosen at (:mod:`ratematch.search.refine`). A server that is up measures it before it stops; one that has
stopped is started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from ratematch.campaign.turn import Turn
from ratematch.plan.deployment import Stage
from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep
from ratematch.search.refine import Refinement, find_refinement

MOST_ADDED = 2
"""Loads that are added for one tok/s/user to the front of one stage and workload."""


class Refining:
    """What is added to one stage of a sweep. ``note``: is told of every load, in words."""

    def __init__(self, sweep: Sweep, stage: Stage, note: Callable[[str], None]) -> None:
        self._speeds: Sequence[float] = sweep.e2e.choose_at if sweep.e2e is not None and sweep.e2e.refine else ()
        self._stage = stage
        self._note = note
        self._added: Counter[tuple[str, float]] = Counter()

    def num_further(self, experiment: Experiment) -> int:
        """Loads that may follow those of ``experiment`` while its servers are up."""
        if experiment.stage != self._stage or len(experiment.launches()) != 1:
            return 0
        return MOST_ADDED * len(self._speeds)

    def decide_further(self, turn: Turn, name: str) -> Experiment | None:
        """The experiment of this id with a further load, now that its server is up and idle; ``None``: enough."""
        return self._decide(turn, name)

    def decide_next(self, turn: Turn) -> Experiment | None:
        """An experiment that is started again for a further load; ``None`` while others are under way, which may
        bring it too."""
        return None if turn.busy else self._decide(turn)

    def _decide(self, turn: Turn, name: str | None = None) -> Experiment | None:
        rows = [row for row in turn.rows() if row.experiment.stage == self._stage]
        for workload in dict.fromkeys(row.experiment.workload for row in rows):
            mine = [row for row in rows if row.experiment.workload == workload]
            for at in self._speeds:
                found = find_refinement(mine, at) if self._added[workload.label, at] < MOST_ADDED else None
                if found is not None and name in (None, found.experiment) and (more := self._with(turn, found)):
                    self._added[workload.label, at] += 1
                    self._note(f"{more.label}: {found.loads[0].label} is added: {found.why}")
                    return more
        return None

    def _with(self, turn: Turn, found: Refinement) -> Experiment | None:
        """The experiment with the load added; ``None`` where it failed, or the load was asked for before."""
        experiment = turn.experiment(found.experiment)
        if experiment is None or experiment.id in turn.failed:
            return None
        asked = {load.label for load in experiment.loads} | {stored.load.label for stored in turn.loads(experiment)}
        new = tuple(load for load in found.loads if load.label not in asked)
        return replace(experiment, loads=(*experiment.loads, *new)) if new else None
