"""Where servers keep what they compile, from one start to the next and from one experiment to the next."""

from __future__ import annotations

import re

from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment

COMPILED = (("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("CUDA_CACHE_PATH", "cuda"))
"""Variables of what both engines compile with, and the folder of each."""


def cache_env(experiment: Experiment, cluster: Cluster, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Variables that have a server compile into the profile's ``caches``, below it by engine, version, model and GPU
    type; ``more``: an engine's own variables, and the folder of each. Nothing where the profile names no folder: the
    engines' own places, in the home folder, are then kept or not as that is.
    """
    if cluster.caches is None or cluster.emulated:
        return ()
    engine = experiment.engine
    parts = (f"{engine.name}-{engine.version}", f"{experiment.model}-{experiment.gpu}")
    folder = "/".join((cluster.caches.rstrip("/"), *(re.sub(r"[^\w.-]", "_", part) for part in parts)))
    return tuple((name, f"{folder}/{below}") for name, below in (*COMPILED, *more))
