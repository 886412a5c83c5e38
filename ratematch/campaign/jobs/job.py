"""What the controller asks of a job, whatever starts it."""

from __future__ import annotations

from typing import Protocol

from ratematch.run.failure import Failure
from ratematch.store.folder import ExperimentFolder


class Job(Protocol):
    """One experiment under way, in a job of ours or in one that an earlier controller left running."""

    folder: ExperimentFolder
    adopted: bool

    @property
    def slot(self) -> str:
        """The same for experiments that share one job of the scheduler."""

    @property
    def doing(self) -> str | None:
        """What it waits for; ``None`` when it runs."""

    def running(self) -> bool: ...

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""

    @property
    def broken_nodes(self) -> dict[str, str]:
        """Nodes that were lost under it, with the scheduler's reason."""

    def cancel(self, *, wait: bool = True) -> None:
        """Ask the measuring process to stop its servers and end; ``wait`` until it has."""
