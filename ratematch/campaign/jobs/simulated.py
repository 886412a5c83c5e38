"""Experiments in virtual time as jobs: a process each, as many at once as there are processors.

The processes are forked from a server that has imported everything once, so a job costs milliseconds to start, and
they share nothing with the controller, its threads or its terminal.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from ratematch.errors import UserError
from ratematch.plan.experiment import Experiment
from ratematch.run.failure import OF_ERROR, Failure
from ratematch.simulate.load import why_not_simulated
from ratematch.store.folder import ExperimentFolder

JOIN_S = 5.0


def simulate_in(path: str) -> None:
    """What a job's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's, which tells its jobs
    from ratematch.run.simulated import simulate_experiment  # noqa: PLC0415 - only where a simulation runs

    simulate_experiment(path)


def most_jobs() -> int:
    """One more than there are processors: the next is at hand while the controller looks."""
    return len(os.sched_getaffinity(0)) + 1


def refuse_unsimulated(experiments: Sequence[Experiment]) -> None:
    """Raises UserError when virtual time cannot stand for a load of one of them."""
    for experiment in experiments:
        for load in experiment.loads:
            if why := why_not_simulated(experiment.workload, load):
                raise UserError(f"{experiment.label}, {load.label}: {why}")


class SimulatedJob:
    """One experiment being simulated; ``Job`` of :mod:`ratematch.campaign.jobs.executor`."""

    doing = None
    broken_nodes: dict[str, str] = {}  # noqa: RUF012 - nothing is ever added
    adopted = False

    def __init__(self, folder: ExperimentFolder):
        self.folder = folder
        self.slot = str(folder.path)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ratematch.run.simulated"])
        self._process = context.Process(target=simulate_in, args=(str(Path(folder.path).absolute()),), daemon=True)
        self._process.start()

    def running(self) -> bool:
        return self._process.is_alive()

    def failure(self) -> Failure | None:
        if self.folder.done():
            return None
        outcome = self.folder.outcome()
        if outcome and outcome.error:
            return Failure(OF_ERROR.get(outcome.kind, "failed"), outcome.error)
        return Failure("driver ended", f"its process ended without a word (exit code {self._process.exitcode})")

    def cancel(self, *, wait: bool = True) -> None:
        if self._process.is_alive():
            self._process.terminate()
        if wait:
            self._process.join(JOIN_S)
