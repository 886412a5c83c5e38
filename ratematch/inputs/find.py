"""Finds and reads what a person names: sweep files and cluster profiles."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import replace
from pathlib import Path

from ratematch.engines import ENGINES
from ratematch.engines.steptimes import read_step_model
from ratematch.errors import CatalogError, ClusterError, Problem, UserError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.clusterfile import parse_cluster
from ratematch.inputs.nodegroups import split_name
from ratematch.inputs.textfile import is_file, read_text_file
from ratematch.plan.cluster import Cluster
from ratematch.plan.located import read_located
from ratematch.plan.numbers import brief, shorten
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep
from ratematch.plan.yamltext import MOST_BYTES

CLUSTERS = Path("slurm") / "clusters"
SHIPPED = Path(__file__).parents[1] / "data"
"""What an installed package has of a clone's ``sweeps`` and ``slurm/clusters``."""

OWN_CLUSTERS, OWN_SWEEPS = SHIPPED / "clusters", SHIPPED / "sweeps"
CLUSTERS_VARIABLE = "RATEMATCH_CLUSTERS"
SWEEPS = Path("sweeps")


def find_sweep_file(name: str) -> Path:
    """The sweep file a person means: as given, in ``sweeps/``, or one that comes with ratematch. ``.yaml`` may be
    left out.

    Raises:
        CatalogError: there is none; the message lists the sweeps that are there.
    """
    for folder in (Path(), SWEEPS, OWN_SWEEPS):
        for path in (folder / name, folder / f"{name}.yaml"):
            if is_file(path):
                return path
    _refuse_other(Path(name))
    here = ", ".join(sorted(path.name for path in SWEEPS.glob("*.yaml"))) or "none"
    shipped = ", ".join(sorted(path.name for path in OWN_SWEEPS.glob("*.yaml")))
    raise CatalogError(
        f"{shorten(name)}: no such sweep file here or in sweeps/; sweeps/ holds: {here}; "
        f"with ratematch come: {shipped}"
    )


def read_sweep(name: str, overrides: tuple[str, ...] = (), cluster: str | None = None) -> tuple[Sweep, str]:
    """The sweep called ``name`` with ``overrides`` (``key.path=value``) laid over it, and the file's text.

    ``cluster``: profile that replaces the one which the file names.

    Raises:
        CatalogError: no such file. SweepError: with every problem of it. UserError: the environment asks for a
            step-time model of the emulator that is not there.
    """
    path = find_sweep_file(name)
    text = read_text_file(path, MOST_BYTES)
    if cluster is not None:
        overrides = (*overrides, f"cluster={json.dumps(cluster, ensure_ascii=False)}")
    sweep = parse_sweep(
        text,
        path.name,
        find_model=lambda model: load_model(model, path.parent),
        find_gpu=load_gpu,
        engines=ENGINES,
        find_cluster=lambda profile: read_cluster(profile, beside=path.parent),
        overrides=overrides,
    )
    try:
        return replace(sweep, step_times=read_step_model({**os.environ, **sweep.cluster.environment})), text
    except ValueError as error:
        raise UserError(str(error)) from None


def read_cluster(name: str, beside: Path = Path()) -> Cluster:
    """The cluster profile ``name``: the path of a file, or a name searched for in :func:`cluster_folders`, as a
    file's name or as what its ``name`` says; with ``:GROUP`` behind it that group of its nodes.

    ``beside``: folder of the sweep that names it.

    Raises:
        ClusterError: no such profile, or every problem of it.
    """
    try:
        path, group = find_cluster_file(name, beside), None
    except ClusterError as error:
        profile, group = split_name(name)
        if group is None:
            raise
        try:
            path = find_cluster_file(profile, beside)
        except ClusterError:
            raise error from None
    return parse_cluster(read_text_file(path, MOST_BYTES), path.name, path.parent, group)


def find_cluster_file(name: str, beside: Path = Path()) -> Path:
    """The file of the cluster profile that :func:`read_cluster` reads.

    Raises:
        ClusterError: no such profile; the message lists the known ones.
    """
    file = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    folders = cluster_folders(beside)
    for path in (Path(name), Path(file), beside / file, *(folder / file for folder in folders)):
        if is_file(path):
            return path
    _refuse_other(Path(name))
    profiles = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    for path in profiles:
        if _name_inside(path) == name:
            return path
    known = sorted({path.stem for path in profiles})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    searched = ", ".join(str(folder) for folder in folders)
    raise ClusterError(
        [
            Problem(
                shorten(name),
                f"there is no cluster profile {brief(name)}{hint}",
                f"known in {searched}: {', '.join(known) or 'none'}; or give the path of a file",
            )
        ]
    )


def _refuse_other(path: Path) -> None:
    """Says of a folder, a pipe or a device that it is none, rather than that nothing of that name is there.

    Raises:
        UserError: there is such a thing at ``path``.
    """
    try:
        other = path.exists() and len(path.parts) > 1
    except (OSError, ValueError):
        return
    if other:
        read_text_file(path, 0)


def _name_inside(path: Path) -> str | None:
    """What the profile's ``name`` says, ``None`` where that cannot be read."""
    try:
        data = read_located(read_text_file(path, MOST_BYTES), path.name).data
    except UserError:
        return None
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) else None


def cluster_folders(beside: Path = Path()) -> list[Path]:
    """Where profiles are looked for, first wins: ``$RATEMATCH_CLUSTERS`` (folders, as in PATH), ``slurm/clusters``
    here, the same beside the folder of the sweep, the user's ``~/.config/ratematch/clusters``, and those that come
    with ratematch."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = [Path(folder) for folder in os.environ.get(CLUSTERS_VARIABLE, "").split(os.pathsep) if folder]
    candidates = [*named, CLUSTERS, beside.parent / CLUSTERS, config / "ratematch" / "clusters", OWN_CLUSTERS]
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()] or [CLUSTERS]
