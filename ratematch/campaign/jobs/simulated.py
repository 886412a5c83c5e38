"""Experiments in virtual time as jobs: a process each, as many at once as there are processors.

The processes are forked from a server that has imported everything once, so a job costs milliseconds to start, and
they share nothing with the controller, its threads or its terminal.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path

from ratematch.errors import UserError
from ratematch.plan.experiment import Experiment
from ratematch.run.failure import OF_ERROR, Failure
from ratematch.simulate.load import why_not_simulated
from ratematch.store.folder import ExperimentFolder

JOIN_S = 5.0


def simulate_in(path: str) -> None:
    """What a job's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's, which stops its jobs
    threading.Thread(target=_end_with_controller, daemon=True).start()
    from ratematch.run.simulated import simulate_experiment  # noqa: PLC0415 - only where a simulation runs

    simulate_experiment(path)


def _end_with_controller() -> None:
    """Ends this process when the controller's has ended, however that ended: the same command, typed again, would
    find the experiment held by a process that nobody waits for."""
    if controller := multiprocessing.parent_process():
        wait([controller.sentinel])
        os._exit(1)  # as after kill -9: what is not whole does not count


def most_jobs() -> int:
    """One more than there are processors, so that none is idle between two turns of the controller."""
    return len(os.sched_getaffinity(0)) + 1


def refuse_unsimulated(experiments: Sequence[Experiment]) -> None:
    """Raises UserError when virtual time cannot stand for a load of one of them."""
    for experiment in experiments:
        for load in experiment.loads:
            if why := why_not_simulated(experiment.workload, load):
                raise UserError(f"{experiment.label}, {load.label}: {why}")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. The first start makes the server that jobs are forked from, which
    takes a second to import everything and would print where it was interrupted: it inherits that SIGINT is blocked.
    Here the signal waits for these milliseconds."""
    resource_tracker.ensure_running()  # which would let the signal through again where it starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SimulatedJob:
    """One experiment being simulated, in a process of its own that no controller can take over."""

    adopted = False

    def __init__(self, folder: ExperimentFolder):
        """Start the process."""
        self.folder = folder
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ratematch.run.simulated"])
        self._process = context.Process(target=simulate_in, args=(str(Path(folder.path).absolute()),), daemon=True)
        with _interrupts_held():
            self._process.start()

    @property
    def scheduler_job(self) -> str:
        """Nobody shares it."""
        return str(self.folder.path)

    @property
    def waits_for(self) -> str | None:
        """Nothing: it was started at once."""
        return None

    @property
    def broken_nodes(self) -> Mapping[str, str]:
        """None: there are no nodes."""
        return {}

    def poll(self) -> bool:
        """Does its process still run?"""
        return self._process.is_alive()

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the process has ended; ``None`` when it is done."""
        if self.folder.done():
            return None
        outcome = self.folder.outcome()
        if outcome and outcome.error:
            return Failure(OF_ERROR.get(outcome.kind, "failed"), outcome.error)
        return Failure("driver ended", f"its process ended without a word (exit code {self._process.exitcode})")

    def cancel(self, *, wait: bool = True) -> None:
        """End the process; ``wait`` until it has."""
        if self._process.is_alive():
            self._process.terminate()
        if wait:
            self._process.join(JOIN_S)
