"""Which failures are worth another try in the same run of the controller, and how many.

What repeats itself (a configuration the engine refuses, a server that is never ready, out of memory) is tried once:
the next try would spend the same GPU-hours on the same end. What the cluster did to us (a node that died, a
preemption) is tried again. Nothing is tried for ever, and re-running the command always tries anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FailureClass = Literal[
    "node failure",
    "time limit",
    "preempted",
    "driver ended",
    "server died",
    "server hung",
    "port in use",
    "not installed",
    "not started",
    "not ready",
    "cancelled",
    "disk full",
    "refused",
    "failed",
]

RETRIES: Mapping[FailureClass, int] = {
    "node failure": 3,
    "time limit": 4,
    "preempted": 10,
    "driver ended": 1,
    "server died": 1,
    "server hung": 1,
    "port in use": 2,
    "not started": 4,
    "not installed": 0,
    "not ready": 0,
    "cancelled": 0,
    "disk full": 0,
    "refused": 0,
    "failed": 0,
}
"""Further tries for each class, in one run of the controller."""

OF_ERROR: Mapping[str, FailureClass] = {
    "ServerDied": "server died",
    "Stalled": "server hung",
    "PortInUse": "port in use",
    "NotInstalled": "not installed",
    "NotReady": "not ready",
    "DiskFull": "disk full",
    "UserError": "refused",
    "PlacementError": "refused",
}
"""Class of an error that ended a launch, by the name of its type; others are ``failed``."""

UNSETTLED: frozenset[FailureClass] = frozenset(
    (
        "node failure",
        "time limit",
        "preempted",
        "driver ended",
        "port in use",
        "not installed",
        "not started",
        "cancelled",
        "disk full",
    )
)
"""Failures that say nothing of the configuration: the same command may well measure it."""

REPEATS = (
    "out of memory",
    "insufficient",
    "unsupported",
    "invalid",
    "not divisible",
    "unknown to this version",
    "this version does not know",
    "does not know the model's architecture",
    "there is no model where",
    "the model is gated",
    "does not fit the gpu",
    "too old for the cuda",
    "no kernels for this kind of gpu",
    "a disk is full",
)
"""Words of a known cause (lower case) that the next start would meet again."""


OF_THE_SITE = (
    "does not have the command that was to be started",
    "has no tensorrt-llm commands",
    "has no vllm command",
    "the container image is not where the profile says",
    "the registry does not hand out the image",
    "a folder that is mounted into the container is not there",
    "cannot be started by this srun",
    "ranks found no pmi",
    "wrong flavour of srun --mpi",
    "there is no model where",
    "the model is gated",
    "does not know the model's architecture",
    "too old for the cuda",
    "no kernels for this kind of gpu",
)
"""Words of a known cause (lower case) that any other experiment of the same sweep would meet."""


@dataclass(frozen=True)
class Failure:
    """Why a job did not finish its experiment. ``progress``: loads it measured all the same."""

    kind: FailureClass
    message: str
    progress: int = 0

    def __str__(self) -> str:
        return self.message

    @property
    def of_the_site(self) -> bool:
        """Image, model, commands: what every experiment of the sweep is started with."""
        words = self.message.lower()
        return self.kind == "not installed" or any(known in words for known in OF_THE_SITE)


def tries_left(failure: Failure, earlier: list[Failure]) -> int:
    """Further tries after ``failure``, with ``earlier`` ones of the same experiment in this run.

    A time limit without a load measured in between would only be met again. A cause that a new start cannot change
    ends the tries of a dead server.
    """
    if failure.kind == "time limit" and not failure.progress and any(not before.progress for before in earlier):
        return 0
    if failure.of_the_site:
        return 0
    if failure.kind == "server died" and any(word in failure.message.lower() for word in REPEATS):
        return 0
    return max(0, RETRIES[failure.kind] - sum(before.kind == failure.kind for before in earlier))
