"""What the machines are, as far as a deployment must know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cluster:
    """One cluster profile (``slurm/clusters/*.yaml``).

    ``nodes``: how many nodes a deployment may use. ``emulated``: servers are the emulator; everything measured
    here carries ``emulated: true`` to the last plot. ``command``: argv that starts the engine's CLI on a node.
    ``port_base``: first port that servers take, ``None`` = any free ones. ``start_minutes`` and ``load_minutes``:
    what starting one deployment and running one load take, for the estimate before a sweep. ``ready_minutes``: how
    long servers may take to answer, ``None`` = scaled to the size of the weights. ``stall_minutes``: a load is
    ended when for so long no server runs an iteration with requests in flight (``None``: never).
    """

    name: str
    gpu: str
    gpus_per_node: int
    nodes: int
    emulated: bool = False
    about: str = ""
    command: tuple[str, ...] = ("trtllm-serve",)
    port_base: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    model_paths: dict[str, str] = field(default_factory=dict)
    start_minutes: float = 20.0
    load_minutes: float = 5.0
    ready_minutes: float | None = None
    stall_minutes: float | None = 10.0

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def to_json(cluster: Cluster) -> dict[str, Any]:
    """Plain JSON values."""
    return asdict(cluster) | {"command": list(cluster.command)}


def from_json(content: dict[str, Any]) -> Cluster:
    """The inverse of :func:`to_json`.

    Raises:
        KeyError, TypeError: the content is not that of a cluster.
    """
    return Cluster(**{**content, "command": tuple(content["command"])})
