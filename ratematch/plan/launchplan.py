"""What will be started: files to write and processes in order. Printable, diffable, nothing running yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MADE_AT_LAUNCH = "***made at launch***"
"""In a file of a plan: a random secret of one start, the same in all its files. It is in nothing that is kept: the
servers read copies of such files with it, which are ours alone and removed with the servers."""

PRIVATE = "private"
"""Folder of those copies, below the launch folder."""


START = "***start***"
"""In an argument or a variable of a process: another text at each start of the servers, the same in all of them, of
letters and digits (:meth:`LaunchPlan.started`). What two starts have in common by accident, they do not share."""


@dataclass(frozen=True)
class FileSpec:
    """A file to write below the launch folder. ``path`` is relative."""

    path: str
    content: str

    @property
    def secret(self) -> bool:
        """Does it hold the secret of its start?"""
        return MADE_AT_LAUNCH in self.content


@dataclass(frozen=True)
class ReadyProbe:
    """GET ``url`` answers 200 when the process is ready; ``deadline_s`` from its start is the limit.

    ``alive``: any answer will do. The process is ready when something else says so (``Engine.join``).
    """

    url: str
    deadline_s: float
    alive: bool = False


@dataclass(frozen=True)
class ProcessSpec:
    """One server process.

    ``name``: ``ctx-0``, ``gen-1``, ``agg-0``, ``orchestrator``. ``role``: of a worker, that of its servers;
    ``orchestrator`` of what stands in front of them; ``service`` of a program beside them that answers no requests
    and reports no figures (a registry, a proxy). ``ranks``: processes of the engine, over all nodes.
    ``argv`` may hold paths relative to the launch
    folder, which is the working directory. ``env`` is added to the inherited environment; ``unset`` is removed
    from it. ``log``: file for stdout and stderr, relative. ``wave``: processes of a wave start together once every
    process of earlier waves is ready. ``launcher``: put before ``argv`` where Slurm starts the ranks. ``inside``: it
    runs in the container, where there is one; else it is a program of ratematch itself. ``shares``: ranks on each of
    ``nodes``, where they are not alike. ``further_ports``: it listens there too, on ``host``. ``metrics_port``:
    where it reports of itself, 0 = on ``port``.
    """

    name: str
    role: Literal["ctx", "gen", "agg", "orchestrator", "service"]
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    unset: tuple[str, ...]
    nodes: tuple[str, ...]
    host: str
    port: int
    log: str
    ready: ReadyProbe
    wave: int = 0
    ranks: int = 1
    launcher: tuple[str, ...] = ()
    inside: bool = True
    shares: tuple[int, ...] = ()
    further_ports: tuple[int, ...] = ()
    metrics_port: int = 0

    @property
    def is_worker(self) -> bool:
        """Does it compute tokens?"""
        return self.role in ("ctx", "gen", "agg")


@dataclass(frozen=True)
class LaunchPlan:
    """Everything a job writes and starts, in order; torn down in reverse.

    ``endpoint``: base URL that takes the load.
    """

    files: tuple[FileSpec, ...]
    processes: tuple[ProcessSpec, ...]
    endpoint: str

    def started(self, name: str) -> LaunchPlan:
        """The plan of one start, with ``name`` wherever :data:`START` stands."""

        def named(spec: ProcessSpec) -> ProcessSpec:
            argv = tuple(word.replace(START, name) for word in spec.argv)
            return replace(spec, argv=argv, env=tuple((key, value.replace(START, name)) for key, value in spec.env))

        return replace(self, processes=tuple(named(spec) for spec in self.processes))
