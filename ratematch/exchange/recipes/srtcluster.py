"""``srtslurm.yaml`` of srt-slurm -> a cluster profile; whatever has no counterpart is listed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ratematch.errors import CatalogError, ClusterError, Problem, RecipeError
from ratematch.exchange.recipes.choices import find_model_name
from ratematch.exchange.recipes.reader import Reader, Unsupported
from ratematch.exchange.recipes.sweeptext import sweep_name
from ratematch.inputs.catalog import gpu_names, load_gpu
from ratematch.inputs.clusterfile import OWN_SBATCH, parse_cluster
from ratematch.plan.located import Located, read_located
from ratematch.plan.precision import split_precision
from ratematch.plan.printable import refuse_unprintable
from ratematch.slurm.survey import read_minutes

NVL72 = ("gb200", "gb300")
RACK = 18
"""Trays of an NVL72 rack, which is one NVLink domain."""

REASONS = {
    "srtctl_root": "where srt-slurm itself lies",
    "output_dir": "`ratematch sweep -o` says where results go",
    "network_interface": "servers are reached by the names of their nodes",
    "cloud": "ratematch uploads nothing",
    "reporting": "ratematch reports to no service",
    "use_het_jobs": "a job here is one allocation",
    "default_gpu_exporter": "ratematch starts no exporter",
    "visible_devices_env": "CUDA_VISIBLE_DEVICES is what TensorRT-LLM reads",
    "accelerator_vendor": "TensorRT-LLM runs on NVIDIA GPUs",
}

SITE_KEYS = ("qos", "reservation", "partition", "account")


OLDER_KEYS = {
    "name": "cluster",
    "account": "default_account",
    "partition": "default_partition",
    "time_limit": "default_time_limit",
    "container_image": "default_container",
    "container": "default_container",
    "gpu_type": "default_gpu_type",
}
"""Keys below ``cluster`` in the oldest srtslurm.yaml, by what they are called since; others kept their names."""


@dataclass(frozen=True)
class ImportedCluster:
    """The text of one profile, what a reader should know, and what has no counterpart."""

    name: str
    text: str
    notes: tuple[str, ...]
    unsupported: tuple[Unsupported, ...]

    def messages(self) -> list[str]:
        return [
            *(f"note: {note}" for note in self.notes),
            *(f"no counterpart: {part}" for part in self.unsupported),
        ]


@dataclass(frozen=True)
class SiteChoices:
    """What the file does not say: ``gpu`` and ``nodes`` a deployment may use; ``container``: alias or path of the
    image; ``name`` of the profile. ``None`` leaves it to the file."""

    gpu: str | None = None
    nodes: int | None = None
    container: str | None = None
    name: str | None = None


def import_cluster(path: Path, choices: SiteChoices) -> ImportedCluster:
    """The profile that says the same as the ``srtslurm.yaml`` at ``path``.

    Raises:
        RecipeError: with every problem of the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError([Problem(str(path), f"cannot be read: {reason}")]) from error
    located = read_located(text, str(path))
    if not located.problems and not isinstance(located.data, dict):
        located.add((), "is no map of keys", "give an srtslurm.yaml")
    refuse_unprintable(located)
    if located.problems:
        raise RecipeError(located.problems)
    notes = _lift_older_keys(located)
    if located.problems:
        raise RecipeError(located.problems)
    reader = Reader(located)
    profile = _profile(reader, choices, notes)
    unsupported = reader.unsupported(REASONS)
    if located.problems:
        raise RecipeError(located.problems)
    for part in unsupported:
        if isinstance(part.value, str) and "$" in part.value:
            notes.append(f"{part.where} is filled in by srt-slurm's launcher: write the value into the profile")
    written = _text(profile, path)
    try:
        parse_cluster(written, f"{profile['name']}.yaml")
    except ClusterError as error:
        raise RecipeError(error.problems) from error
    return ImportedCluster(str(profile["name"]), written, tuple(notes), unsupported)


def _lift_older_keys(located: Located) -> list[str]:
    """The oldest form, with everything of the cluster below ``cluster``, becomes the newer flat one; its lines stay.
    Returns what a reader should know."""
    older = located.data.get("cluster")
    if not isinstance(older, dict):
        return []
    lines = dict(located.lines)
    del located.data["cluster"]
    for key, value in older.items():
        name = OLDER_KEYS.get(str(key), str(key))
        if name in located.data:
            located.add(("cluster", key), f"means {name}, which is given too", "keep one of them")
            continue
        located.data[name] = value
        depth = ("cluster", key)
        for place in [place for place in lines if place[: len(depth)] == depth]:
            located.lines[(name, *place[len(depth) :])] = lines[place]
    return ["the file is of srt-slurm's oldest form: what stands below cluster was taken as the keys of today"]


def _profile(reader: Reader, choices: SiteChoices, notes: list[str]) -> dict[str, Any]:
    given, gpu = _gpu(reader, choices)
    per_node = reader.take_count("gpus_per_node")
    if per_node is None:
        per_node = 4 if gpu in NVL72 else 8
        notes.append(f"gpus_per_node is not in the file: {per_node} is assumed for {gpu}")
    nodes = choices.nodes
    if nodes is None:
        nodes = RACK if gpu in NVL72 else 8
        notes.append(f"how many nodes a deployment may use is not in the file: {nodes} is assumed; --nodes says it")
    slurm = _slurm(reader, gpu, nodes, notes)
    name = choices.name or _filled(reader, "cluster") or "imported"
    profile: dict[str, Any] = {
        "name": sweep_name(name),
        "gpu": given,
        "gpus_per_node": per_node,
        "nodes": nodes,
        "model_paths": _models(reader, notes),
        "check_paths": reader.take("preflight"),
        "ready_minutes": _ready_minutes(reader),
        "slurm": slurm,
        "container": _container(reader, choices, notes),
    }
    return {key: value for key, value in profile.items() if value not in (None, {}, [])}


def _gpu(reader: Reader, choices: SiteChoices) -> tuple[str, str]:
    """What a profile names the GPU type by, a file of one's own by its path, and its name."""
    given = choices.gpu or _filled(reader, "default_gpu_type")
    if given is None:
        known = ", ".join(gpu_names())
        reader.located.add((), "names no GPU type", f"give --gpu, one of {known}")
        return gpu_names()[0], gpu_names()[0]
    try:
        gpu = load_gpu(given)
        return gpu.file or gpu.name, gpu.name
    except CatalogError as error:
        where = "--gpu" if choices.gpu else reader.located.where(("default_gpu_type",))
        reader.located.problems.append(Problem(where, str(error)))
        return gpu_names()[0], gpu_names()[0]


def _filled(reader: Reader, *path: str) -> str | None:
    """The text at ``path``, unless srt-slurm's launcher fills it in: then it is not taken."""
    value = reader.peek_text(*path)
    if value is not None and "$" in value:
        return None
    return reader.take_text(*path)


def _slurm(reader: Reader, gpu: str, nodes: int, notes: list[str]) -> dict[str, Any]:
    slurm: dict[str, Any] = {
        "partition": _filled(reader, "default_partition"),
        "account": _filled(reader, "default_account"),
    }
    limit = _filled(reader, "default_time_limit")
    if limit is not None and (minutes := read_minutes(limit)) is not None:
        slurm["time"] = {"max_minutes": minutes}
        notes.append(
            f"default_time_limit {limit} becomes the most that a job asks for; the estimate decides below it"
        )
    elif limit is not None:
        reader.located.add(("default_time_limit",), f"{limit!r} is no time of Slurm", "write HH:MM:SS")
    if reader.take("use_segment_sbatch_directive", default=True):
        # srt-slurm asks for one segment with all nodes of the job.
        slurm["segment"] = RACK if gpu in NVL72 else nodes
    style = reader.take_text("gpu_sbatch_directive")
    per_node = reader.take("use_gpus_per_node_directive", default=True)
    slurm["gpus"] = "gres" if style == "gres" else "gpus-per-node" if per_node else "none"
    if not reader.take("use_exclusive_sbatch_directive", default=False):
        slurm["exclusive"] = False
        notes.append(
            "jobs ask for no exclusive nodes, as in the file: where nodes are shared, set slurm.exclusive: true"
        )
    _directives(reader, slurm)
    return {key: value for key, value in slurm.items() if value is not None}


def _directives(reader: Reader, slurm: dict[str, Any]) -> None:
    for key in reader.section("default_sbatch_directives"):
        path = ("default_sbatch_directives", key)
        value = reader.located.data["default_sbatch_directives"][key]
        if "$" in str(value):
            continue
        if key == "exclude":
            reader.take(*path)
            slurm["exclude"] = [str(node) for node in value] if isinstance(value, list) else str(value).split(",")
        elif key in SITE_KEYS:
            slurm[key] = reader.take_text(*path)
        elif key not in OWN_SBATCH:
            reader.take(*path)
            bare = value is True or value in ("", None)
            slurm.setdefault("sbatch", []).append(f"--{key}" if bare else f"--{key}={value}")


def _models(reader: Reader, notes: list[str]) -> dict[str, str]:
    """Paths by our names of the models: of the alias, else of the path's last part."""
    paths: dict[str, str] = {}
    for alias in reader.section("model_paths"):
        value = reader.peek_text("model_paths", alias)
        if value is None or "$" in value or "$" in alias:
            continue
        name = find_model_name(alias) or find_model_name(value)
        if name in paths and (precision := split_precision(alias)[1] or split_precision(value)[1]):
            name = f"{name}-{precision}"
        if name is None or name in paths:
            continue
        reader.take("model_paths", alias)
        paths[name] = value
        if name != alias:
            notes.append(f"model_paths: {alias} is {name} here")
    return paths


def _container(reader: Reader, choices: SiteChoices, notes: list[str]) -> dict[str, Any] | None:
    aliases = {
        alias: value
        for alias in reader.section("containers")
        if (value := reader.peek_text("containers", alias)) and "$" not in value
    }
    chosen = choices.container or next(
        (alias for alias in aliases if re.search(r"trt|tensorrt", alias.lower())), None
    )
    if chosen is None and len(aliases) == 1:
        chosen = next(iter(aliases))
    default = _filled(reader, "default_container")
    if chosen is None and default:
        notes.append(f"container {default} is taken over, the default of the file")
        chosen = default
    if chosen is None:
        if aliases:
            notes.append(f"no container is taken over: --container says which of {', '.join(aliases)} it is")
        return None
    if chosen in aliases:
        reader.take("containers", chosen)
        notes.append(f"container {chosen} is taken over")
    mounts = reader.section("default_mounts")
    container: dict[str, Any] = {"image": _image(aliases.get(chosen, chosen))}
    for host in mounts:
        inside = reader.peek_text("default_mounts", host)
        if inside is None or "$" in host or "$" in inside:
            continue
        reader.take("default_mounts", host)
        container.setdefault("mounts", []).append(f"{host}:{inside}")
    return container


def _image(value: str) -> str:
    """pyxis wants ``registry#image``; docker's spelling with a slash is srt-slurm's too."""
    registry, slash, rest = value.removeprefix("docker://").partition("/")
    if slash and "." in registry and "#" not in value and not value.startswith(("/", ".")):
        return f"{registry}#{rest}"
    return value.removeprefix("docker://")


def _ready_minutes(reader: Reader) -> float | None:
    attempts = reader.take_count("default_health_check", "max_attempts")
    seconds = reader.take_number("default_health_check", "interval_seconds")
    return None if attempts is None or seconds is None else round(attempts * seconds / 60, 1)


def _text(profile: Mapping[str, Any], path: Path) -> str:
    about = f"Imported from {path.name} of srt-slurm."
    body = yaml.safe_dump(
        {"name": profile["name"], "about": about, **{key: profile[key] for key in profile if key != "name"}},
        sort_keys=False,
        width=10**6,
    )
    return str(body)
