"""An experiment's place in a pack: files in its own folder, so that controller and pack need not meet.

``job/<name>/cancel`` is the controller's word that this member is to stop; ``job/<name>/over.json`` the pack's that
it has ended and is not started again in this allocation. ``<name>`` is the unique name of the sending, so neither is
ever taken for that of an earlier or a later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.store import ExperimentFolder, read_json, write_json


@dataclass(frozen=True)
class Membership:
    """Of the experiment in ``folder``, in the pack that was sent under ``name``."""

    folder: ExperimentFolder
    name: str

    @property
    def path(self) -> Path:
        """Of its files; made when it is missing."""
        path = self.folder.path / "job" / self.name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def log(self) -> Path:
        return self.path / "driver_log.out"

    def is_current(self) -> bool:
        """Was nothing sent for this experiment since? Else whoever was sent later measures it."""
        return (self.folder.job() or {}).get("name") == self.name

    def verdict(self) -> dict[str, Any] | None:
        """How it ended in this pack; ``None`` while it has not."""
        file = self.folder.path / "job" / self.name / "over.json"
        return read_json(file) if file.exists() else None

    def end(self, code: int | None) -> None:
        """It has ended with this exit code, ``None``: it was never started."""
        write_json(self.path / "over.json", {"code": code, "cancelled": self.is_cancelled()})

    def begin_anew(self) -> None:
        """Slurm has started the whole pack again, so what an earlier start of it said is void."""
        (self.path / "over.json").unlink(missing_ok=True)

    def is_cancelled(self) -> bool:
        return (self.folder.path / "job" / self.name / "cancel").exists()

    def cancel(self) -> bool:
        """Ask for its end; true when nobody else of its pack is left, so that the pack itself may end."""
        (self.path / "cancel").touch()
        others = (
            Membership(ExperimentFolder(file.parent), self.name)
            for file in self.folder.path.parent.glob("*/experiment.json")
        )
        return not any(
            other.is_current() and not other.is_cancelled() and not other.verdict() and not other.folder.done()
            for other in others
        )
