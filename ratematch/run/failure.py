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


@dataclass(frozen=True)
class Failure:
    """Why a job did not finish its experiment. ``progress``: loads it measured all the same."""

    kind: FailureClass
    message: str
    progress: int = 0

    def __str__(self) -> str:
        return self.message


def tries_left(failure: Failure, earlier: list[Failure]) -> int:
    """Further tries after ``failure``, with ``earlier`` ones of the same experiment in this run.

    A time limit without a load measured in between would only be met again. A cause that a new start cannot change
    ends the tries of a dead server.
    """
    if failure.kind == "time limit" and not failure.progress and any(not before.progress for before in earlier):
        return 0
    if failure.kind == "server died" and any(word in failure.message.lower() for word in REPEATS):
        return 0
    return max(0, RETRIES[failure.kind] - sum(before.kind == failure.kind for before in earlier))
