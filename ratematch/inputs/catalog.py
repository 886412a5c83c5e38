"""Finds and reads models and GPU types: those that ship with the package, checkpoints, and people's files."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

from ratematch.errors import CatalogError, UserError
from ratematch.inputs.acceptance import with_curves
from ratematch.inputs.checkpoint.read import is_checkpoint, read_checkpoint
from ratematch.inputs.gpufile import parse_gpu
from ratematch.inputs.textfile import is_file, read_text_file
from ratematch.plan.experiment import Experiment
from ratematch.plan.model import Gpu, Model
from ratematch.plan.modelfile import model_from_facts, parse_model
from ratematch.plan.numbers import brief, shorten
from ratematch.plan.precision import split_precision, with_precision
from ratematch.plan.yamltext import MOST_BYTES

GPUS = Path("gpus")
GPUS_VARIABLE = "RATEMATCH_GPUS"
MODELS = Path("models")
MODELS_VARIABLE = "RATEMATCH_MODELS"
SUFFIXES = (".yaml", ".yml")

Named = TypeVar("Named", Model, Gpu)


# ------------------------------------------------------------------------------------------------ models


def model_names() -> list[str]:
    """Canonical names of the models that ship with the package, sorted."""
    return sorted(_shipped_models())


def known_models() -> dict[str, Model]:
    """Every model by its name: of the user's folders (:func:`model_folders`), then those that ship with the package.
    Files that cannot be read are left out; :func:`load_model` says what is wrong with one that is named."""
    return {**_shipped_models(), **_read_own_models()[0]}


def load_model(name: str, beside: Path = Path()) -> Model:
    """The model called ``name``: the path of a checkpoint's folder, its ``config.json`` or a model file (from here,
    or from ``beside``), else the name of a file or folder, a ``name`` or an alias in the folders of
    :func:`model_folders` and then in the package, in any case, with or without ``org/`` before it. A precision at
    the end of a name (``-fp8``, ``-nvfp4``) is that of the weights.

    Raises:
        CatalogError: no such model, with the known ones and how to add one; or what is wrong with its files.
    """
    return with_curves(_load_model(name, beside))


def _load_model(name: str, beside: Path) -> Model:
    written = name.strip()
    for path in _paths(written, beside):
        if is_checkpoint(path):
            return read_checkpoint(path)
        if is_file(path):
            return read_model(path)
    wanted = written.rstrip("/").rsplit("/", 1)[-1].strip().lower()
    for path in _own_model_files():
        if wanted in (path.name.lower(), path.stem.lower()):
            return read_checkpoint(path) if is_checkpoint(path) else read_model(path)
    # Most processes need one model of ours and no other: the other files need not be read.
    if f"{wanted}.yaml" in _shipped("models") and next(_own_model_files(), None) is None:
        return _parse_shipped_model(f"{wanted}.yaml")
    known = known_models()
    if (found := find_model(wanted, known)) is not None:
        return found
    raise CatalogError(_no_model(name, wanted, known))


def find_model(wanted: str, known: dict[str, Model]) -> Model | None:
    """The one of ``known`` that goes by ``wanted``, with the precision that the name ends with."""
    base, precision = split_precision(wanted)
    for spelling in (wanted, base):
        for model in known.values():
            if spelling in (model.name, *model.aliases):
                return model if spelling == model.name == wanted else with_precision(model, precision)
    return None


def model_of(experiment: Experiment) -> Model:
    """The model that an experiment measures, in its precision.

    Raises:
        CatalogError: its name is not known, or what is stored of it is not that of a model.
    """
    if experiment.facts is None:
        model = load_model(experiment.model)
    else:
        try:
            model = model_from_facts(experiment.facts)
        except ValueError as error:
            raise CatalogError(f"{experiment.model}: facts: are not those of a model: {error}") from None
    return with_precision(model, experiment.workload.precision)


def _paths(written: str, beside: Path) -> list[Path]:
    """Where the file or folder may lie that somebody wrote as a path; none where it is a name."""
    if "/" not in written and not written.endswith((*SUFFIXES, ".json")):
        return []
    try:
        return [Path(written).expanduser(), beside / written]
    except RuntimeError:  # ~nobody
        return []


def _no_model(name: str, wanted: str, known: dict[str, Model]) -> str:
    spellings = {alias: key for key, model in known.items() for alias in (key, *model.aliases)}
    if name.startswith(("/", "./", "../", "~")):
        what = f"there is no checkpoint or model file at {shorten(name)}, and its last part is no name that is known"
    elif is_file(Path(name) / "config.json") or is_file(Path(name)):
        what = f"model {brief(name)} is not known; the one that lies here is ./{shorten(name)}"
    else:
        what = f"model {brief(name)} is not known{_hint(wanted, spellings)}"
    for fault in _read_own_models()[1]:
        what += f"; left out: {fault}"
    return (
        f"{what}; known: {', '.join(sorted(known))}; another one: model: PATH of a folder with its config.json, or "
        f"its keys in {MODELS}/NAME.yaml (docs/models.md)"
    )


def _hint(wanted: str, spellings: dict[str, str]) -> str:
    close = difflib.get_close_matches(wanted, list(spellings), n=1)
    return f"; did you mean {spellings[close[0]]}?" if close else ""


def model_folders() -> list[Path]:
    """Where models of people are looked for, first wins: ``models`` here, ``$RATEMATCH_MODELS`` (folders, as in PATH)
    and the user's ``~/.config/ratematch/models``. They hold model files, and folders with a ``config.json``."""
    return _folders(MODELS, MODELS_VARIABLE)


def read_model(path: Path) -> Model:
    """The model of a model file.

    Raises:
        CatalogError: it cannot be read, or every problem of it.
    """
    return parse_model(_text_of(path), str(path), str(path.absolute()))


def _read_own_models() -> tuple[dict[str, Model], list[str]]:
    """Models of people's files by name, the first of a name; and why other files could not be read."""
    return _read_each(
        _own_model_files(), lambda path: read_checkpoint(path) if is_checkpoint(path) else read_model(path)
    )


def _own_model_files() -> Iterator[Path]:
    for folder in model_folders():
        for path in sorted(folder.iterdir()):
            if is_checkpoint(path) or (path.suffix in SUFFIXES and path.is_file()):
                yield path


@cache
def _shipped_models() -> dict[str, Model]:
    models = [_parse_shipped_model(file) for file in _shipped("models")]
    return {model.name: model for model in models}


@cache
def _parse_shipped_model(file: str) -> Model:
    return parse_model(_shipped_text("models", file), file)


@cache
def _shipped(folder: str) -> tuple[str, ...]:
    """Names of the package's files of a kind."""
    files = resources.files("ratematch").joinpath("data", folder)
    return tuple(file.name for file in files.iterdir() if file.name.endswith(".yaml"))


def _shipped_text(folder: str, file: str) -> str:
    return resources.files("ratematch").joinpath("data", folder, file).read_text(encoding="utf-8")


def _folders(here: Path, variable: str) -> list[Path]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = [Path(folder) for folder in os.environ.get(variable, "").split(os.pathsep) if folder]
    return [folder for folder in dict.fromkeys([here, *named, config / "ratematch" / here]) if folder.is_dir()]


def _text_of(path: Path) -> str:
    try:
        return read_text_file(path, MOST_BYTES)
    except UserError as error:
        raise CatalogError(str(error)) from None


def _read_each(paths: Iterable[Path], read: Callable[[Path], Named]) -> tuple[dict[str, Named], list[str]]:
    """What ``read`` makes of ``paths``, by name, the first of a name; and why others could not be read."""
    known: dict[str, Named] = {}
    faults: list[str] = []
    for path in paths:
        try:
            one = read(path)
        except CatalogError as error:
            faults.append(str(error))
        else:
            known.setdefault(one.name, one)
    return known, faults


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
    if f"{wanted}.yaml" in _shipped("gpus") and next(_own_files(), None) is None:
        return _parse_shipped_gpu(f"{wanted}.yaml")
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
    return _folders(GPUS, GPUS_VARIABLE)


def read_gpu(path: Path) -> Gpu:
    """The GPU type of a file, which knows where it came from.

    Raises:
        CatalogError: it cannot be read, or every problem of it.
    """
    return parse_gpu(_text_of(path), str(path), str(path.absolute()))


def _read_own() -> tuple[dict[str, Gpu], list[str]]:
    """GPU types of people's files by name, the first of a name; and why other files could not be read."""
    return _read_each(_own_files(), read_gpu)


def _own_files() -> Iterator[Path]:
    for folder in gpu_folders():
        yield from sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


@cache
def _shipped_gpus() -> dict[str, Gpu]:
    gpus = [_parse_shipped_gpu(file) for file in _shipped("gpus")]
    return {gpu.name: gpu for gpu in gpus}


@cache
def _parse_shipped_gpu(file: str) -> Gpu:
    return parse_gpu(_shipped_text("gpus", file), file)
