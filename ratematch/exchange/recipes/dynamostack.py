"""What a recipe says of Dynamo, whichever layout it is written in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ratematch.plan.deployment import Options


@dataclass(frozen=True)
class NamedRelease:
    """A release of Dynamo that a recipe names, as it is written there. ``installed``: it is what runs for certain,
    because the recipe installs it; else it is what an image or a statement of the recipe promises."""

    text: str
    origin: str
    installed: bool = False


@dataclass(frozen=True)
class DynamoStack:
    """The parts of a recipe that are Dynamo's own.

    ``frontends``: processes, behind nginx where ``nginx`` says so. ``frontend_args``: of each of them, by the name of
    the flag without its dashes; ``frontend_env``: its environment. ``worker_args``: flags of every worker beside its
    mode, files and planes. ``event_plane`` is ``None`` where the recipe leaves it to the release. ``nats``: it runs
    though no plane uses it. ``nats_max_payload_mb``: of a NATS message, ``None`` for its default. ``infra_node``:
    etcd and NATS have a node of their own. ``releases``: of Dynamo, the most telling first. ``origins``: where a
    value was written, by the name of the field.
    """

    frontends: int = 1
    nginx: bool = False
    router_mode: str | None = None
    frontend_args: Options = field(default_factory=dict)
    frontend_env: dict[str, str] = field(default_factory=dict)
    worker_args: Options = field(default_factory=dict)
    discovery: Literal["etcd", "file"] = "etcd"
    request_plane: str = "tcp"
    event_plane: str | None = None
    nats: bool = False
    nats_max_payload_mb: int | None = None
    infra_node: bool = False
    releases: tuple[NamedRelease, ...] = ()
    origins: dict[str, str] = field(default_factory=dict)
