"""Experiments beside each other in one allocation: each is a step on nodes that only it has.

The step's one task is the experiment's driver, on the first of its nodes, so that the load of one experiment is not
sent by the processors of another's servers::

    srun --overlap --nodes=1 --nodelist=<its first node> python -m ratematch.campaign.jobs.member FOLDER NODES
        srun --overlap --nodelist=...                                           each server

Its standard input is a pipe that the starter holds. When it is closed, because the experiment is to stop or because
the starter was killed, the driver stops its servers in order. A signal to ``srun`` would not do: it ends its task at
once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratematch.campaign.jobs.sent import classify_ending
from ratematch.run.experiment import JOB_BEGAN
from ratematch.run.failure import Failure
from ratematch.slurm.allocation import srun
from ratematch.slurm.queue import Ending
from ratematch.store import filelock, layout
from ratematch.store.folder import ExperimentFolder
from ratematch.store.private import make_private

CANCEL_WAIT_S = 60.0


class StepJob:
    """One experiment in a step of the allocation that this process runs in."""

    adopted = False

    def __init__(
        self,
        folder: ExperimentFolder,
        nodes: Sequence[str],
        log: Path,
        submission: str = "",
        *,
        expected_end_min: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ):
        """Start it on ``nodes``; its driver writes to ``log``.

        ``submission``: the name that ``job.json`` must still hold, empty = any. ``expected_end_min``: when it is
        expected to end, in minutes of the monotonic clock. ``environment``: added to that of its driver.
        """
        self.folder = folder
        self.nodes = tuple(nodes)
        self.expected_end_min = expected_end_min
        self._cancelled = False
        self._began = time.time()
        make_private(folder.path / layout.JOB_LOGS)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-u",
            "-m",
            "ratematch.campaign.jobs.member",
            str(folder.path.absolute()),
            ",".join(nodes),
            submission,
        ]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*srun(self.nodes[:1], "driver"), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {}), JOB_BEGAN: f"{self._began:.3f}"},
                # A terminal's Ctrl-C goes to the starter, which then stops this in order.
                start_new_session=True,
            )

    @property
    def scheduler_job(self) -> str:
        """Nobody shares its step."""
        return str(self.folder.path)

    @property
    def waits_for(self) -> str | None:
        """Nothing: its nodes were free when it was started."""
        return None

    @property
    def broken_nodes(self) -> Mapping[str, str]:
        """None: when a node of the allocation is lost, Slurm ends the job that this runs in."""
        return {}

    @property
    def code(self) -> int | None:
        """Exit code; ``None`` while it runs."""
        return self._process.poll()

    def poll(self) -> bool:
        """Does the step still run?"""
        return self.code is None

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the step has ended; ``None`` when it is done."""
        if self.folder.done():
            return None
        ours = [outcome for outcome in self.folder.outcomes() if outcome.began >= self._began - 1]
        outcomes = sorted(ours, key=lambda outcome: outcome.began, reverse=True)
        ending = Ending("CANCELLED") if self._cancelled else Ending(None)
        return classify_ending(filelock.own_job() or "", ending, outcomes, self.folder.path / layout.JOB_LOGS)

    def cancel(self, *, wait: bool = True) -> None:
        """Have the driver stop its servers and end; ``wait`` until it has."""
        self._cancelled = True
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not wait:
            return
        try:
            self._process.wait(CANCEL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
