"""Cluster profile text -> Cluster. The only place where pydantic sees one; ``slurm/README.md`` has the format.

Every problem of the file is collected before anything is raised, each with file and line.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratematch.errors import CatalogError, ClusterError
from ratematch.inputs.catalog import known_gpus, load_gpu
from ratematch.inputs.localgpus import find_gpus
from ratematch.inputs.nodegroups import lay_over
from ratematch.plan.cluster import (
    Cluster,
    Container,
    GpuStyle,
    Packing,
    Slurm,
    StageWeights,
    Starts,
    StepTasks,
    TimeLimit,
    Unpack,
)
from ratematch.plan.located import Located, read_located
from ratematch.plan.model import Gpu
from ratematch.plan.numbers import MOST_GPUS, MOST_MINUTES
from ratematch.plan.printable import refuse_unprintable
from ratematch.plan.secret import Secrets, refuse_secret_words, take_secrets

GRACE = ("gb200", "gb300")
AUTO = "auto"
NUMACTL = ("-m", "0,1")
"""Grace shows the memory of its GPUs as NUMA nodes too; host memory belongs on the first two (section 7.4)."""

OWN_SBATCH = (
    *("nodes", "ntasks", "ntasks-per-node", "time", "exclusive", "mem", "requeue", "no-requeue", "exclude"),
    *("partition", "account", "qos", "reservation", "segment", "gres", "gpus-per-node", "job-name"),
    *("output", "error", "signal", "open-mode", "array", "wrap", "test-only"),
)
OWN_SRUN = (
    *("overlap", "mem", "nodes", "ntasks", "ntasks-per-node", "nodelist", "job-name", "kill-on-bad-exit", "mpi"),
    *("label", "export", "container-image", "container-mounts", "container-workdir", "chdir"),
)
"""Options that follow from the deployment or have a key of their own."""

Minutes = Annotated[float, Field(gt=0, le=MOST_MINUTES)]
Whole = Annotated[int, Field(gt=0, le=MOST_GPUS)]
Word = Annotated[str, Field(min_length=1, pattern=r"^\S+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Time(_Part):
    factor: Annotated[float, Field(gt=0, le=1000)] = 2.0
    floor_minutes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = 10.0
    max_minutes: Annotated[float, Field(ge=1, le=MOST_MINUTES)] | None = None


class _Slurm(_Part):
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    reservation: Word | None = None
    time: _Time = _Time()
    segment: Whole | None = None
    gpus: GpuStyle = "gpus-per-node"
    gres: Word = "gpu"
    exclusive: bool = True
    mpi: Word | None = None
    tasks: StepTasks = "gpu"
    exclude: list[Word] = []
    senders: Whole = 8
    sbatch: list[str] = []
    srun: list[str] = []
    prologue: str | None = None


class _Container(_Part):
    image: Word
    mounts: list[Word] = []
    mount_home: bool = False
    unpack: Unpack = "job"


class _StageWeights(_Part):
    path: Word
    limit_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    keep: bool = False


class _Cluster(_Part):
    name: str
    about: str = ""
    gpu: str
    gpus_per_node: Whole | Literal["auto"]
    nodes: Whole
    emulated: bool = False
    command: Annotated[list[str], Field(min_length=1)] | None = None
    launcher: list[str] | None = None
    numactl: str | None = None
    port_base: Annotated[int, Field(gt=0, lt=65000)] | None = None
    environment: dict[str, str] = {}
    model_paths: dict[str, str] = {}
    release_paths: dict[str, str] = {}
    start_minutes: Minutes = 20.0
    load_minutes: Minutes = 5.0
    ready_minutes: Minutes | None = None
    stall_minutes: Minutes | None = 10.0
    slurm: _Slurm = _Slurm()
    container: _Container | None = None
    check_paths: bool = True
    packing: Packing = "whole-nodes"
    starts: Starts = "auto"
    caches: str | None = None
    load_cores: Annotated[int, Field(ge=0, le=MOST_GPUS)] | None = None
    stage_weights: _StageWeights | None = None
    prepare_minutes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] | None = None


VALID_KEYS = {
    "": tuple(_Cluster.model_fields),
    "slurm": tuple(_Slurm.model_fields),
    "slurm.time": tuple(_Time.model_fields),
    "container": tuple(_Container.model_fields),
    "stage_weights": tuple(_StageWeights.model_fields),
}


def cluster_schema() -> dict[str, Any]:
    """JSON schema of a cluster profile."""
    schema = _Cluster.model_json_schema()
    schema["properties"]["stage_weights"]["anyOf"].insert(0, {"minLength": 1, "type": "string"})
    return schema


def parse_cluster(text: str, source: str, folder: Path | None = None, group: str | None = None) -> Cluster:
    """The profile that ``text`` describes. ``folder``: where the file lies, for the path of its prologue. ``group``:
    of its nodes, where it has several (:mod:`ratematch.inputs.nodegroups`).

    Raises:
        ClusterError: with every problem of the profile, each with ``source`` and line.
    """
    located, given, secrets = _read_profile(text, source, group)
    gpu, gpus_per_node = _gpus(located, given, folder or Path())
    _check_options(located, given.slurm)
    _check_container(located, given)
    _check_caches(located, given)
    _check_stage(located, given)
    prologue = _find_prologue(located, given.slurm.prologue, folder)
    numactl = _numactl(located, given, gpu.name if gpu else "")
    for name in given.environment:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            located.add(("environment", name), f"{name!r} is no name of a variable")
    if located.problems or gpu is None:
        raise ClusterError(located.problems)
    return Cluster(
        name=given.name,
        about=given.about.strip(),
        gpu=gpu.name,
        gpu_file=gpu.file or None,
        gpus_per_node=gpus_per_node,
        nodes=given.nodes,
        emulated=given.emulated,
        command=tuple(given.command or ()),
        launcher=None if given.launcher is None else tuple(given.launcher),
        numactl=numactl,
        port_base=given.port_base,
        environment=given.environment,
        model_paths=given.model_paths,
        release_paths=given.release_paths,
        start_minutes=given.start_minutes,
        load_minutes=given.load_minutes,
        ready_minutes=given.ready_minutes,
        stall_minutes=given.stall_minutes,
        slurm=_slurm(given, prologue),
        container=None if given.container is None else Container(**_tupled(given.container)),
        check_paths=given.check_paths,
        packing=given.packing,
        starts=given.starts,
        caches=given.caches,
        load_cores=given.load_cores,
        stage_weights=None if given.stage_weights is None else StageWeights(**given.stage_weights.model_dump()),
        prepare_minutes=given.prepare_minutes,
        slurm_given="slurm" in given.model_fields_set,
        secrets=secrets,
    )


def _read_profile(text: str, source: str, group: str | None) -> tuple[Located, _Cluster, Secrets]:
    """The keys of a profile, and the secrets that were taken out of it.

    Raises:
        ClusterError: it is no map of keys, holds what can be shown nowhere, or has unknown keys or wrong values.
    """
    located = read_located(text, source)
    if located.problems:
        raise ClusterError(located.problems)
    if not isinstance(located.data, dict):
        located.add((), "a cluster profile is a map of keys", f"valid keys: {', '.join(VALID_KEYS[''])}")
        raise ClusterError(located.problems)
    lay_over(located, group)
    if located.problems:
        raise ClusterError(located.problems)
    secrets = take_secrets(located, [("environment",)])
    refuse_secret_words(located, [("command",), ("launcher",), ("slurm", "sbatch"), ("slurm", "srun")])
    if refuse_unprintable(located):
        raise ClusterError(located.problems)
    if isinstance(folder_alone := located.data.get("stage_weights"), str):
        located.data["stage_weights"] = {"path": folder_alone}
    try:
        given = _Cluster.model_validate(located.data)
    except ValidationError as error:
        located.add_validation(error, VALID_KEYS)
        raise ClusterError(located.problems) from error
    return located, given, secrets


def _gpus(located: Located, given: _Cluster, folder: Path) -> tuple[Gpu | None, int]:
    """Kind and number of a node's GPUs: as written (a file's path from here or from ``folder``), or for ``auto``
    those of this machine."""
    gpu, count = given.gpu, given.gpus_per_node
    try:
        if AUTO in (gpu, count):
            if given.nodes != 1:
                located.add(("nodes",), "auto looks at this machine, which is one node", "write nodes: 1")
            here = find_gpus({name: gpu.memory_b for name, gpu in known_gpus().items()})
            gpu, count = here.name if gpu == AUTO else gpu, here.count if count == AUTO else count
        return load_gpu(gpu, folder), int(count)
    except CatalogError as error:
        located.add(("gpu",), str(error))
        return None, 1


def _slurm(given: _Cluster, prologue: str | None) -> Slurm:
    fields = _tupled(given.slurm) | {"time": TimeLimit(**given.slurm.time.model_dump()), "prologue": prologue}
    written = given.slurm.model_fields_set
    # The emulator has no ranks and knows no MPI.
    if "mpi" not in written:
        fields["mpi"] = None if given.emulated else "pmix"
    if "tasks" not in written:
        fields["tasks"] = "node" if given.emulated else "gpu"
    return Slurm(**fields)


def _tupled(part: BaseModel) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in part.model_dump().items()}


def _check_options(located: Located, slurm: _Slurm) -> None:
    for key, words, own in (("sbatch", slurm.sbatch, OWN_SBATCH), ("srun", slurm.srun, OWN_SRUN)):
        for index, word in enumerate(words):
            path = ("slurm", key, index)
            name = word.removeprefix("--").partition("=")[0]
            if not re.fullmatch(r"--[a-z][a-z0-9-]*(=.*)?", word, re.DOTALL):
                located.add(path, f"{word!r} is no long option", "write --name=value or --name")
            elif name in own:
                where = name if name in _Slurm.model_fields else {"time": "slurm.time"}.get(name)
                fix = f"use slurm.{where}" if where in _Slurm.model_fields else "it follows from the deployment"
                located.add(path, f"--{name} is set by ratematch", fix)


def _check_container(located: Located, given: _Cluster) -> None:
    if given.container is None:
        return
    if given.emulated and not given.command:
        fix = "set command to what starts the emulator in the image; without a container it runs on the nodes"
        located.add(("container",), "an emulated cluster has none by itself", fix)
    ranks = "tasks" in given.slurm.model_fields_set and given.slurm.tasks == "gpu"
    if given.emulated and given.command and ranks and given.launcher is None:
        located.add(("launcher",), "the emulator's own launcher is not in the image", "name the one that is there")
    for index, mount in enumerate(given.container.mounts):
        if not re.fullmatch(r"/[^:,]*:/[^:,]*(:[\w+]+)?", mount):
            path = ("container", "mounts", index)
            located.add(path, f"{mount!r} is no mount", "write /on/the/host:/in/the/container")


def _check_caches(located: Located, given: _Cluster) -> None:
    """What servers compile must outlive them: in a container only what is mounted does."""
    if given.caches is None:
        return
    if not re.fullmatch(r"/[^:,]+", given.caches):
        located.add(("caches",), f"{given.caches!r} is no folder", "write its path from /")
    elif given.container is not None:
        inside = [mount.split(":")[1].rstrip("/") for mount in given.container.mounts if mount.count(":")]
        if not any(f"{given.caches}/".startswith(f"{target}/") for target in inside):
            fix = "add one for it to container.mounts"
            located.add(("caches",), f"{given.caches} is below no mount of the container, and would go with it", fix)


def _check_stage(located: Located, given: _Cluster) -> None:
    """Copies are made on the host; in a container their folder is mounted at its own path."""
    if given.stage_weights is None:
        return
    path = given.stage_weights.path
    parts = path.split("/")
    if not re.fullmatch(r"/[^:,]+", path) or not set(parts[1:]).isdisjoint({".", ".."}) or not any(parts):
        where = ("stage_weights", "path")
        located.add(where, f"{path!r} is no folder of a node's own disk", "write its path from /, without : and ,")


def _find_prologue(located: Located, given: str | None, folder: Path | None) -> str | None:
    if given is None:
        return None
    path = (folder or Path()) / given
    if not path.is_file():
        located.add(("slurm", "prologue"), f"there is no script {path}", "a path from the profile's own folder")
    return str(path.absolute())


def _numactl(located: Located, given: _Cluster, gpu: str) -> tuple[str, ...]:
    if given.numactl is None:
        return NUMACTL if gpu in GRACE and not given.emulated else ()
    try:
        return tuple(shlex.split(given.numactl))
    except ValueError as error:
        located.add(("numactl",), f"cannot be read as options: {error}")
        return ()
