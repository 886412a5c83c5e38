"""Finds and reads models and GPU types: those that ship with the package, and GPU files that people write."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ratematch.errors import CatalogError, UserError
from ratematch.inputs.gpufile import parse_gpu
from ratematch.inputs.textfile import is_file, read_text_file
from ratematch.plan.model import Gpu, Mla, Model, Moe
from ratematch.plan.numbers import brief, shorten
from ratematch.plan.yamltext import MOST_BYTES

GPUS = Path("gpus")
GPUS_VARIABLE = "RATEMATCH_GPUS"
SUFFIXES = (".yaml", ".yml")


# ------------------------------------------------------------------------------------------------ models


def model_names() -> list[str]:
    """Canonical names of the models that ship with the package, sorted."""
    return sorted(_models())


def load_model(name: str) -> Model:
    """The model called ``name``: a canonical name or an alias, in any case, with or without ``org/`` before it.

    Raises:
        CatalogError: no such model; the message lists the known ones.
    """
    wanted = name.rsplit("/", 1)[-1].strip().lower()
    entries = _models()
    for entry in entries.values():
        if wanted == entry["name"] or wanted in entry.get("aliases", ()):
            content = dict(entry)
            break
    else:
        spellings = {alias: key for key, entry in entries.items() for alias in (key, *entry.get("aliases", ()))}
        raise CatalogError(
            f"model {brief(name)} is not known{_hint(wanted, spellings)}; known: {', '.join(sorted(entries))}"
        )
    if moe := content.get("moe"):
        content["moe"] = Moe(**moe)
    if mla := content.get("mla"):
        content["mla"] = Mla(**mla)
    for key in ("mtp_acceptance", "aliases"):
        content[key] = tuple(content.get(key, ()))
    return Model(**content)


def _hint(wanted: str, spellings: dict[str, str]) -> str:
    close = difflib.get_close_matches(wanted, list(spellings), n=1)
    return f"; did you mean {spellings[close[0]]}?" if close else ""


@cache
def _models() -> dict[str, dict[str, Any]]:
    contents = [yaml.safe_load(text) for _, text in _shipped("models")]
    return {content["name"]: content for content in contents}


def _shipped(folder: str) -> list[tuple[str, str]]:
    files = resources.files("ratematch").joinpath("data", folder)
    return [(file.name, file.read_text(encoding="utf-8")) for file in files.iterdir() if file.name.endswith(".yaml")]


# ------------------------------------------------------------------------------------------------ GPUs


def gpu_names() -> list[str]:
    """Canonical names of the GPU types that ship with the package, sorted."""
    return sorted(_shipped_gpus())


def known_gpus() -> dict[str, Gpu]:
    """Every GPU type by its name: of the user's folders (:func:`gpu_folders`), then those that ship with the package.
    Files that cannot be read are left out; :func:`load_gpu` says what is wrong with one that is named."""
    return {**_shipped_gpus(), **_read_own()[0]}


def load_gpu(name: str, beside: Path = Path()) -> Gpu:
    """The GPU type called ``name``: the path of a file (from here, or from ``beside``), else a file's name, its
    ``name`` or an alias of it, in any case, in the folders of :func:`gpu_folders` and then in the package.

    Raises:
        CatalogError: no such GPU type, with the known ones and how to add one; or every problem of its file.
    """
    written = name.strip()
    if "/" in written or written.endswith(SUFFIXES):
        for path in (Path(written).expanduser(), beside / written):
            if is_file(path):
                return read_gpu(path)
    wanted = written.rsplit("/", 1)[-1].lower()
    stem = wanted.removesuffix(".yaml").removesuffix(".yml")
    for path in _own_files():
        if path.stem.lower() == stem:
            return read_gpu(path)
    known = known_gpus()
    for gpu in known.values():
        if wanted in (gpu.name, *gpu.aliases):
            return gpu
    spellings = {alias: key for key, gpu in known.items() for alias in (key, *gpu.aliases)}
    file = re.sub(r"[^\w.-]+", "-", stem)[:64].strip(".-") or "name"
    if written.endswith(SUFFIXES):
        what = f"there is no GPU file {shorten(written)}"
    else:
        what = f"GPU {brief(name)} is not known{_hint(wanted, spellings)}"
    for fault in _read_own()[1]:
        what += f"; left out: {fault}"
    raise CatalogError(
        f"{what}; known: {', '.join(sorted(known))}; another one is a file: copy its keys from slurm/README.md into "
        f"{GPUS}/{file}.yaml, or write the path of one"
    )


def gpu_folders() -> list[Path]:
    """Where GPU files of people are looked for, first wins: ``gpus`` here, ``$RATEMATCH_GPUS`` (folders, as in PATH)
    and the user's ``~/.config/ratematch/gpus``."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = [Path(folder) for folder in os.environ.get(GPUS_VARIABLE, "").split(os.pathsep) if folder]
    return [folder for folder in dict.fromkeys([GPUS, *named, config / "ratematch" / "gpus"]) if folder.is_dir()]


def read_gpu(path: Path) -> Gpu:
    """The GPU type of a file, which knows where it came from.

    Raises:
        CatalogError: it cannot be read, or every problem of it.
    """
    try:
        text = read_text_file(path, MOST_BYTES)
    except UserError as error:
        raise CatalogError(str(error)) from None
    return parse_gpu(text, str(path), str(path.absolute()))


def _read_own() -> tuple[dict[str, Gpu], list[str]]:
    """GPU types of people's files by name, the first of a name; and why other files could not be read."""
    gpus: dict[str, Gpu] = {}
    faults: list[str] = []
    for path in _own_files():
        try:
            gpu = read_gpu(path)
        except CatalogError as error:
            faults.append(str(error))
        else:
            gpus.setdefault(gpu.name, gpu)
    return gpus, faults


def _own_files() -> Iterator[Path]:
    for folder in gpu_folders():
        yield from sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


@cache
def _shipped_gpus() -> dict[str, Gpu]:
    gpus = [parse_gpu(text, name) for name, text in _shipped("gpus")]
    return {gpu.name: gpu for gpu in gpus}
