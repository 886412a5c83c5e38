"""The launches of an experiment, one after the other, whether servers run or are simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome


@dataclass
class Launch:
    """One start of the servers of ``experiment`` for ``loads``, under way. ``path``: its own folder.

    What it has come to so far: ``measured`` loads, ``starting_s`` until its servers were ready, ``preparing_s`` of
    that until they could be started, ``measuring_s`` of its loads.
    """

    folder: ExperimentFolder
    experiment: Experiment
    loads: Sequence[Load]
    path: Path
    measured: int = 0
    starting_s: float = 0.0
    measuring_s: float = 0.0
    preparing_s: float = 0.0

    def spend(self, outcome: Outcome) -> Outcome:
        """``outcome`` with what the launch has come to."""
        return replace(
            outcome,
            measured=self.measured,
            starting_s=self.starting_s,
            measuring_s=self.measuring_s,
            preparing_s=self.preparing_s,
        )


def launch_missing(folder: ExperimentFolder, run: Callable[[Launch], Outcome]) -> Outcome:
    """Have ``run`` measure every load that is missing in ``folder``, as many launches as that takes.

    Returns how the last one ended, with the loads of all of them as ``measured``; the first that fails is the last.
    """
    outcome = Outcome(ok=True)
    measured = 0
    for part in folder.read().launches():
        missing = tuple(load for load in part.loads if not folder.finished(load))
        if not missing:
            continue
        outcome = run(Launch(folder, part, missing, folder.new_launch()))
        measured += outcome.measured
        if not outcome.ok:
            break
    else:
        folder.mark_done()
    return replace(outcome, measured=measured)
