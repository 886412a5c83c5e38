"""What the controller asks of a job, whatever starts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ratematch.errors import UserError
from ratematch.run.failure import Failure
from ratematch.store.folder import ExperimentFolder


class Job(Protocol):
    """One experiment under way, in a job of ours or in one that an earlier controller left running.

    ``adopted``: an earlier controller started it, and this one took it over.
    """

    folder: ExperimentFolder
    adopted: bool

    @property
    def scheduler_job(self) -> str:
        """Name of the job that holds its nodes: the same for experiments that share one."""

    @property
    def waits_for(self) -> str | None:
        """What it waits for, in words; ``None`` when it runs. As of the last :meth:`poll`."""

    @property
    def broken_nodes(self) -> Mapping[str, str]:
        """Nodes that were lost under it, with the scheduler's reason. As of the last :meth:`poll`."""

    def poll(self) -> bool:
        """Look again how the job is; true until it has ended."""

    def failure(self) -> Failure | None:
        """Why the experiment is not done, once the job has ended; ``None`` when it is done."""

    def cancel(self, *, wait: bool = True) -> None:
        """Ask the measuring process to stop its servers and end; ``wait`` until it has."""


Started = list[tuple[ExperimentFolder, Job | UserError]]
"""Experiments that have a job now, and those that the scheduler refuses one, with the refusal."""
