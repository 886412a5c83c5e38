"""The GPUs of this machine, as ``nvidia-smi`` shows them: for profiles with ``gpu: auto``."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ratematch.errors import CatalogError

ASK = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
ANSWER_S = 60.0
"""Without persistence mode the driver loads first, on many GPUs for tens of seconds."""

VISIBLE = "CUDA_VISIBLE_DEVICES"

MEMORY_DIFFERS = 0.1
"""How far a GPU's memory may be from the catalog's: drivers and ECC keep some per cent, another variant differs
more."""


@dataclass(frozen=True)
class LocalGpus:
    """``name``: of every one of them in the catalog. ``count``: how many."""

    name: str
    count: int


def find_gpus(known: Mapping[str, float], ask: Callable[[], str] | None = None) -> LocalGpus:
    """The GPUs here. ``known``: memory in bytes of those in the catalog. ``ask``: gives the answer of :data:`ASK`.

    Raises:
        CatalogError: no GPU, several kinds, one that is not in the catalog, or only some of them visible.
    """
    lines = [line.strip() for line in (ask or _list_gpus)().splitlines() if line.strip()]
    if not lines or any(line.lower().startswith("no devices") for line in lines):
        raise CatalogError("this machine has no GPU: nvidia-smi shows none")
    if len(set(lines)) > 1:
        kinds = ", ".join(sorted(set(lines)))
        raise CatalogError(f"this machine has different GPUs ({kinds}): figures need one kind")
    visible = os.environ.get(VISIBLE)
    if visible is not None and visible != ",".join(map(str, range(len(lines)))):
        raise CatalogError(f"{VISIBLE}={visible} hides GPUs of this machine; servers are given theirs: unset it")
    name, _, mebibytes = lines[0].rpartition(",")
    memory_b = float(mebibytes) * 2**20 if mebibytes.strip().isdigit() else 0.0
    alike = _named_like(name, known)
    if not alike:
        raise CatalogError(
            f"{name} is not in the catalog of GPUs ({', '.join(known)}): its rates are not known; write them into "
            "gpus/NAME.yaml (slurm/README.md has the keys)"
        )
    gpu = min(alike, key=lambda each: abs(memory_b / known[each] - 1))  # variants differ in memory
    if abs(memory_b / known[gpu] - 1) > MEMORY_DIFFERS:
        here, there = memory_b / 1e9, known[gpu] / 1e9
        raise CatalogError(
            f"{name} has {here:.0f} GB here, and {gpu} in the catalog has {there:.0f}: another variant"
        )
    return LocalGpus(gpu, len(lines))


def _named_like(product: str, known: Iterable[str]) -> list[str]:
    """The names that a product's name has as a word (``NVIDIA H200``), or word for word (``RTX PRO 6000``); a variant
    (``gh200-144gb``) goes with the name it begins with."""
    words = re.findall(r"[a-z]+\d+[a-z]*", product.lower())
    alike = [name for name in known if name.partition("-")[0] in words or name in words]
    squeezed = re.sub(r"[^a-z0-9]", "", product.lower())
    return alike or [name for name in known if re.sub(r"[^a-z0-9]", "", name) in squeezed]


def _list_gpus() -> str:
    try:
        done = subprocess.run(ASK, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except FileNotFoundError as error:
        raise CatalogError("this machine has no GPU that could be found: nvidia-smi is not on PATH") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CatalogError(f"nvidia-smi does not answer ({error})") from error
    if done.returncode:
        output = " ".join((done.stdout + done.stderr).split())[:160]
        raise CatalogError(f"this machine has no GPU that can be used: nvidia-smi says: {output}")
    return done.stdout
