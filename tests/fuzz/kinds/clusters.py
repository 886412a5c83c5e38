"""Cluster profiles: known ones, spoilt."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from ratematch.inputs.clusterfile import parse_cluster
from ratematch.inputs.find import OWN_CLUSTERS
from tests.fuzz.chance import YAML_VALUES, spoil_lines
from tests.fuzz.kinds.sweeps import SMALL, with_places
from tests.fuzz.search import Ending, Kind, call, type_in

FULL = """\
name: full
about: every key
gpu: gb200
gpus_per_node: 4
nodes: 18
port_base: 21000
start_minutes: 30
load_minutes: 5.5
environment: {UCX_TLS: "all", A: b}
model_paths: {deepseek-r1: /models/r1}
command: [numactl, trtllm-serve]
slurm:
  partition: gpu
  account: a
  time: {factor: 2, floor_minutes: 10, max_minutes: 240}
  segment: 18
  gpus: gpus-per-node
  exclusive: true
  mpi: pmix
  exclude: [node7]
  sbatch: ["--comment=x", --hint=nomultithread]
  srun: ["--cpu-bind=none"]
container:
  image: /images/x.sqsh
  mounts: ["/models:/models:ro"]
  mount_home: false
"""
KEYS = (
    *("name", "about", "gpu", "gpus_per_node", "nodes", "emulated", "command", "launcher", "numactl", "port_base"),
    *(
        "environment",
        "model_paths",
        "start_minutes",
        "load_minutes",
        "ready_minutes",
        "stall_minutes",
        "stage_weights",
        "prepare_minutes",
        "slurm",
        "container",
    ),
    *(
        "check_paths",
        "partition",
        "account",
        "qos",
        "reservation",
        "time",
        "segment",
        "gpus",
        "gres",
        "exclusive",
        "mpi",
    ),
    *(
        "tasks",
        "exclude",
        "senders",
        "sbatch",
        "srun",
        "prologue",
        "image",
        "mounts",
        "mount_home",
        "factor",
        "<<",
        "é",
        "~",
        "1",
    ),
)


@cache
def _texts() -> list[str]:
    return [FULL, *(path.read_text(encoding="utf-8") for path in sorted(OWN_CLUSTERS.glob("*.yaml")))]


def make(rng: random.Random) -> str:
    return spoil_lines(rng, rng.choice(_texts()), KEYS, YAML_VALUES)


def run(text: str, folder: Path) -> Ending:
    """Every problem has a place in the file; with what has none a sweep can be planned, or is refused."""
    ending = with_places(call(lambda: parse_cluster(text, "c.yaml", OWN_CLUSTERS)), "c.yaml:")
    if ending.how == "refused":
        return ending
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    (folder / "s.yaml").write_text(SMALL, encoding="utf-8")
    return type_in("plan", str(folder / "s.yaml"), "--cluster", str(folder / "c.yaml"))


KIND = Kind("clusters", make, run, few=120)
