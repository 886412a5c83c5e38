"""Experiments to jobs: submitit's executors, nothing on top of them.

submitit starts the jobs and keeps their logs; whether an experiment is finished is read from its results folder,
never from a job's state, so that a controller that comes back after a crash sees the same as one that never left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import submitit

from ratematch.run.experiment import run_experiment
from ratematch.store import ExperimentFolder

ExecutorName = Literal["local", "debug"]

DAY_MIN = 24 * 60
CANCEL_WAIT_S = 30.0


class Job:
    """One experiment under way, in a job of ours or in one that an earlier controller left running."""

    def __init__(self, folder: ExperimentFolder, job: submitit.Job[Any] | None):
        self.folder = folder
        self._job = job

    @property
    def adopted(self) -> bool:
        return self._job is None

    def running(self) -> bool:
        return self.folder.held() if self._job is None else not self._job.done()

    def error(self) -> str | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""
        if self.folder.done():
            return None
        if self._job is not None:
            with contextlib.suppress(Exception):  # a job that was killed has no result to tell
                outcome = self._job.result()
                if outcome["error"]:
                    return str(outcome["error"])
        outcome = self.folder.outcome()
        if outcome and outcome["error"]:
            return str(outcome["error"])
        return f"the job ended without a word (killed?); its log is in {self.folder.path / 'job'}"

    def cancel(self) -> None:
        """Ask the measuring process to stop its servers and end; wait until it has."""
        holder = self.folder.holder()
        if self.folder.held() and holder:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(holder, signal.SIGTERM)
        deadline = time.monotonic() + CANCEL_WAIT_S
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._job is not None and self.running():
            self._job.cancel()


def submit(folder: ExperimentFolder, executor: ExecutorName) -> Job:
    """Start (or adopt) the job that measures what is missing in ``folder``."""
    if folder.held():
        return Job(folder, None)
    logs = folder.path / "job"
    runner = submitit.AutoExecutor(folder=logs / "%j", cluster=executor)
    runner.update_parameters(timeout_min=DAY_MIN, name="ratematch", stderr_to_stdout=True)
    with _ctrl_c_kept_from_children(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Job(folder, runner.submit(run_experiment, str(Path(folder.path).absolute())))


@contextlib.contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """Jobs started inside do not get the terminal's Ctrl-C: the controller tells them to stop, in order.

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
