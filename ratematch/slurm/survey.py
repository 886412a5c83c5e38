"""What a cluster is, as far as Slurm says it: partitions, GPUs of their nodes, accounts, MPI flavours, containers.

A handful of queries, each once; what a site does not answer stays unknown.
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ratematch.slurm.queue import ANSWER_S, ask_slurm

GRES = re.compile(r"gpu(?::(?P<type>[^:(,]+))?:(?P<count>\d+)")
"""``gpu:8``, ``gpu:h200:8(S:0-1)``: the type may be missing."""


SEGMENT_SINCE = (23, 11)
"""The first Slurm that has ``--segment``."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition that are alike. ``gpus``: of one node, 0 where Slurm was told of none. ``gpu_type``: as
    the site spells it, ``None`` where it does not. ``minutes``: the longest job, ``None`` without a limit."""

    partition: str
    nodes: int
    gpus: int = 0
    gpu_type: str | None = None
    minutes: int | None = None
    default: bool = False
    up: bool = True


@dataclass(frozen=True)
class Survey:
    """``version``: of Slurm, as it spells it. ``accounts``: those that the user may charge, empty where nobody keeps
    them. ``mpi``: flavours that ``srun --mpi`` takes. ``containers``: srun takes ``--container-image`` (pyxis).
    ``block``: nodes of one block where the topology has blocks."""

    version: str
    groups: tuple[NodeGroup, ...]
    accounts: tuple[str, ...] = ()
    mpi: tuple[str, ...] = ()
    containers: bool = False
    block: int | None = None

    @property
    def has_segments(self) -> bool:
        """``sbatch --segment`` is there."""
        return version_numbers(self.version) >= SEGMENT_SINCE


def version_numbers(text: str) -> tuple[int, int]:
    """(24, 5) of ``slurm 24.05.8``; (0, 0) where there is no version in it."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def survey_slurm() -> Survey | None:
    """What this login node's Slurm says; ``None`` where there is none, or it does not answer."""
    if shutil.which("sinfo") is None:
        return None
    listed = ask_slurm(["sinfo", "--noheader", "--exact", "--format=%P|%D|%G|%a|%l"])
    if listed is None:
        return None
    return Survey(
        version=(ask_slurm(["sinfo", "--version"]) or "").strip(),
        groups=read_groups(listed),
        accounts=list_accounts() or (),
        mpi=read_mpi(both_streams(["srun", "--mpi=list"])),
        containers="--container-image" in (ask_slurm(["srun", "--help"]) or ""),
        block=read_block(ask_slurm(["scontrol", "show", "topology"]) or ""),
    )


def read_groups(listed: str) -> tuple[NodeGroup, ...]:
    """Of ``sinfo --format=%P|%D|%G|%a|%l``; lines of another form are left out. Groups without a node are too."""
    groups = []
    for line in listed.splitlines():
        parts = line.strip().split("|")
        if len(parts) != 5 or not parts[1].isdigit() or int(parts[1]) == 0:
            continue
        partition, nodes, gres, state, limit = parts
        gpus, gpu_type = read_gres(gres)
        name, default = partition.removesuffix("*"), partition.endswith("*")
        groups.append(NodeGroup(name, int(nodes), gpus, gpu_type, read_minutes(limit), default, state == "up"))
    return tuple(groups)


def read_gres(text: str) -> tuple[int, str | None]:
    """(GPUs of a node, their type) of Slurm's list of generic resources; (0, ``None``) without a GPU.

    Of nodes with several types all GPUs are counted and no type is named.
    """
    found = [(int(match["count"]), match["type"]) for match in GRES.finditer(text)]
    types = {kind for _, kind in found}
    return sum(count for count, _ in found), types.pop() if len(types) == 1 else None


def read_minutes(text: str) -> int | None:
    """Slurm's spellings of a time (``M``, ``M:S``, ``H:M:S``, ``D-H[:M[:S]]``) in whole minutes; ``None`` for
    ``infinite`` and what is no time."""
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not all(_is_count(part) for part in parts) or len(parts) > 3 or (dash and not _is_count(days)):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes = numbers[0], numbers[1] if len(numbers) > 1 else 0
        return (int(days) * 24 + hours) * 60 + minutes
    return numbers[0] * 60 + numbers[1] if len(numbers) == 3 else numbers[0]


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def read_mpi(output: str) -> tuple[str, ...]:
    """The flavours in the output of ``srun --mpi=list``, whose form differs between releases."""
    return tuple(dict.fromkeys(re.findall(r"^(?:srun:)?\s*([a-z]\w*)\s*$", output, re.MULTILINE)))


def read_block(topology: str) -> int | None:
    """Nodes of the smallest block of ``scontrol show topology``; ``None`` where the topology has no blocks."""
    sizes = [int(size) for size in re.findall(r"BlockName=\S+.*?BlockSize=(\d+)", topology)]
    return min(sizes, default=None)


def both_streams(argv: Sequence[str]) -> str:
    """Both streams of a command: srun lists its MPI plugins on one or the other."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"{done.stdout}\n{done.stderr}"


def list_accounts() -> tuple[str, ...] | None:
    """The accounts that the user may charge; ``None`` where this Slurm keeps none."""
    asked = ["sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={getpass.getuser()}", "format=account"]
    output = ask_slurm(asked) if shutil.which("sacctmgr") else None
    return None if output is None else tuple(sorted(set(output.split())))
