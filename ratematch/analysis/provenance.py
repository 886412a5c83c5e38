"""Where the figures of a results folder come from: its experiments, and what each launch recorded of its software."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ratematch.plan.experiment import Experiment
from ratematch.store.files import read_json
from ratematch.store.folder import ExperimentFolder


@dataclass(frozen=True)
class Launch:
    """What one launch recorded (``provenance.json``); ``None`` where it did not.

    ``server_versions``: as each server reported it. ``packages``: names and versions in one text. ``host``: where the
    load generator ran.
    """

    ratematch: str | None
    git: str | None
    python: str | None
    platform: str | None
    host: str | None
    packages: str
    server_versions: tuple[str | None, ...]


@dataclass(frozen=True)
class Provenance:
    """Experiments of a folder, and all their launches, in the order of the folders."""

    experiments: tuple[Experiment, ...]
    launches: tuple[Launch, ...]


def read_provenance(folders: Iterable[ExperimentFolder]) -> Provenance:
    """What ``folders`` hold of it.

    Raises:
        ResultsError: a file that cannot be read.
    """
    known = list(folders)
    files = [file for folder in known for file in sorted(folder.path.glob("launch/*/provenance.json"))]
    return Provenance(
        tuple(folder.read() for folder in known), tuple(_launch_from_json(read_json(file)) for file in files)
    )


def _launch_from_json(content: dict[str, Any]) -> Launch:
    return Launch(
        ratematch=content.get("ratematch"),
        git=content.get("git"),
        python=content.get("python"),
        platform=content.get("platform"),
        host=content.get("host"),
        packages=", ".join(f"{name} {version}" for name, version in sorted(content.get("packages", {}).items())),
        server_versions=tuple(server.get("version") for server in content.get("servers", {}).values()),
    )
