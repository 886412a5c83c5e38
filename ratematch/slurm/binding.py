"""On which CPUs and memory the processes of a deployment run, and why, by the steps of its profile (pure)."""

from __future__ import annotations

from ratematch.plan.cluster import Cluster
from ratematch.plan.cores import core_share
from ratematch.plan.setting import Explained, Setting


def explain_binding(cluster: Cluster) -> Explained:
    """The binding of servers, driver and load generator on ``cluster``."""
    memory = _memory(cluster)
    if cluster.default_executor == "local":
        return Explained(f"processes on {cluster.name}", (memory, _load_generator(cluster)))
    ranks = "one for each GPU" if cluster.slurm.tasks == "gpu" else "one a node"
    layout = "arbitrary" if cluster.packing == "compact" else "block"
    over = "; arbitrary, rank by rank, where an instance sits over the borders of nodes" if layout != "block" else ""
    settings = (
        Setting("tasks of a server", ranks, "slurm.tasks; each is a rank of the engine where there is one for a GPU"),
        Setting(
            "srun --distribution",
            "block",
            f"rank r is on node r // {cluster.gpus_per_node}, as engines take it{over}",
        ),
        Setting(
            "srun --cpu-bind", "none", "Slurm would bind each rank to one core, which its many threads would share"
        ),
        memory,
        _load_generator(cluster),
    )
    return Explained(f"steps on {cluster.name}", settings)


def _memory(cluster: Cluster) -> Setting:
    if cluster.numactl:
        why = "numactl of the cluster profile, or its default on Grace: host memory off the memory of the GPUs"
        return Setting("numactl", " ".join(cluster.numactl), why)
    why = "host memory is where the kernel puts it; numactl in the profile binds it (doctor --probe shows NUMA nodes)"
    return Setting("numactl", "none", why)


def _load_generator(cluster: Cluster) -> Setting:
    name = "driver and load generator"
    where = "on this machine"
    if cluster.default_executor != "local":
        most = f"at most {cluster.slurm.senders} senders a node (slurm.senders)"
        where = f"on the first node of a job beside its servers, {most}"
    if (share := core_share(cluster)) is None:
        why = (
            "load_cores: 0" if cluster.load_cores == 0 else "emulated servers share unless load_cores says otherwise"
        )
        return Setting(name, "unbound", f"{where}; {why}; a load whose client fell behind is not valid")
    why = (
        f"{where}; the last of the NUMA node with the fewest GPUs, off which servers are taken once they are up; "
        f"fewer, or none, where servers would keep less than {share.kept}, and then the notes of a load say so"
    )
    return Setting(name, f"{share.own} cores of their own", why)
