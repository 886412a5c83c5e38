"""How a node's cores are divided while a load runs: some for the driver and its load generator, the rest for servers.

A sender that waits for a core which a server's thread has is late with its requests, and the latencies that it
reports are too long by as much. Which cores they are is decided on the node (:mod:`ratematch.loadgen.cores`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.plan.cluster import Cluster

CORES_A_GPU = 4
"""That servers keep at least, for each GPU of a node: what a server takes while it is measured (two H200s, vLLM 0.24:
engine 2 to 3.5, HTTP server 0.65, proxy 0.2)."""


@dataclass(frozen=True)
class CoreShare:
    """Physical cores of a node: ``own`` for driver and load generator at most, ``kept`` by servers at least."""

    own: int
    kept: int

    def spell(self, mark: str) -> str:
        """As text, with the ``mark`` of the servers that it concerns."""
        return f"{self.own} {self.kept} {mark}"


def read_share(text: str) -> tuple[CoreShare, str]:
    """The inverse of :meth:`CoreShare.spell`."""
    own, kept, mark = text.split(" ", 2)
    return CoreShare(int(own), int(kept)), mark


def core_share(cluster: Cluster) -> CoreShare | None:
    """How the cores of a node of ``cluster`` are divided; ``None``: everybody shares them.

    ``load_cores`` of the profile, and the servers keep one; else one core for the driver and one for each of the
    ``slurm.senders``, and servers keep :data:`CORES_A_GPU` for each GPU. Emulated servers share unless the profile
    says otherwise: they stand for GPUs and need hardly a core, and many of them run beside each other.
    """
    if cluster.load_cores is not None:
        return CoreShare(cluster.load_cores, 1) if cluster.load_cores else None
    if cluster.emulated:
        return None
    return CoreShare(1 + cluster.slurm.senders, CORES_A_GPU * cluster.gpus_per_node)
