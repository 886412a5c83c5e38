"""Finds and reads what a person names: sweep files and cluster profiles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratematch.catalog import load_gpu, load_model
from ratematch.engines import ENGINE_VERSIONS
from ratematch.errors import CatalogError, ClusterError, Problem
from ratematch.plan.cluster import Cluster
from ratematch.plan.located import read_located
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep

CLUSTERS = Path("slurm") / "clusters"
SWEEPS = Path("sweeps")


class _Cluster(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    about: str = ""
    gpu: str
    gpus_per_node: Annotated[int, Field(gt=0)]
    nodes: Annotated[int, Field(gt=0)]
    emulated: bool = False
    command: list[str] | None = None
    port_base: Annotated[int, Field(gt=0, lt=65000)] | None = None
    environment: dict[str, str] = {}
    model_paths: dict[str, str] = {}
    start_minutes: Annotated[float, Field(gt=0)] = 20.0
    load_minutes: Annotated[float, Field(gt=0)] = 5.0
    ready_minutes: Annotated[float, Field(gt=0)] | None = None
    stall_minutes: Annotated[float, Field(gt=0)] | None = 10.0


def find_sweep_file(name: str) -> Path:
    """The sweep file a person means: as given, else in ``sweeps/``, with or without ``.yaml``.

    Raises:
        CatalogError: there is none; the message lists the sweeps that are there.
    """
    tried = [Path(name), Path(f"{name}.yaml"), SWEEPS / name, SWEEPS / f"{name}.yaml"]
    for path in tried:
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in SWEEPS.glob("*.yaml"))) or "none"
    raise CatalogError(f"{name}: no such sweep file here or in sweeps/; sweeps/ holds: {known}")


def read_sweep(name: str, overrides: tuple[str, ...] = ()) -> tuple[Sweep, str]:
    """The sweep called ``name`` with ``overrides`` (``key.path=value``) laid over it, and the file's text.

    Raises:
        CatalogError: no such file. SweepError: with every problem of it.
    """
    path = find_sweep_file(name)
    text = path.read_text(encoding="utf-8")
    sweep = parse_sweep(
        text,
        path.name,
        find_model=load_model,
        find_gpu=load_gpu,
        engines=ENGINE_VERSIONS,
        find_cluster=lambda cluster: read_cluster(cluster, beside=path.parent),
        overrides=overrides,
    )
    return sweep, text


def read_cluster(name: str, beside: Path = Path()) -> Cluster:
    """The cluster profile ``name``: a path, or a name below ``slurm/clusters/`` here or beside the sweep's folder.

    Raises:
        ClusterError: no such profile, or every problem of it.
    """
    file = f"{name}.yaml" if not name.endswith((".yaml", ".yml")) else name
    tried = [Path(file), beside / file, CLUSTERS / file, beside.parent / CLUSTERS / file]
    for path in tried:
        if path.is_file():
            return parse_cluster(path.read_text(encoding="utf-8"), path.name)
    folders = [folder for folder in (CLUSTERS, beside.parent / CLUSTERS) if folder.is_dir()]
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ClusterError(
        [
            Problem(
                name,
                f"there is no cluster profile {name!r}",
                f"known in {CLUSTERS}/: {', '.join(known) or 'none'}; or give the path of a file",
            )
        ]
    )


def parse_cluster(text: str, source: str) -> Cluster:
    """Raises ClusterError with every problem of the profile, each with file and line."""
    located = read_located(text, source)
    if located.problems:
        raise ClusterError(located.problems)
    try:
        given = _Cluster.model_validate(located.data)
    except ValidationError as error:
        located.add_validation(error, {"": tuple(_Cluster.model_fields)})
        raise ClusterError(located.problems) from error
    try:
        gpu = load_gpu(given.gpu).name
    except CatalogError as error:
        located.add(("gpu",), str(error))
        raise ClusterError(located.problems) from error
    return Cluster(
        name=given.name,
        about=given.about.strip(),
        gpu=gpu,
        gpus_per_node=given.gpus_per_node,
        nodes=given.nodes,
        emulated=given.emulated,
        command=tuple(given.command or _default_command(given.emulated)),
        port_base=given.port_base,
        environment=given.environment,
        model_paths=given.model_paths,
        start_minutes=given.start_minutes,
        load_minutes=given.load_minutes,
        ready_minutes=given.ready_minutes,
        stall_minutes=given.stall_minutes,
    )


def _default_command(emulated: bool) -> tuple[str, ...]:
    return (sys.executable, "-m", "ratematch.emulator") if emulated else ("trtllm-serve",)
