"""Where the servers of a launch were started, for launches that go on with those of another experiment.

Such a launch has no logs and no process of its own; its ``servers.json`` names the launch that has them.
"""

from __future__ import annotations

from pathlib import Path

from ratematch.store import layout
from ratematch.store.files import read_value, write_json


def write_servers(launch: Path, started_in: Path) -> None:
    """Keep that the servers of ``launch`` are those that were started in ``started_in``, of the same results."""
    write_json(launch / layout.SERVERS, {"launch": "/".join(started_in.parts[-3:])})


def servers_of(launch: Path) -> Path:
    """The launch folder with the logs of its servers: itself, or that of another experiment.

    Raises:
        DamagedFile: the file that names it cannot be read.
    """
    file = launch / layout.SERVERS
    if not file.exists():
        return launch
    return read_value(file, lambda content: launch.parents[2] / _below(content["launch"]))


def _below(name: str) -> str:
    """Raises ValueError: it does not name a launch of the same results folder."""
    parts = name.split("/")
    if len(parts) != 3 or parts[1] != layout.LAUNCHES or ".." in parts:
        raise ValueError(f"{name!r} is no launch of these results")
    return name
