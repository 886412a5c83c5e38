"""Finds and reads the data that ship with the package: models and GPUs."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ratematch.errors import CatalogError
from ratematch.plan.model import Gpu, Mla, Model, Moe
from ratematch.plan.numbers import brief

# ------------------------------------------------------------------------------------------------ models and GPUs


def model_names() -> list[str]:
    """Canonical names of the models that ship with the package, sorted."""
    return sorted(_entries("models"))


def gpu_names() -> list[str]:
    """Canonical names of the GPU types that ship with the package, sorted."""
    return sorted(_entries("gpus"))


def load_model(name: str) -> Model:
    """The model called ``name``: a canonical name or an alias, in any case, with or without ``org/`` before it.

    Raises:
        CatalogError: no such model; the message lists the known ones.
    """
    content = dict(_find("models", "model", name))
    if moe := content.get("moe"):
        content["moe"] = Moe(**moe)
    if mla := content.get("mla"):
        content["mla"] = Mla(**mla)
    for key in ("mtp_acceptance", "aliases"):
        content[key] = tuple(content.get(key, ()))
    return Model(**content)


def load_gpu(name: str) -> Gpu:
    """The GPU type called ``name``: a canonical name or an alias, in any case.

    Raises:
        CatalogError: no such GPU type; the message lists the known ones.
    """
    content = dict(_find("gpus", "GPU", name))
    content["aliases"] = tuple(content.get("aliases", ()))
    return Gpu(**content)


def _find(folder: str, noun: str, name: str) -> dict[str, Any]:
    wanted = name.rsplit("/", 1)[-1].strip().lower()
    entries = _entries(folder)
    for entry in entries.values():
        if wanted == entry["name"] or wanted in entry.get("aliases", ()):
            return entry
    spellings = {alias: key for key, entry in entries.items() for alias in (key, *entry.get("aliases", ()))}
    close = difflib.get_close_matches(wanted, list(spellings), n=1)
    hint = f"; did you mean {spellings[close[0]]}?" if close else ""
    raise CatalogError(f"{noun} {brief(name)} is not known{hint}; known: {', '.join(sorted(entries))}")


@cache
def _entries(folder: str) -> dict[str, dict[str, Any]]:
    files = resources.files("ratematch").joinpath("data", folder)
    contents = [
        yaml.safe_load(file.read_text(encoding="utf-8")) for file in files.iterdir() if file.name.endswith(".yaml")
    ]
    return {content["name"]: content for content in contents}
