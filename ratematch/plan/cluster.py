"""What the machines are, as far as a deployment must know."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cluster:
    """One cluster profile (``slurm/clusters/*.yaml``).

    ``nodes``: how many nodes a deployment may use. ``emulated``: servers are the emulator; everything measured
    here carries ``emulated: true`` to the last plot. ``command``: argv that starts the engine's CLI on a node.
    ``port_base``: first port that servers take, ``None`` = any free ones.
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
    start_minutes: float | None = None
