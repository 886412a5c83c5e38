"""The GPUs of this machine, as ``nvidia-smi`` shows them: for profiles with ``gpu: auto``."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ratematch.errors import CatalogError

ASK = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
ANSWER_S = 60.0
"""Without persistence mode the driver loads first, on many GPUs for tens of seconds."""

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class LocalGpus:
    """``name``: of every one of them in the catalog. ``count``: how many."""

    name: str
    count: int


def find_gpus(known: Sequence[str], ask: Callable[[], str] | None = None) -> LocalGpus:
    """The GPUs here. ``known``: names in the catalog. ``ask``: what gives the answer of :data:`ASK`.

    Raises:
        CatalogError: no GPU, several kinds, one that is not in the catalog, or only some of them visible.
    """
    told = [line.strip() for line in (ask or _ask)().splitlines() if line.strip()]
    if not told or any(line.lower().startswith("no devices") for line in told):
        raise CatalogError("this machine has no GPU: nvidia-smi shows none")
    if len(set(told)) > 1:
        raise CatalogError(f"this machine has different GPUs ({', '.join(sorted(set(told)))}): figures need one kind")
    visible = os.environ.get(VISIBLE)
    if visible is not None and visible != ",".join(map(str, range(len(told)))):
        raise CatalogError(f"{VISIBLE}={visible} hides GPUs of this machine; servers are given theirs: unset it")
    words = re.findall(r"[a-z]+\d+[a-z]*", told[0].lower())
    found = next((word for word in words if word in known), None)
    if found is None:
        raise CatalogError(f"{told[0]} is not in the catalog of GPUs ({', '.join(known)}): its memory is not known")
    return LocalGpus(found, len(told))


def _ask() -> str:
    try:
        done = subprocess.run(ASK, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except FileNotFoundError as error:
        raise CatalogError("this machine has no GPU that could be found: nvidia-smi is not on PATH") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CatalogError(f"nvidia-smi does not answer ({error})") from error
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[:160]
        raise CatalogError(f"this machine has no GPU that can be used: nvidia-smi says: {said}")
    return done.stdout
