"""Jobs on this machine: a process each, started by submitit, which keeps their logs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from ratematch.inputs.localgpus import VISIBLE
from ratematch.plan.budget import minutes_on
from ratematch.run.experiment import run_here
from ratematch.run.failure import OF_ERROR, Failure
from ratematch.store import layout
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome
from ratematch.store.outcome import from_json as outcome_from_json
from ratematch.store.private import make_private, why_not_private

DAY_MIN = 24 * 60
CANCEL_WAIT_S = 30.0


class LocalJob:
    """A job on this machine; ``job`` is ``None`` for one that an earlier controller started.

    ``together``: all the experiments that its servers measure, one after another, the one they were started for in
    front. Each has a ``LocalJob`` of its own. A guest that was never begun, because what came before it failed, is as
    one of a job that was adopted: that is no failure of its own.
    """

    def __init__(
        self, folder: ExperimentFolder, job: submitit.Job[Any] | None, together: Sequence[ExperimentFolder] = ()
    ):
        self.folder = folder
        self._together = tuple(together) or (folder,)
        self._is_guest = self._together[0].path != folder.path
        self.adopted = job is None or self._is_guest
        self._job = job
        self.gpus = folder.read().deployment.gpus
        minutes = sum(minutes_on(each.cluster(), each.read()) for each in self._together)
        self.expected_end_min = time.monotonic() / 60 + minutes

    @property
    def scheduler_job(self) -> str:
        """The same for experiments that share their servers."""
        return str(self._together[0].path)

    @property
    def waits_for(self) -> str | None:
        """A guest: until the servers are done with those before it."""
        if not self._is_guest or self.folder.held():
            return None
        return f"the servers of {self._together[0].path.name}, which it shares"

    @property
    def broken_nodes(self) -> Mapping[str, str]:
        """None: this machine is not one that jobs can be kept off."""
        return {}

    def poll(self) -> bool:
        """Does its process still have to do with it?"""
        if self._job is None:
            return self.folder.held()
        return not self._job.done() and not (len(self._together) > 1 and self.folder.done())

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""
        if self.folder.done():
            return None
        outcome = self._result() or self.folder.outcome()
        if outcome and outcome.error:
            return Failure(OF_ERROR.get(outcome.kind, "failed"), outcome.error)
        if self._is_guest:
            host = self._together[0].path.name
            return Failure("not started", f"the servers of {host}, which it was to share, ended before its turn")
        logs = self.folder.path / layout.JOB_LOGS
        return Failure("driver ended", f"the job ended without a word (killed?); its log is in {logs}")

    def _result(self) -> Outcome | None:
        if self._is_guest:
            return None  # what the process reports is of the experiment that the servers were started for
        if self._job is not None and why_not_private(self.folder.path / layout.JOB_LOGS) is None:
            with contextlib.suppress(Exception):  # a job that was killed has no result
                result = outcome_from_json(self._job.result())
                return result if result.error else None
        return None

    def cancel(self, *, wait: bool = True) -> None:
        """Have the process stop its servers and end; ``wait`` until it has."""
        signalled: set[int] = set()
        self._signal_holder(signalled)
        if not wait:
            return
        deadline = time.monotonic() + CANCEL_WAIT_S
        while self.poll() and time.monotonic() < deadline:
            # A job that was only just started holds no lock, so nobody to signal, until its imports are done.
            self._signal_holder(signalled)
            time.sleep(0.1)
        if self._job is not None and self.poll():
            self._job.cancel()

    def _signal_holder(self, signalled: set[int]) -> None:
        """SIGTERM to the process that measures in the folder, or in one it shares its servers with, unless it is
        among ``signalled``, where it is put."""
        for folder in self._together:
            holder = folder.holder()
            if holder and holder not in signalled and folder.held():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(holder, signal.SIGTERM)
                signalled.add(holder)


def start_here(together: Sequence[ExperimentFolder], executor: str) -> submitit.Job[Any]:
    """Start the process that measures what is missing in the first of ``together``, and then in the others on the
    same servers. ``executor``: of submitit, local or debug."""
    folder = together[0]
    folder.forget_progress()  # it takes a second until the process writes its own
    # Calls and results lie there pickled: whoever could write them would run code as us.
    make_private(folder.path / layout.JOB_LOGS)
    runner = submitit.AutoExecutor(folder=folder.path / layout.JOB_LOGS / "%j", cluster=executor)
    runner.update_parameters(timeout_min=DAY_MIN, name="ratematch", stderr_to_stdout=True)
    with _ctrl_c_kept_from_children(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [str(Path(each.path).absolute()) for each in together]
        return runner.submit(run_here, paths, os.environ.get(VISIBLE))


@contextlib.contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """Jobs started inside do not get the terminal's Ctrl-C: the controller asks them to stop, in order.

    submitit's local controller would otherwise kill its job one second after Ctrl-C, servers and all.
    """
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: no terminal to protect from
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
