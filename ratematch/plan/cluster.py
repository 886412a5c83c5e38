"""What the machines are, as far as a deployment must know."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from ratematch.plan.plain import plain
from ratematch.plan.secret import Secrets, masked

GpuStyle = Literal["gpus-per-node", "gres", "none"]
StepTasks = Literal["gpu", "node"]
Packing = Literal["whole-nodes", "compact"]
Starts = Literal["auto", "beside", "apart"]
"""Where an instance larger than a node and no multiple of it sits: nowhere, or over the borders of nodes."""
Unpack = Literal["job", "launch"]

OWN_COPY = ("--container-name", "--container-save", "--container-writable")
"""Options of a site with which a server has a copy of its image to itself: by name, to keep it, to write into it."""


@dataclass(frozen=True)
class TimeLimit:
    """How the time limit of a job follows from the minutes it is estimated to take: ``factor`` x estimate +
    ``floor_minutes``, ``max_minutes`` at most (what the partition or QOS allows; ``None`` = no bound).

    A limit that is met costs a start of the servers, so it is generous; what did not fit is sent again.
    """

    factor: float = 2.0
    floor_minutes: float = 10.0
    max_minutes: float | None = None

    def minutes(self, estimate: float) -> int:
        """Whole minutes to ask for."""
        minutes = int(self.factor * estimate + self.floor_minutes + 0.999)
        return minutes if self.max_minutes is None else min(minutes, int(self.max_minutes))


@dataclass(frozen=True)
class Slurm:
    """What a site wants of every job and step.

    ``partition``, ``account``, ``qos``, ``reservation``, ``exclude`` (nodes): sbatch's options of these names.
    ``gpus``: how GPUs are requested, ``--gpus-per-node=N``, ``--gres=<gres>:N`` or not at all (whole nodes are given
    anyway). ``exclusive``: no neighbours on the nodes, which would be measured too.
    ``segment``: nodes in one NVLink domain. A job asks for ``--segment``, the largest divisor of its nodes not above
    this, so that no server reaches over two domains; ``None`` = not requested.
    ``mpi``: ``srun --mpi`` of server steps, ``None`` = Slurm's default. ``tasks``: of a server's step, one for each
    GPU (the engine's ranks) or one a node (the emulator, which needs no ranks).
    ``senders``: most processes of the load generator on one node. ``sbatch``, ``srun``: further options, as typed.
    ``prologue``: a script that the batch job sources first.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    time: TimeLimit = field(default_factory=TimeLimit)
    segment: int | None = None
    gpus: GpuStyle = "gpus-per-node"
    gres: str = "gpu"
    exclusive: bool = True
    mpi: str | None = "pmix"
    tasks: StepTasks = "gpu"
    exclude: tuple[str, ...] = ()
    senders: int = 8
    sbatch: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()
    prologue: str | None = None


@dataclass(frozen=True)
class Container:
    """The image that servers run in, by pyxis: a ``.sqsh`` file or a registry's ``[user@][registry#]image[:tag]``.

    ``mounts``: ``HOST:INSIDE[:flags]``. The folder of the launch files is mounted too, at its own path. ``unpack``:
    once on each node of a job, for all servers and launches; or by each server at each launch.
    """

    image: str
    mounts: tuple[str, ...] = ()
    mount_home: bool = False
    unpack: Unpack = "job"

    @property
    def file(self) -> str | None:
        """The image when it is a file; ``None`` when it comes from a registry."""
        return self.image if self.image.startswith(("/", "./", "../")) else None


@dataclass(frozen=True)
class StageWeights:
    """Weights are copied to each node's own disk before servers start, into folders of their own below ``path``.

    ``limit_gb``: what all copies there may take together (10^9 bytes), ``None`` = what is free. ``keep``: copies stay
    for later jobs, as long as nothing newer needs their place; else they go when no job uses them.
    """

    path: str
    limit_gb: float | None = None
    keep: bool = False

    def copy_of(self, source: str) -> str:
        """The folder of the copy of ``source``, in every job the same; of its name, which engines know models by."""
        digest = hashlib.sha256(source.encode()).hexdigest()[:10]
        name = PurePosixPath(source).name
        return f"{self.path.rstrip('/')}/{re.sub('[^A-Za-z0-9._-]', '_', name)}-{digest}/{name}"


@dataclass(frozen=True)
class Cluster:
    """One cluster profile (``slurm/clusters/*.yaml``).

    ``nodes``: how many nodes a deployment may use. ``emulated``: servers are the emulator; everything measured
    here carries ``emulated: true`` to the last plot. ``command``: argv that starts the engine's CLI on a node;
    ``launcher``: put before it where Slurm starts the ranks of a server; empty and ``None``: as the engine has it.
    ``numactl``: put before both, for workers.
    ``port_base``: first port that servers take, ``None`` = any free ones. ``start_minutes`` and ``load_minutes``:
    what starting one deployment and running one load take, for the estimate before a sweep. ``ready_minutes``: how
    long servers may take to answer, ``None`` = scaled to the size of the weights. ``stall_minutes``: a load is
    ended when for so long no server runs an iteration with requests in flight (``None``: never).
    ``environment``: of every server. ``check_paths``: the login node sees the image, the mounts and the weights, so
    they are looked for before anything is sent. ``slurm_given``: the profile has a ``slurm`` part, whatever it says
    there; only for :attr:`default_executor`, so it is not kept with results. ``gpu_file``: the file that describes
    the GPU type, ``None`` where the package does. ``packing``: whether instances of 6 GPUs may sit on nodes of 4, as
    4 + 2 and their neighbours as 2 + 4 (:mod:`ratematch.plan.placement`). ``starts``: may servers start on a machine
    while others are measured there? ``auto``: where it has processors enough (:mod:`ratematch.run.neighbours`).
    ``caches``: a folder on each node, as servers see it, for what they compile (:mod:`ratematch.engines.caches`).
    ``stage_weights``: where weights are copied to on each node. ``prepare_minutes``: what unpacking the image and
    copying the weights take, once a job, ``None`` = by the size of the weights (:mod:`ratematch.plan.budget`).
    ``secrets``: values that ``environment`` has not, which are kept nowhere. ``release_paths``: by engine, the
    folder of files that its release brings and ratematch does not. ``load_cores``: cores of a node that driver and
    load generator have to themselves, 0 = none, ``None`` = by its size (:mod:`ratematch.plan.cores`).
    """

    name: str
    gpu: str
    gpus_per_node: int
    nodes: int
    emulated: bool = False
    about: str = ""
    command: tuple[str, ...] = ()
    launcher: tuple[str, ...] | None = None
    numactl: tuple[str, ...] = ()
    port_base: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    model_paths: dict[str, str] = field(default_factory=dict)
    start_minutes: float = 20.0
    load_minutes: float = 5.0
    ready_minutes: float | None = None
    stall_minutes: float | None = 10.0
    slurm: Slurm = field(default_factory=Slurm)
    container: Container | None = None
    check_paths: bool = True
    slurm_given: bool = field(default=False, compare=False)
    gpu_file: str | None = None
    packing: Packing = "whole-nodes"
    starts: Starts = "auto"
    caches: str | None = None
    secrets: Secrets = field(default_factory=Secrets, compare=False)
    release_paths: dict[str, str] = field(default_factory=dict)
    load_cores: int | None = None
    stage_weights: StageWeights | None = None
    prepare_minutes: float | None = None

    @property
    def unpacks_once(self) -> bool:
        """Do all servers of a node use one unpacked copy of the image?"""
        own = any(word.startswith(OWN_COPY) for word in self.slurm.srun)
        return self.container is not None and self.container.unpack == "job" and not own

    def weights_for_servers(self, path: str) -> str:
        """Where servers find the weights that lie at ``path``: their copy, where they are staged."""
        return path if self.stage_weights is None else self.stage_weights.copy_of(path)

    @property
    def gpu_source(self) -> str:
        """What finds the GPU type again from anywhere: its file, where a person wrote one, else its name."""
        return self.gpu_file or self.gpu

    @property
    def default_executor(self) -> Literal["slurm", "local"]:
        """Where servers run when nobody says it: in Slurm's jobs or as processes of this machine.

        Slurm's where the profile has a ``slurm`` part, a container, or real servers on more than one node: nothing
        else would start those.
        """
        several = self.nodes > 1 and not self.emulated
        return "slurm" if self.slurm_given or self.container is not None or several else "local"

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def to_json(cluster: Cluster) -> dict[str, Any]:
    """Plain JSON values."""
    content: dict[str, Any] = plain(replace(cluster, secrets=Secrets()))
    del content["slurm_given"], content["secrets"]
    if content["gpu_file"] is None:
        del content["gpu_file"]
    if content["packing"] == "whole-nodes":
        del content["packing"]
    if content["starts"] == "auto":
        del content["starts"]
    if content["caches"] is None:
        del content["caches"]
    if not content["release_paths"]:
        del content["release_paths"]
    if content["load_cores"] is None:
        del content["load_cores"]
    for key in ("stage_weights", "prepare_minutes"):
        if content[key] is None:
            del content[key]
    if content["container"] is not None and content["container"]["unpack"] == "job":
        del content["container"]["unpack"]
    return content


def from_json(content: dict[str, Any]) -> Cluster:
    """The inverse of :func:`to_json`; what an older file does not name is as it was then.

    Raises:
        KeyError, TypeError: the content is not that of a cluster.
    """
    given = _tuples(content)
    if "slurm" in given:
        given["slurm"] = Slurm(**given["slurm"] | {"time": TimeLimit(**given["slurm"]["time"])})
    else:  # from before profiles said it: one task a node, Slurm's own choice of MPI
        given["slurm"] = Slurm(mpi=None, tasks="node")
    if given.get("container") is not None:
        given["container"] = Container(**given["container"])
    if given.get("stage_weights") is not None:
        given["stage_weights"] = StageWeights(**given["stage_weights"])
    # An earlier version kept secrets here, and what is read may be handed around.
    given["environment"] = masked(given.get("environment", {}))
    return Cluster(**given)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(below) for key, below in value.items()}
    return tuple(value) if isinstance(value, list) else value
