"""Servers that are up, and the experiments that are measured on them one after another: each has its own launch."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from ratematch.errors import DiskFull, RunError
from ratematch.run.launches import Launch
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome
from ratematch.store.sharedservers import write_servers


class Visits:
    """The launch that the servers work for now (``launch``), begun at ``began`` (Unix time), since when GPUs are
    held for it (``since``); ``gpus`` of them."""

    def __init__(self, launch: Launch, since: float, gpus: int, job: str | None):
        self.launch, self.since, self.gpus = launch, since, gpus
        self.began = time.time()
        self._first, self._job = launch, job
        self._open = True
        self._lock = contextlib.ExitStack()
        self.outcome = Outcome(ok=True)

    @property
    def logs(self) -> Path:
        """Where the servers write."""
        return self._first.path

    def next(self, folder: ExperimentFolder) -> Launch | None:
        """End the launch that is under way, well, and begin that of ``folder``. ``None``: nothing that these servers
        could do is missing there, or another process does it.

        Raises:
            DiskFull: no room.
        """
        self.end(Outcome(ok=True))
        try:
            self._lock.enter_context(folder.lock())
        except RunError:
            return None
        missing = [
            (part, tuple(load for load in part.loads if not folder.finished(load)))
            for part in folder.read().launches()
        ]
        missing = [(part, loads) for part, loads in missing if loads]
        if len(missing) != 1:
            self._lock.close()
            return None
        folder.forget_progress()
        part, loads = missing[0]
        self.launch, self.began, self._open = Launch(folder, part, loads, folder.new_launch()), time.time(), True
        write_servers(self.launch.path, self._first.path)
        return self.launch

    def end(self, outcome: Outcome) -> Outcome:
        """Keep what became of the launch that is under way, if one is. Returns what became of the first."""
        if not self._open:
            return self.outcome
        launch, now = self.launch, time.time()
        if launch is self._first and not launch.measured and not launch.starting_s:
            launch.starting_s = now - self.began
        outcome = replace(
            launch.spend(outcome),
            seconds=now - self.began,
            began=self.began,
            held_s=now - self.since,
            gpus=self.gpus,
            job=self._job,
        )
        # With a full disk the outcome cannot be kept either; the job's own result still carries it.
        with contextlib.suppress(DiskFull):
            launch.folder.write_outcome(launch.path, outcome)
            if outcome.ok and not launch.folder.missing():
                launch.folder.mark_done()
        if launch is self._first:
            self.outcome = outcome
        self.since, self._open = time.time(), False
        self._lock.close()
        return self.outcome
