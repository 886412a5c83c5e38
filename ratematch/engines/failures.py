"""How a known failure is found in logs, and the failures that are the site's own, whatever engine runs on it.

Specific rows win over general ones wherever they stand: a ``Traceback`` or an ``MPI_ABORT`` follows almost every
failure and explains none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ratematch.measure.serverlog import Diagnosis


@dataclass(frozen=True)
class KnownFailure:
    """Lines that match ``pattern`` and what they mean. ``general``: counts only when no specific one is found."""

    pattern: str
    diagnosis: Diagnosis
    general: bool = False


def row(reference: str, pattern: str, cause: str, remedy: str, *, general: bool = False) -> KnownFailure:
    """A row of a table of known failures."""
    return KnownFailure(pattern, Diagnosis(cause, remedy, reference), general)


def find_failure(texts: Sequence[str], known: Sequence[KnownFailure]) -> Diagnosis | None:
    """The first of ``known`` in ``texts`` (logs, error answers), read in order; general ones only without another."""
    for general in (False, True):
        rows = [failure for failure in known if failure.general is general]
        for text in texts:
            matches = [(match.start(), failure) for failure in rows if (match := re.search(failure.pattern, text))]
            if matches:
                return min(matches, key=lambda pair: pair[0])[1].diagnosis
    return None


SITE: tuple[KnownFailure, ...] = (
    row("list", r"DUE TO TIME LIMIT", "the Slurm job reached its time limit", "ask for more time, or fewer loads"),
    row(
        "list",
        r"oom_kill|Out Of Memory",
        "the host ran out of memory",
        "ask Slurm for more memory, or start fewer servers on a node at a time",
    ),
    row(
        "list",
        r"slurmstepd: error: pyxis:|pyxis:.{0,200}(?:fail|error|couldn't|No such)",
        "the container could not be started",
        "see the pyxis lines; check the image and its mounts",
    ),
    row(
        "step",
        r"Couldn't find the specified plugin name for mpi/|can not load PMIx library|Invalid MPI type",
        "this Slurm does not have the MPI flavour that steps are started with",
        "set slurm.mpi in the cluster profile to one that `srun --mpi=list` names",
    ),
    row(
        "step",
        r"(?:unrecognized|invalid|unknown) option.{0,10}--(?:no-)?container-",
        "this Slurm cannot start containers: pyxis is not installed",
        "install it, or remove `container` from the cluster profile",
    ),
    row(
        "step",
        r"numactl.{0,60}(?:No such file|not found)|libnuma: .{0,80}out of range|numactl: .{0,60}invalid",
        "numactl is not there, or the node has no such NUMA nodes",
        'set numactl in the cluster profile, "" for none',
    ),
    row(
        "list",
        r"NCCL error",
        "NCCL failed",
        "see the lines before it; /dev/shm too small and two ranks on one GPU are common",
        general=True,
    ),
    row(
        "step",
        r"Unable to create step|More processors requested than permitted|Requested node configuration",
        "Slurm could not start the server's step",
        "see the srun line; slurm.gpus, slurm.tasks and slurm.srun of the cluster profile decide what is asked for",
        general=True,
    ),
    row("list", r"Segmentation fault", "the server crashed (segmentation fault)", "see its log", general=True),
    row(
        "list",
        r"MPI_ABORT",
        "one rank ended all of them",
        "the first error is in an earlier line, or in another rank's log (TLLM_ALL_RANK_LOG=1 shows all)",
        general=True,
    ),
    row(
        "list",
        r"slurmstepd: error",
        "Slurm ended the step",
        "see the slurmstepd line",
        general=True,
    ),
    row(
        "list",
        r"Traceback \(most recent call last\)",
        "the server ended with an exception that is not known here",
        "see the traceback in its log",
        general=True,
    ),
)
"""What Slurm, the container runtime and the machine say."""
