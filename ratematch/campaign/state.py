"""How far a campaign is: readable values, which the controller changes and a view shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ratematch.campaign.jobs.job import Job
from ratematch.campaign.turn import Turn
from ratematch.plan.budget import Estimate
from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep
from ratematch.run.failure import UNSETTLED, Failure
from ratematch.store.folder import ExperimentFolder, GpuHours, Results


@dataclass(eq=False)
class Item:
    """One experiment of a campaign. ``state``: pending, running, done, failed or skipped.

    ``experiment``: with all loads that it was sent for; ``loads_left``: those that are not measured. ``note``: why it
    waits, or what it is tried again after. ``failures``: of its jobs in this run of the controller. ``tried``: a job
    was sent for all that this sweep wants of it.
    """

    folder: ExperimentFolder
    experiment: Experiment
    state: str = "pending"
    error: str | None = None
    job: Job | None = None
    note: str | None = None
    failures: list[Failure] = field(default_factory=list)
    tried: bool = False
    loads_left: int = 0

    @property
    def waits_for(self) -> str | None:
        """What it waits for, if anything: a retry, the scheduler, its turn."""
        return self.note or (self.job.waits_for if self.job and self.state == "running" else None)


@dataclass
class Campaign:
    """All experiments of one run of the controller, in order. ``stage``: what is being done, for a view.

    ``began``: when (monotonic clock), with ``measured_before`` loads there already. ``expected``: what the plan was
    estimated at. ``spent``: GPU-hours as of the last snapshot of the results folder. ``num_measured``: loads
    of this campaign that are there at its end, ``num_invalid``: those of them that may not stand on a front.
    ``notes``: what a person must know at the end.
    """

    sweep: Sweep
    results: Results
    items: list[Item] = field(default_factory=list)
    stage: str = "measuring"
    began: float = field(default_factory=time.monotonic)
    measured_before: int = 0
    expected: Estimate | None = None
    spent: GpuHours = field(default_factory=GpuHours)
    num_measured: int = 0
    num_invalid: int = 0
    notes: list[str] = field(default_factory=list)

    def warn(self, warnings: Iterable[str]) -> None:
        """Note each warning once."""
        lines = dict.fromkeys(f"warning: {warning}" for warning in warnings)
        self.notes += [line for line in lines if line not in self.notes]

    @property
    def failed(self) -> list[Item]:
        """Items that did not come to an end."""
        return [item for item in self.items if item.state in ("failed", "skipped")]

    @property
    def nothing_valid(self) -> bool:
        """Is there no load that may stand on a front?"""
        return self.num_invalid == self.num_measured

    def shared_failure(self) -> str | None:
        """Why no experiment could be measured here, as one that failed shows; ``None`` when none says so, or any
        server has been measured: what all have in common does not fail then."""
        if any(item.state == "done" or item.loads_left < len(item.experiment.loads) for item in self.items):
            return None
        for item in self.items:
            if item.state == "failed" and item.failures and item.failures[-1].of_the_site:
                return f"{item.experiment.label} failed for a cause that all share: {item.error}"
        return None

    def unsettled(self) -> str:
        """ctx and gen experiments that failed for a reason that says nothing of them, in words; empty when none."""
        failed = [
            item.experiment.label
            for item in self.items
            if item.experiment.stage in ("ctx", "gen")
            and item.state == "failed"
            and item.failures
            and item.failures[-1].kind in UNSETTLED
        ]
        more = f" and {len(failed) - 1} more are" if len(failed) > 1 else " is"
        return f"{failed[0]}{more}" if failed else ""

    def count_loads(self, turn: Turn) -> None:
        """Count the measured loads of this campaign, and those that may not stand on a front."""
        loads = [load for item in self.items for load in turn.loads(item.experiment) if not load.load.breakdown]
        self.num_measured = len(loads)
        self.num_invalid = sum(not stored.measurement.valid for stored in loads)


OnUpdate = Callable[[Campaign], None]
