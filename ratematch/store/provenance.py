"""Where the figures of a launch come from: software, machine, servers. Its ``provenance.json``.

A key that this version does not know is ignored; one that is not in a file is ``None`` or empty here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from ratematch.store.contract import ContractRef


@dataclass(frozen=True)
class ServerVersion:
    """``version``: as the server gives it, ``None`` when it gives none. ``emulated``: is it the emulator?"""

    version: str | None = None
    emulated: bool = False


@dataclass(frozen=True)
class Provenance:
    """``ratematch``: its version, ``git``: its commit. ``python``, ``platform``, ``cpus``, ``host``, ``packages``: of
    the process that measured. ``servers``: by name. ``simulated``: there were none; ``step_time`` is then the
    step-time model that stood for them. ``contract``: the schema that files were checked by, ``None`` where the
    shipped contract ruled. ``running``: what the servers' logs show of choices that the engine makes, by
    server and setting; ``notes``: where that is not what their files say. ``host_rule``: whether servers on other
    GPUs of the machine may start meanwhile, and why; ``None`` where there are none.
    """

    ratematch: str | None = None
    git: str | None = None
    python: str | None = None
    platform: str | None = None
    cpus: int | None = None
    host: str | None = None
    packages: Mapping[str, str | None] = field(default_factory=dict)
    slurm_job_id: str | None = None
    servers: Mapping[str, ServerVersion] = field(default_factory=dict)
    simulated: bool = False
    step_time: str | None = None
    contract: ContractRef | None = None
    running: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    host_rule: str | None = None

    @property
    def package_list(self) -> str:
        """Names and versions of the packages in one text."""
        return ", ".join(f"{name} {version}" for name, version in sorted(self.packages.items()))

    @property
    def server_versions(self) -> tuple[str | None, ...]:
        """As each server gave it."""
        return tuple(server.version for server in self.servers.values())

    @property
    def running_texts(self) -> tuple[str, ...]:
        """Each choice that a server's log shows."""
        return tuple(f"{setting} {value}" for ran in self.running.values() for setting, value in ran.items())


ADDED = ("running", "notes", "host_rule")
"""Keys that files without them do not get."""

SIMULATED = ("ratematch", "python", "simulated", "step_time", "servers")
"""Keys of a simulation, which depends on no machine and no package."""


def to_json(provenance: Provenance) -> dict[str, Any]:
    """As ``provenance.json`` holds it."""
    content = {key: value for key, value in asdict(provenance).items() if value or key not in ADDED}
    if provenance.simulated:
        return {key: content[key] for key in SIMULATED}
    left_out = ("simulated", "step_time", *(("contract",) if provenance.contract is None else ()))
    return {key: value for key, value in content.items() if key not in left_out}


def from_json(content: Mapping[str, Any]) -> Provenance:
    """The inverse of :func:`to_json`.

    Raises:
        ValueError: the content is not that of a ``provenance.json``.
    """
    return msgspec.convert(dict(content), Provenance)
