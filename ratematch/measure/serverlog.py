"""What server logs show of a load or of a server's end, in fields that every engine can fill in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Symptom = Literal["stalled", "never_started", "all_failed"]
"""Trouble that leaves no line in a log.

``stalled``: servers stop iterating with requests in flight. ``never_started``: they never ran a first iteration.
``all_failed``: every request of a load failed, and the servers stayed up.
"""


@dataclass(frozen=True)
class LogSpan:
    """One generating worker during one load.

    ``step_ms``: median time of a generation step at the full batch, over ``iterations`` steps; ``mean_step_ms``:
    their mean. ``in_flight``: requests in that batch: under attention DP the log shows one rank, and the others are
    taken to be as full.
    """

    step_ms: float
    iterations: int
    in_flight: int
    mean_step_ms: float


@dataclass(frozen=True)
class Running:
    """What servers run, by their logs. ``choices``: by server and then by setting. ``notes``: where that is not what
    their files say, in words."""

    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def log_tok_s(in_flight: float, step_ms: float, acceptance_length: float) -> float:
    """Output tok/s of a worker by its own log = requests in the batch x tokens a step / step time.

    ``acceptance_length``: measured tokens per request and step, 1 without MTP.
    """
    return 1000 * in_flight * acceptance_length / step_ms


@dataclass(frozen=True)
class Diagnosis:
    """Why something went wrong, what to do about it, and where that is known from.

    ``name``: a short name of the cause that does not change with its wording. ``general``: it mostly follows from
    another cause, which the logs do not show.
    """

    cause: str
    remedy: str
    reference: str
    name: str = ""
    general: bool = False

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}"
